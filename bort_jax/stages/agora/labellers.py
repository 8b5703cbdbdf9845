# SPDX-License-Identifier: Apache-2.0
"""Socrates as anything that labels: a checkpoint, a Python function, or a command.

A function or a command is asked about every text once; its calls are counted, and its answers kept.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from queue import Empty, Queue
from tempfile import TemporaryFile
from threading import Thread
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from bort_jax.agora import (
    Dataset,
    Ledger,
    OneVsRest,
    Pace,
    Texts,
    Unanswered,
    cache_labels,
    read_answer,
)
from bort_jax.interop import Checkpoint
from bort_jax.stages.agora.material import Material
from bort_jax.stages.agora.models import labeller

COMMAND, PYTHON = "command:", "python:"
JUDGED = 4  # of the budget one call in so many judges Socrates on validation


def is_paid(socrates: str) -> bool:
    """Whether Socrates is a command or a function, whose calls may cost something."""
    return socrates.startswith((COMMAND, PYTHON))


@dataclass(frozen=True)
class Asking:
    """How Socrates is asked.

    Attributes:
      calls: a budget: texts that Socrates may be asked about in all, spread over the rounds; 0: no
        limit, and `samples_per_error` says how many. A command or a function is judged on
        validation by a quarter of it; a checkpoint is judged on all of it, beside the budget.
      cost_per_call: what one call costs, in whatever currency, for the report.
      calls_per_minute: of a command or a function, at the most; 0: no limit.
      call_timeout: seconds that a command may take for an answer.
    """

    calls: int = 0
    cost_per_call: float = 0.0
    calls_per_minute: float = 0.0
    call_timeout: float = 60.0

    def __post_init__(self):
        if min(self.calls, self.cost_per_call, self.calls_per_minute) < 0:
            raise ValueError("calls, cost_per_call and calls_per_minute must be 0 or more")
        if not self.call_timeout > 0:
            raise ValueError(f"call_timeout must be positive; got {self.call_timeout:g}")


class Socrates(NamedTuple):
    """Socrates, ready to be asked.

    Attributes:
      label_fn: points to probabilities [n, c].
      judged: rows of each half of validation that he is judged on; None: all.
      ledger: of one whose calls are counted.
    """

    label_fn: Callable[[np.ndarray], Float[np.ndarray, "n c"]]
    judged: int | None = None
    ledger: Ledger | None = None

    def judge(self, points: Dataset) -> tuple[np.ndarray, np.ndarray]:
        """His answers on some rows of validation, evenly spread, and their labels."""
        count = len(points.y)
        picked = min(self.judged or count, count)
        rows = np.arange(picked) * count // max(1, picked)
        answers = self.label_fn(points.x[rows])
        answered = ~np.isnan(answers).any(axis=1)
        return answers[answered], points.y[rows][answered]

    def bill(self, asked: int, *, cost_per_call: float) -> dict[str, float]:
        """Calls, those that judged him among them where they are counted, and what they cost.

        Args:
          asked: new texts that he was asked about.
        """
        calls = self.ledger.sent if self.ledger else asked
        return {"calls": calls, "cost": calls * cost_per_call}

    def new_texts(self, calls: int) -> int:
        """What of a budget is left for new texts, beside judging."""
        return calls - (2 * self.judged if self.judged else 0)


def socrates_of(
    name: str, checkpoint: Checkpoint | None, material: Material, asking: Asking, *, folder: Path
) -> Socrates:
    """Socrates by what the option says.

    Args:
      checkpoint: his, where he is one.
      folder: where a paid one's answers are kept.

    Raises:
      ValueError: there is no such function, the budget is too small to judge him by, or the run
        is spread over several processes.
    """
    if checkpoint is not None:
        return Socrates(cache_labels(labeller(checkpoint, material)))
    if jax.process_count() > 1:
        raise ValueError("a command or a function as Socrates labels in one process only")
    halves = min(len(material.steer.points.y), len(material.report.points.y))
    judged = min(asking.calls // JUDGED // 2, halves) if asking.calls else None
    if asking.calls and asking.calls < 4 * JUDGED:  # of either half two
        raise ValueError(
            f"--calls {asking.calls} is too little to judge Socrates by: give {4 * JUDGED} or more"
        )
    classes = classes_of(material)
    open_fn = command_of(name, classes, material.task.columns, timeout=asking.call_timeout)
    if name.startswith(PYTHON):
        open_fn = function_of(name, classes)
    ledger = Ledger(
        folder / "answers.jsonl",
        open_fn,
        identity=name,
        classes=len(classes),
        most=asking.calls or None,
        pace=Pace(per_minute=asking.calls_per_minute),
    )
    for half in (material.steer, material.report):
        material.points(half.examples)  # he reads the texts as they are

    def label(x: np.ndarray) -> Float[np.ndarray, "n c"]:
        return cast_answers(ledger(material.texts(x)), material)

    return Socrates(label, judged, ledger)


def classes_of(material: Material) -> tuple[str, ...]:
    """The classes that a labeller names: the task's, where that has any."""
    cast = material.cast
    return tuple(cast.classes if isinstance(cast, OneVsRest) else cast.labels)


def cast_answers(answers: Float[np.ndarray, "n k"], material: Material) -> np.ndarray:
    """Probabilities of the cast classes."""
    cast = material.cast
    if not isinstance(cast, OneVsRest):
        return answers
    positive = answers[:, cast.classes.index(cast.positive)]
    return np.stack([1 - positive, positive], axis=1)


def function_of(name: str, classes: Sequence[str]) -> Callable[[], AbstractContextManager]:
    """A Python function `MODULE:FUNCTION` as a ledger's `open_fn`: a list of texts, or of tuples of
    them, to a list of class names or of probabilities.

    Raises:
      ValueError: there is no such function.
    """
    module, _, attribute = name.removeprefix(PYTHON).partition(":")
    sys.path.insert(0, os.getcwd())  # as `python -m` does
    try:
        function = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"--socrates {name}: {error}; expected {PYTHON}MODULE:FUNCTION") from error
    finally:
        sys.path.remove(os.getcwd())

    def ask(texts: Sequence[Texts]) -> Iterator[np.ndarray]:
        try:
            answers = list(function([one[0] if len(one) == 1 else one for one in texts]))
        except Exception as error:
            raise Unanswered(f"{type(error).__name__}: {error}") from error
        if len(answers) != len(texts):
            raise ValueError(f"{len(answers)} answers to {len(texts)} texts")
        return (read_answer(answer, classes) for answer in answers)

    return lambda: nullcontext(ask)


def command_of(
    name: str, classes: Sequence[str], columns: Sequence[str], *, timeout: float
) -> Callable[[], AbstractContextManager]:
    """A command as a ledger's `open_fn`. It reads a JSON line a text, with the task's columns, and
    writes a JSON line for each, in their order: `{"label": "yes"}`, or `{"probabilities":
    {"yes": 0.9, …}}`. It is started once a round, and again where it died or was too slow.
    """
    words = shlex.split(name.removeprefix(COMMAND))

    @contextmanager
    def opened() -> Iterator[Callable]:
        running: list[Command] = []

        def ask(texts: Sequence[Texts]) -> Iterator[np.ndarray]:
            command = running.pop() if running else Command(words)
            try:
                command.send(json.dumps(request(one, columns)) for one in texts)
                for _ in texts:
                    yield read_answer(parse_line(command.line(timeout)), classes)
            except BaseException:
                command.kill()
                raise
            running.append(command)

        try:
            yield ask
        finally:
            for command in running:
                command.kill()

    return opened


def request(texts: Texts, columns: Sequence[str]) -> dict:
    named = len(texts) == len(columns)
    return dict(zip(columns, texts, strict=True)) if named else {"texts": texts}


def parse_line(line: str) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not a JSON line: {line[:80]!r}") from error


class Command:
    """A running command that answers lines with lines; both pipes have a thread of their own."""

    def __init__(self, words: Sequence[str]):
        self.errors = TemporaryFile()
        pipe = subprocess.PIPE
        try:
            self.process = subprocess.Popen(
                words, stdin=pipe, stdout=pipe, stderr=self.errors, start_new_session=True
            )
        except (OSError, IndexError) as error:
            self.errors.close()
            raise ValueError(f"cannot be started: {error}") from error
        self.lines: Queue[bytes] = Queue()
        self.threads = [Thread(target=self._listen, daemon=True)]
        self.threads[0].start()

    def send(self, requests: Iterable[str]) -> None:
        text = "".join(one + "\n" for one in requests).encode()
        self.threads.append(Thread(target=self._write, args=(text,), daemon=True))
        self.threads[-1].start()

    def line(self, timeout: float) -> str:
        """The next answer; raises Unanswered where the command ends, or takes too long."""
        try:
            line = self.lines.get(timeout=timeout)
        except Empty:
            advice = "does it flush every line? --call-timeout"
            raise Unanswered(f"no answer within {timeout:g} s; {advice}") from None
        if not line:
            raise Unanswered(f"it ended with code {self.process.wait()}{self._last_words()}")
        return line.decode(errors="replace").strip()

    def kill(self) -> None:
        """Ends the command and what it started."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        for thread in self.threads:
            thread.join()
        self.errors.close()
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(BrokenPipeError):  # what it did not read
                if pipe:
                    pipe.close()

    def _listen(self) -> None:
        for line in self.process.stdout or ():
            self.lines.put(line)
        self.lines.put(b"")

    def _write(self, text: bytes) -> None:
        try:
            if self.process.stdin:
                self.process.stdin.write(text)
                self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it ended; `line` says so

    def _last_words(self) -> str:
        self.errors.seek(0)
        said = self.errors.read().decode(errors="replace").split("\n")
        last = [line for line in said if line.strip()][-1:]
        return "".join(f": {line.strip()[:200]}" for line in last)

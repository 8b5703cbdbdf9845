# SPDX-License-Identifier: Apache-2.0
"""The calls of a labeller that costs something: a budget, and answers that are kept.

Every request is written down before it is sent and every answer before it is used. So no number of
kills makes the requests more than the budget, and no answer is paid for twice: a text whose request
was sent, and whose answer a kill took, is not asked about again.
"""

import json
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from bort_jax.storage.checks import expect, explain_damage
from bort_jax.storage.growing import GrowingLines, append_records

Texts = tuple[str, ...]  # the one or two texts of a row
AskFn = Callable[[Sequence[Texts]], Iterable[Float[np.ndarray, " c"]]]


class Unanswered(Exception):
    """A labeller failed in a way that may pass: it died, or did not answer in time."""


class Pace(NamedTuple):
    """How a labeller is asked.

    Attributes:
      at_once: requests that are sent together: the most that a kill can cost.
      per_minute: requests, at the most; 0: no limit.
      tries: failures in a row after which it is given up.
      backoff: seconds before the second try; they double.
    """

    at_once: int = 16
    per_minute: float = 0.0
    tries: int = 4
    backoff: float = 1.0


class Ledger:
    """A labeller with a memory and a budget.

    Args:
      file: where requests and answers are written, and found again.
      open_fn: opens the labeller while there is something to ask: a context with a function of
        texts to their probabilities, one by one in their order. That raises `Unanswered` where
        asking again may help, ValueError where it cannot.
      identity: of the labeller; another one's answers are not its own.
      classes: how many.
      most: requests that may be sent in all; None: no limit.

    Attributes:
      sent: requests so far.
    """

    def __init__(
        self,
        file: Path,
        open_fn: Callable[[], AbstractContextManager[AskFn]],
        *,
        identity: str,
        classes: int,
        most: int | None = None,
        pace: Pace | None = None,
    ):
        file.parent.mkdir(parents=True, exist_ok=True)
        GrowingLines(file).close()  # a line that a kill tore is cut off
        self.file, self.open_fn, self.identity = file, open_fn, identity
        self.classes, self.most, self.pace = classes, most, pace or Pace()
        self.answers: dict[str, list[float]] = {}
        self.sent, self.lost = 0, set()
        with explain_damage(file):
            for line in file.read_bytes().splitlines():
                self._note(json.loads(line))

    @property
    def left(self) -> float:
        """Requests that may still be sent."""
        return np.inf if self.most is None else self.most - self.sent

    def __call__(self, texts: Sequence[Texts]) -> Float[np.ndarray, "n c"]:
        """Probabilities of each; NaN where the budget is spent, or a kill took the answer.

        Raises:
          ValueError: the labeller cannot be relied on; what it answered before is kept.
        """
        keys = [self._key(one) for one in texts]
        new = {key: one for key, one in zip(keys, texts, strict=True) if self._is_new(key)}
        if new and self.left > 0:
            with self.open_fn() as ask_fn:
                self._ask_new(new, ask_fn)
        unknown = [np.nan] * self.classes
        found = [self.answers.get(key, unknown) for key in keys]
        return np.array(found, np.float32).reshape(len(keys), self.classes)

    def _ask_new(self, waiting: dict[str, Texts], ask_fn: AskFn) -> None:
        failures = 0
        while waiting and self.left > 0:
            batch = list(waiting)[: int(min(self.pace.at_once, self.left))]
            self._write({"sent": batch})
            try:
                answered = ask_fn([waiting[key] for key in batch])
                for key, answer in zip(batch, answered, strict=True):
                    self._write({"key": key, "p": [float(p) for p in answer]})
                failures = 0
            except (Unanswered, ValueError) as error:
                self._write({"failed": [key for key in batch if key not in self.answers]})
                failures += 1
                if isinstance(error, ValueError) or failures >= self.pace.tries:
                    raise ValueError(f"Socrates ({self.identity}): {error}") from error
                time.sleep(self.pace.backoff * 2 ** (failures - 1))
            waiting = {key: one for key, one in waiting.items() if self._is_new(key)}
            if self.pace.per_minute and waiting:
                time.sleep(60 * len(batch) / self.pace.per_minute)

    def _is_new(self, key: str) -> bool:
        return key not in self.answers and key not in self.lost

    def _key(self, texts: Texts) -> str:
        return blake2b("\x1f".join((self.identity, *texts)).encode(), digest_size=16).hexdigest()

    def _write(self, record: dict) -> None:
        append_records(self.file, [record])
        self._note(record)

    def _note(self, record: dict) -> None:
        """Takes a line of the file in: what was sent is lost until it is answered or failed."""
        sent, failed = record.get("sent", ()), record.get("failed", ())
        self.sent += len(sent)
        self.lost.update(sent)
        self.lost.difference_update(failed)
        if "key" in record:
            answer = [float(p) for p in record["p"]]
            expect(len(answer) == self.classes, f"{len(answer)} probabilities")
            self.answers[record["key"]] = answer
            self.lost.discard(record["key"])


def read_answer(
    answer: object, classes: Sequence[str], *, tolerance: float = 0.01
) -> Float[np.ndarray, " c"]:
    """One answer as probabilities of the classes.

    Args:
      answer: the name of a class; a probability for each class, in their order; or an object with
        `label`, or with `probabilities` by the names of the classes.

    Raises:
      ValueError: it is none of these.
    """
    classes = list(classes)
    if isinstance(answer, dict):
        if "probabilities" not in answer:
            answer = answer.get("label", answer)
        elif isinstance(answer["probabilities"], dict):
            given = answer["probabilities"]
            unknown = [name for name in given if name not in classes]
            if unknown or len(given) < len(classes):
                raise ValueError(f"probabilities of {_names(given)}, not of {_names(classes)}")
            answer = [given[name] for name in classes]
        else:
            answer = answer["probabilities"]
    if isinstance(answer, str | int | np.integer) and not isinstance(answer, bool):
        if str(answer) not in classes:
            raise ValueError(f"unknown class {str(answer)[:80]!r}; there are {_names(classes)}")
        return np.eye(len(classes), dtype=np.float32)[classes.index(str(answer))]
    try:
        chances = np.asarray(answer, np.float64)
    except (TypeError, ValueError):
        chances = np.zeros(0)
    if chances.shape != (len(classes),):
        raise ValueError(f"neither a class nor {len(classes)} probabilities: {str(answer)[:80]!r}")
    if not (np.isfinite(chances).all() and chances.min() >= 0):
        raise ValueError(f"probabilities must be 0 or more; got {chances.tolist()}")
    if abs(chances.sum() - 1) > tolerance:
        raise ValueError(f"probabilities must sum to 1; got {chances.tolist()}")
    return (chances / chances.sum()).astype(np.float32)


def _names(names: Iterable) -> str:
    return ", ".join(map(str, names))

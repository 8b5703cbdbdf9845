# SPDX-License-Identifier: Apache-2.0
"""Several processes end together: when one raises, dies or hangs, every one says which and why.

Each process writes what it does to `OUT/ranks/K.json` and reads of the others there: that needs no
connection which could hang as well. Of a ring every process watches the next for signs of life,
so that reads grow as the processes do. A failed one leaves `K.failed`, which all look for.
"""

import json
import math
import os
import re
import shutil
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from bort_jax.engine.processes import barrier, is_leader
from bort_jax.engine.signals import Interrupted
from bort_jax.storage.files import write_json, write_text

STALL_SECONDS = 30.0  # that a step may always take
STALL_VARIABLE = "BORT_JAX_STALL_SECONDS"
TIMES_SLOWER = 5  # a step may take so many times the slowest of the last ones
WIDER = 60  # a compilation, an evaluation, a save may take so many times STALL_SECONDS
FAILED, RETRY = 1, 75  # exit codes; 75 (EX_TEMPFAIL): another process failed, run it again
FOLDER = "ranks"


class Beat(NamedTuple):
    """One process's word on itself: a sign of life, the step that it began, its phase."""

    number: int
    step: int
    phase: str


class Watchdog:
    """One process's view of itself and of the others.

    Args:
      folder: where the processes write; every one of them sees it.
      rank: this process.
      ranks: how many there are.
      floor: seconds that a step may always take; a process without a sign of life for half of
        them counts as dead.
    """

    def __init__(self, folder: Path, *, rank: int, ranks: int, floor: float):
        self.folder, self.rank, self.ranks = folder, rank, ranks
        self.floor, self.interval = floor, floor / 6
        self.count, self.step, self.phase, self.waited = 0, 0, "starting", 0.0
        self.slowest = deque([0.0], maxlen=64)
        self.neighbour, self.silence = Beat(0, 0, "starting"), 0.0
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def begin(self, step: int, phase: str = "training") -> None:
        """A step, or a phase of it, begins; the limit on its time is that phase's."""
        if self.phase == phase == "training":
            self.slowest.append(self.waited)
        self.step, self.phase, self.waited = step, phase, 0.0

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """Within, the wide limit holds."""
        before = self.phase
        self.begin(self.step, phase)
        yield
        self.begin(self.step, before)

    def watch_steps(self, step_fn: Callable, *, start: int) -> Callable:
        """`step_fn` of `fit`, each of whose calls is a step that begins."""
        shapes, step = set(), start

        def run(state, batch):
            nonlocal step
            step += 1
            shape = str(jax.tree.map(np.shape, batch))
            self.begin(step, "training" if shape in shapes else "compiling")
            shapes.add(shape)
            return step_fn(state, batch)

        return run

    def limit(self) -> float:
        """Seconds that the present phase may take."""
        if self.phase == "starting":  # one process builds the corpus, the others wait
            return math.inf
        if self.phase != "training":
            return self.floor * WIDER
        return max(self.floor, TIMES_SLOWER * max(self.slowest))

    def explain(self, error: BaseException) -> None:
        """Ends this process for an exception, once it is known whether another's death was why."""
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
        traceback.print_exception(error)
        self._say(reason)
        if _of_the_runtime(error):
            self.begin(self.step, "failed")
            time.sleep(self.floor)  # meanwhile the thread finds who is dead, and says so
        self.stopped.set()
        self._note(self.rank, reason)
        self._leave(FAILED)

    def close(self) -> None:
        self.stopped.set()
        self.thread.join()

    def _watch(self) -> None:
        before = time.monotonic()
        while not self.stopped.wait(self.interval):
            now = time.monotonic()
            # A process that was itself stopped for a while has not been waiting.
            passed, before = min(now - before, 2 * self.interval), now
            self.waited, self.silence = self.waited + passed, self.silence + passed
            self.count += 1
            self._write_beat()
            reason = self._failure_note() or self._note_dead() or self._note_stuck()
            if reason:
                self._say(reason)
                self._leave(RETRY)

    def _say(self, reason: str) -> None:
        said = f"rank {self.rank} of {self.ranks} in step {self.step}: {reason}"
        print(f"bort-jax: {said}", file=sys.stderr, flush=True)

    def _note(self, rank: int, reason: str) -> None:
        write_text(self.folder / f"{rank}.failed", reason)  # whole: nobody reads half of it

    def _leave(self, code: int) -> None:
        """Ends the process without waiting for what may hang."""
        if self.rank == 0:  # with it jax's coordinator goes, and aborts who has not read why
            time.sleep(2 * self.interval)
        os._exit(code)

    def _write_beat(self) -> None:
        with suppress(OSError):  # the next one may be written; else the others will say so
            write_json(self._file(self.rank), Beat(self.count, self.step, self.phase))

    def _failure_note(self) -> str:
        """The first note about a failed process; empty without one."""
        for note in sorted(self.folder.glob("*.failed")):
            return f"rank {note.stem} failed: {note.read_text()}"
        return ""

    def _note_dead(self) -> str:
        """Notes the next process in the ring as failed if it has been silent for too long."""
        following = (self.rank + 1) % self.ranks
        beat = self._beat_of(following) or self.neighbour
        if beat.number != self.neighbour.number:
            self.neighbour, self.silence = beat, 0.0
        # Reading a corpus may keep Python's lock, which jax's own heartbeat does not need.
        patience = self.floor * (WIDER if beat.phase == "starting" else 0.5)
        if self.silence <= patience:
            return ""
        last = f"its last was in step {beat.step}, {beat.phase}"
        self._note(following, f"no sign of life for {self.silence:.0f} s; {last}")
        return self._failure_note()

    def _note_stuck(self) -> str:
        """Notes the processes that are behind as failed if this one's step takes too long."""
        if self.waited <= self.limit():
            return ""
        beats = {rank: self._beat_of(rank) or Beat(0, 0, "") for rank in range(self.ranks)}
        least = min(beat.step for beat in beats.values())
        behind = [rank for rank, beat in beats.items() if beat.step == least]
        together = len(behind) == self.ranks
        where = (
            "as are all: a device or the network hangs" if together else "the others wait for it"
        )
        for rank in behind:
            self._note(rank, f"stuck for {self.waited:.0f} s since it began step {least}; {where}")
        return self._failure_note()

    def _beat_of(self, rank: int) -> Beat | None:
        try:
            return Beat(*json.loads(self._file(rank).read_text()))
        except (OSError, ValueError, TypeError):  # not there yet
            return None

    def _file(self, rank: int) -> Path:
        return self.folder / f"{rank}.json"


@contextmanager
def end_together(out: Path) -> Iterator[Watchdog]:
    """Watches the processes of a run in `OUT/ranks`; with one process does nothing.

    Any exception but `Interrupted`, which all raise together, ends this process with code 1 and
    the others with 75; so does a process that dies, or a step that takes too long.
    """
    rank, ranks = jax.process_index(), jax.process_count()
    dog = Watchdog(out / FOLDER, rank=rank, ranks=ranks, floor=stall_seconds())
    if ranks == 1:
        yield dog
        return
    if is_leader():
        shutil.rmtree(dog.folder, ignore_errors=True)
        dog.folder.mkdir(parents=True)
    barrier("ranks")
    dog.thread.start()
    try:
        yield dog
    except Interrupted:
        raise
    except BaseException as error:
        dog.explain(error)
    finally:
        dog.close()


def _of_the_runtime(error: BaseException) -> bool:
    """Whether it came from jax's runtime, as what a peer's death causes does: `UNKNOWN: Gloo …`."""
    return isinstance(error, jax.errors.JaxRuntimeError) or bool(
        re.match(r"[A-Z][A-Z_]+: ", str(error))
    )


def stall_seconds() -> float:
    """STALL_SECONDS, or what the environment says.

    Raises:
      ValueError: it says no positive number.
    """
    said = os.environ.get(STALL_VARIABLE, str(STALL_SECONDS))
    try:
        seconds = float(said)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise ValueError(f"{STALL_VARIABLE} must be a number of seconds above 0; got {said!r}")
    return seconds

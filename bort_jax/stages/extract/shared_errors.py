# SPDX-License-Identifier: Apache-2.0
"""Errors kept in a folder, and shared there by as many processes as are started.

A process holds the lock `claims/<arch>` while it measures that architecture; a lock ends with
its process. Each process appends to a file of its own, so no line is torn by another; lines cut
short by a kill are skipped. A lost process costs only what it was measuring.
"""

import json
import math
import os
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bort_jax.ose import ErrorFn
from bort_jax.storage.growing import append_records


def one_at_a_time(folder: Path) -> FileLock:
    """A lock for `with`: processes that share a run folder take turns inside it."""
    return FileLock(folder / "lock")


@dataclass(frozen=True)
class SharedErrors:
    """An error function that measures what no process has measured yet, and reads the rest.

    Attributes:
      error_fn: measures; called with at most `chunk` architectures.
      folder: a file system that all processes see, with locks.
      chunk: architectures that are claimed, measured and written together.
      poll: seconds between looks at what others have measured.
      on_result: called once for each architecture asked for, as its error becomes known.
    """

    error_fn: ErrorFn
    folder: Path
    chunk: int = 1
    poll: float = 0.5
    on_result: Callable[[Any, float], None] = lambda arch, error: None

    def __call__(self, archs: Sequence[Any]) -> list[float]:
        known: dict[Any, float] = {}
        while left := self._read(archs, known):
            with ExitStack() as locks:
                claimed = self._claim(left, locks)
                # Who held these locks until now may have measured: look again.
                left = self._read(archs, known)
                if mine := [arch for arch in claimed if arch in left]:
                    self._measure(mine)
            if left and not claimed:
                time.sleep(self.poll)
        return [known[arch] for arch in archs]

    def _read(self, archs: Sequence[Any], known: dict[Any, float]) -> list:
        """Announces what has become known, and returns what nobody has measured."""
        records = read_records(self.folder)
        left = [arch for arch in dict.fromkeys(archs) if arch not in known]
        for arch in left:
            if str(arch) in records:
                known[arch] = records[str(arch)]["error"]
                self.on_result(arch, known[arch])
        return [arch for arch in left if arch not in known]

    def _claim(self, archs: Sequence[Any], locks: ExitStack) -> list:
        """The first architectures whose locks nobody holds; `locks` holds them from now on."""
        (self.folder / "claims").mkdir(parents=True, exist_ok=True)
        claimed = []
        for arch in archs:
            if len(claimed) == self.chunk:
                break
            with suppress(Timeout):
                lock = FileLock(self.folder / "claims" / str(arch))
                locks.enter_context(lock.acquire(blocking=False))
                claimed.append(arch)
        return claimed

    def _measure(self, archs: list) -> None:
        start = time.monotonic()
        errors = [float(error) for error in self.error_fn(archs)]
        seconds = (time.monotonic() - start) / len(archs)
        own = self.folder / f"errors.{socket.gethostname()}.{os.getpid()}.jsonl"
        append_records(own, [_record(*one, seconds) for one in zip(archs, errors, strict=True)])


def read_records(folder: Path) -> dict[str, dict]:
    """By architecture: error (NaN where training failed) and seconds, from every process."""
    records = {}
    for file in sorted(folder.glob("errors*.jsonl")):
        for line in file.read_text(errors="replace").splitlines():
            try:
                record = json.loads(line)
                error = record["error"]
                records[record["arch"]] = {
                    "error": math.nan if error is None else float(error),
                    "seconds": float(record.get("seconds", 0.0)),
                }
            except (ValueError, KeyError, TypeError, OverflowError):  # cut short by a kill
                continue
    return records


def _record(arch: Any, error: float, seconds: float) -> dict:
    known = None if math.isnan(error) else error
    return {"arch": str(arch), "error": known, "seconds": round(seconds, 3)}

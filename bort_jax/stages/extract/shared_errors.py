# SPDX-License-Identifier: Apache-2.0
"""Errors remembered in a folder, and shared there by as many processes as are started.

Whoever is to measure an architecture first makes `claims/<arch>` and keeps it fresh; a claim
that nobody keeps fresh belongs to a process that is lost, and is taken over. Each process
appends to a file of its own, so no line is torn by another; lines cut short by a kill are
skipped. A lost process costs only what it was measuring.
"""

import json
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ErrorFn = Callable[[Sequence[Any]], Sequence[float]]


def remembered(
    error_fn: ErrorFn,
    folder: Path,
    *,
    chunk: int = 1,
    stale: float = 60.0,
    poll: float = 0.5,
    on_result: Callable[[Any, float], None] = lambda arch, error: None,
) -> ErrorFn:
    """An error function that measures what no process has measured yet, and reads the rest.

    Args:
      error_fn: measures; called with at most `chunk` architectures.
      folder: a file system that all processes see, with clocks that agree within `stale`.
      chunk: architectures that are claimed, measured and written together.
      stale: seconds after which a claim that is not kept fresh is taken over.
      poll: seconds between looks at what others have measured.
      on_result: called once for each architecture asked for, as its error becomes known.
    """
    folder = Path(folder)
    claims = folder / "claims"
    own = folder / f"errors.{socket.gethostname()}.{os.getpid()}.jsonl"

    def measure(archs: list) -> None:
        with kept_fresh([claims / str(arch) for arch in archs], every=stale / 4):
            begun = time.monotonic()
            errors = [float(error) for error in error_fn(archs)]
            seconds = (time.monotonic() - begun) / len(archs)
        _append(own, archs, errors, seconds)

    def lookup(archs: Sequence[Any]) -> list[float]:
        claims.mkdir(parents=True, exist_ok=True)
        known, left = {}, dict.fromkeys(archs)
        while left:
            records = read_records(folder)
            for arch in [arch for arch in left if str(arch) in records]:
                known[arch] = records[str(arch)]["error"]
                on_result(arch, known[arch])
                del left[arch]
            mine = _claimed(left, claims, chunk=chunk, stale=stale)
            if mine:
                measure(mine)
            elif left:
                time.sleep(poll)
        return [known[arch] for arch in archs]

    return lookup


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
            except (json.JSONDecodeError, KeyError, TypeError):  # cut short by a kill
                continue
    return records


def recorded_seconds(folder: Path) -> dict[str, float]:
    """Seconds that each architecture took, by name."""
    return {arch: record["seconds"] for arch, record in read_records(folder).items()}


def _claimed(left, claims: Path, *, chunk: int, stale: float) -> list:
    mine = []
    for arch in left:
        if len(mine) < chunk and _claim(claims / str(arch), stale=stale):
            mine.append(arch)
    return mine


def _claim(file: Path, *, stale: float) -> bool:
    """Makes the file, if it is not there or nobody keeps it fresh."""
    try:
        if time.time() - file.stat().st_mtime > stale:
            # Of several that find it stale only one gets to move it away.
            file.rename(file.with_name(f".{file.name}.{socket.gethostname()}.{os.getpid()}"))
    except FileNotFoundError:
        pass
    try:
        os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return False
    return True


@contextmanager
def kept_fresh(files: list[Path], *, every: float) -> Iterator[None]:
    """Touches the files from a thread for as long as the block runs; removes them if it fails."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(every):
            for file in files:
                file.touch()

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    except BaseException:
        for file in files:
            file.unlink(missing_ok=True)
        raise
    finally:
        done.set()
        thread.join()


def _append(file: Path, archs: list, errors: list[float], seconds: float) -> None:
    lines = [
        json.dumps(
            {
                "arch": str(arch),
                "error": None if math.isnan(error) else error,
                "seconds": round(seconds, 3),
            }
        )
        for arch, error in zip(archs, errors, strict=True)
    ]
    with file.open("a") as out:
        out.write("".join(line + "\n" for line in lines))
        out.flush()
        os.fsync(out.fileno())

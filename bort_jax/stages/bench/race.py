# SPDX-License-Identifier: Apache-2.0
"""Programs timed in turns, so that what else the machine does falls on all of them."""

import ctypes
import gc
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bort_jax.interop import Checkpoint
from bort_jax.stages.bench.accuracy import Scorer
from bort_jax.stages.bench.programs import Form, forms

PAUSE = 0.2  # seconds: threads of the program before are still spinning


def race(
    checkpoint: Checkpoint,
    folder: Path,
    *,
    shapes: Sequence[tuple[int, int]],
    repeats: int,
    compiled: bool,
    score: Scorer | None,
) -> list[dict[str, Any]]:
    """A record for each form and shape: median and range in ms, and what the form needs.

    `memory` is what the process grew by when the form was made and first run, in bytes.
    """
    ready, needs = [], {}
    before = resident()
    for form in forms(checkpoint, folder, compiled=compiled):
        form.run(*tokens(checkpoint, max(shapes)))
        needs[form.name] = {"memory": resident() - before, "bytes": form.bytes}
        needs[form.name] |= {"scores": score(form.run)} if score else {}
        ready.append(form)
        before = resident()
    found = []
    for shape in shapes:
        times = in_turns(ready, tokens(checkpoint, shape), repeats=repeats)
        for name, ms in times.items():
            spread = {"median": float(np.median(ms)), "least": min(ms), "most": max(ms)}
            sizes = {"batch": shape[0], "length": shape[1]}
            found.append({"form": name, **sizes, **spread, **needs[name]})
    return found


def in_turns(ready: Sequence[Form], inputs, *, repeats: int) -> dict[str, list[float]]:
    """Milliseconds of each program; each is run once before every measurement."""
    times: dict[str, list[float]] = {form.name: [] for form in ready}
    for _ in range(repeats):
        for form in ready:
            time.sleep(PAUSE)
            form.run(*inputs)
            start = time.perf_counter()
            form.run(*inputs)
            times[form.name].append(1e3 * (time.perf_counter() - start))
    return times


def tokens(checkpoint: Checkpoint, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Random ids and the mask of full rows."""
    ids = np.random.default_rng(0).integers(0, checkpoint.config.vocab_size, shape)
    return ids.astype(np.int32), np.ones(shape, bool)


def resident() -> int:
    """Bytes of this process in memory, without what it only keeps for later; 0 where the system
    does not say."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)  # of glibc
    except (OSError, AttributeError):
        pass
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")

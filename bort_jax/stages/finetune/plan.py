# SPDX-License-Identifier: Apache-2.0
"""How a device runs a population: which mapping is fastest there, and how many members it holds."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path

import jax

from bort_jax.engine.parallel import MAPPINGS

# Seconds of work from which on the other mappings are compiled and timed: on a CPU they rarely win.
WORTH, WORTH_ON_ACCELERATORS = 120.0, 10.0
MOST = 64  # members of a device at a time
SHARE = 0.85  # of a device's memory that a population may take
CACHE = "populations.json"


class Planner:
    """Remembers, for one model, which mapping was the fastest on this device.

    A short timing decides, once: it is kept in a file for later processes.
    """

    def __init__(self, model: str, *, file: Path | None = None):
        self.model, self.file = model, file or cache_folder() / CACHE

    def mapping(self, shape: str, *, trial: Callable[[str], float], work: int) -> str:
        """The fastest of MAPPINGS.

        Args:
          shape: what of the data and the population the answer depends on.
          trial: seconds that a step of one member takes under a mapping.
          work: steps of all members together. Where the plain loop would be done with them before
            the others are compiled, it is not raced against them.
        """
        device = jax.local_devices()[0].device_kind
        key = f"{device} x {jax.local_device_count()}, jax {jax.__version__}: {self.model} {shape}"
        known = read_cache(self.file)
        if key not in known:
            seconds = {"loop": trial("loop")}
            if seconds["loop"] * work < worth():
                return "loop"
            seconds |= {mapping: trial(mapping) for mapping in MAPPINGS if mapping != "loop"}
            known[key] = seconds
            write_cache(self.file, known)
        return min(MAPPINGS, key=lambda mapping: known[key].get(mapping, math.inf))


def worth() -> float:
    return WORTH if jax.default_backend() == "cpu" else WORTH_ON_ACCELERATORS


def largest_group(needed: Callable[[int], int], *, limit: int, most: int) -> int:
    """How many members a device can hold: halved from `most` until they need no more than `limit`.

    Args:
      needed: bytes that a device needs for so many members; compiles.
    """
    group = most
    while group > 1 and needed(group) > limit:
        group = halved(group)
    return group


def rounded(group: int) -> int:
    """The least of 1, 2, 3, 4, 6, 8, 12, … (2ᵏ and 3·2ᵏ) that is no smaller.

    Θ shrinks by any number in a round of Agora: so few sizes are compiled, and at most a third of
    the places in a group lie idle.
    """
    power = 1 << (group - 1).bit_length()
    return power * 3 // 4 if group <= power * 3 // 4 and power > 2 else power


def halved(group: int) -> int:
    return -(-group // 2)


def memory_limit() -> int:
    """Bytes that a population may take on each device of this process."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return int(SHARE * (stats["bytes_limit"] - stats.get("bytes_in_use", 0)))
    return int(SHARE * host_memory() / jax.local_device_count())


def host_memory() -> int:
    """Bytes that are free, or can be made free, on this machine."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def out_of_memory(error: Exception) -> bool:
    """Whether jax says that the device has no room."""
    return "RESOURCE_EXHAUSTED" in str(error)


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))) / "bort_jax"


def read_cache(file: Path) -> dict[str, dict[str, float]]:
    """What was measured before; nothing where the file is not there or is damaged."""
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_cache(file: Path, known: dict[str, dict[str, float]]) -> None:
    """Without a folder to write to, the next process measures again."""
    partial = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(known, indent=1))
        partial.replace(file)
    except OSError:
        pass

# SPDX-License-Identifier: Apache-2.0
"""How much memory the machine has to give."""

import os
from pathlib import Path


def available_memory() -> int:
    """Bytes that are free, or can be made free, on this machine."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2

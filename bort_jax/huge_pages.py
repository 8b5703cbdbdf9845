# SPDX-License-Identifier: Apache-2.0
"""`--huge-pages`: memory in huge pages, where Linux gives them only to programs that ask.

XLA on CPU takes the memory of a program anew for each run of it. In pages of 4 kB a training step
of Bort has 156,000 page faults, and takes a seventh longer (docs/measurements/speed.md).
"""

import os
import sys
from pathlib import Path

SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
VARIABLE, TUNABLE = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"


def restart_with_huge_pages() -> None:
    """Starts this program again, as the same process, with a malloc that asks for huge pages.

    glibc (2.35 or later; others ignore it) reads the wish only when a program starts. Nothing
    happens where the kernel gives them to all or to none, or where the user has set it, to 0 too.
    """
    wishes = os.environ.get(VARIABLE, "")
    if TUNABLE in wishes or not asking_helps():
        return
    os.environ[VARIABLE] = ":".join(filter(None, [wishes, f"{TUNABLE}=1"]))
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def asking_helps(setting: Path = SETTING) -> bool:
    """Whether the kernel gives huge pages to those that ask, and to no others."""
    try:
        return "[madvise]" in setting.read_text()
    except OSError:
        return False

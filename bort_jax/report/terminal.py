# SPDX-License-Identifier: Apache-2.0
"""Tables and boxes in the terminal, plain text where it is none."""

import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from tqdm import tqdm

WAIT = 2  # seconds before a progress bar shows

# Into a file or a pipe tables are as wide as they need to be.
console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 140)


def show_table(title: str, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Prints a table; numbers are aligned to the right."""
    table = Table(title=title, box=SIMPLE, title_justify="left")
    rows = [tuple(row) for row in rows]
    for column, name in enumerate(header):
        numeric = all(isinstance(row[column], (int, float)) for row in rows)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(format_value(value)) for value in row))
    console.print(table)


def show_box(title: str, lines: Iterable[str]) -> None:
    console.print(
        Panel.fit(Text("\n".join(lines)), title=title, title_align="left"), soft_wrap=False
    )


def progress_bar(title: str, *, total: int | None, done: int = 0, **options: Any) -> tqdm:
    """A bar that shows only after some seconds, and seldom where it goes into a file."""
    every = 0.1 if sys.stderr.isatty() else 10
    return tqdm(desc=title, total=total, initial=done, delay=WAIT, mininterval=every, **options)


def say(text: str) -> None:
    console.print(text, markup=False)


def format_value(value: Any) -> str:
    """Thousands separators for counts, four figures for measurements."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return "–" if value != value else f"{value:.4g}"


def millions(count: int) -> str:
    return f"{count / 1e6:.2f} M"

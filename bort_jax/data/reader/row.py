# SPDX-License-Identifier: Apache-2.0
"""A row as its file has it, and what may be wrong with it."""

from collections import Counter
from collections.abc import Collection
from typing import Any, NamedTuple

LONGEST = 1 << 24  # bytes of a row
TOO_LONG = f"longer than {LONGEST >> 20} MB, which is more than a row may have"


class RawRow(NamedTuple):
    """A row as the file has it.

    Attributes:
      where: file and line, or the number of the row where there are no lines.
      values: by column; cells of CSV are texts as they stand.
      wrong: why there are no values, with `where` before it; else empty.
    """

    where: str
    values: dict[str, Any] = {}
    wrong: str = ""


class Ambiguous(NamedTuple):
    """The value of a column that stands more than once in a header, or in an object."""

    column: str

    def __str__(self) -> str:
        return f"column {self.column!r} stands more than once"


def ambiguous(names: Collection[str]) -> dict[str, Ambiguous]:
    """The columns that are named more than once."""
    return {name: Ambiguous(name) for name, count in Counter(names).items() if count > 1}

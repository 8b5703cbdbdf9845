# SPDX-License-Identifier: Apache-2.0
"""A file of text, JSON lines, CSV or parquet, compressed or not: its rows, one after the other.

A row that is wrong by itself is told in its place, and the reading goes on; a file that cannot be
read further raises ValueError. Both name file and line. Memory does not grow with the file.
"""

from collections.abc import Collection, Iterator
from pathlib import Path

from bort_jax.data.reader.csv_rows import csv_rows
from bort_jax.data.reader.formats import PARQUET, TEXT, format_of, known_endings, not_read
from bort_jax.data.reader.json_rows import json_rows
from bort_jax.data.reader.lines import PIECE, text_pieces, text_rows
from bort_jax.data.reader.parquet_rows import column_bytes, open_parquet, parquet_rows
from bort_jax.data.reader.row import Ambiguous, RawRow

__all__ = [
    "PARQUET",
    "PIECE",
    "TEXT",
    "Ambiguous",
    "RawRow",
    "column_bytes",
    "count_lines",
    "format_of",
    "known_endings",
    "not_read",
    "read_file",
    "text_pieces",
]


def read_file(file: str | Path, *, columns: Collection[str] | None = None) -> Iterator[RawRow]:
    """The rows of a file, in its order.

    Args:
      columns: that are asked for; others of a parquet file are not read, and None. None: all.

    Raises:
      ValueError: the file cannot be read, or not further.
    """
    file, (kind, _) = Path(file), format_of(file)
    if not kind:
        raise ValueError(f"{file}: {not_read(file)}")
    if kind == PARQUET:
        return parquet_rows(file, columns)
    return {TEXT: text_rows, ".csv": csv_rows}.get(kind, json_rows)(file)


def count_lines(file: Path) -> int | None:
    """Rows of a file, roughly: its lines, or as parquet says; None of a compressed one."""
    kind, packed = format_of(file)
    if kind == PARQUET:
        return open_parquet(file).metadata.num_rows
    if packed:
        return None
    with file.open("rb") as content:
        return sum(block.count(b"\n") for block in iter(lambda: content.read(PIECE), b""))

# SPDX-License-Identifier: Apache-2.0
"""Rows of CSV: cells are texts as they stand."""

import csv
from collections.abc import Iterator
from pathlib import Path

from bort_jax.data.reader.lines import not_utf8, read_lines
from bort_jax.data.reader.row import LONGEST, TOO_LONG, RawRow, ambiguous

CSV_FAULTS = {
    "unexpected end of data": "a quoted cell that begins here does not end",
    "field larger": f"a cell is {TOO_LONG}: is a quote missing?",
    "expected after": "text after a closing quote: a quote inside a cell is written twice",
    "new-line character": "a carriage return outside quotes",
}


class _CsvLines:
    """The lines of a CSV file as its parser takes them.

    Attributes:
      number: of the last line.
      wrong: what is wrong with a line since `wrong` was emptied.
    """

    def __init__(self, file: Path):
        self.lines, self.file, self.number, self.wrong = read_lines(file), file, 0, ""

    def __iter__(self) -> Iterator[str]:
        for self.number, line in self.lines:
            if line is None:
                raise ValueError(f"{self.file}, line {self.number}: {TOO_LONG}")
            try:
                yield line.decode()
            except UnicodeDecodeError as error:
                self.wrong = f"{self.file}, line {self.number}: {not_utf8(error)}"
                yield line.decode(errors="replace")


def csv_rows(file: Path) -> Iterator[RawRow]:
    header: list[str] = []
    lines, twice = _CsvLines(file), {}
    csv.field_size_limit(LONGEST)
    for first, cells in _csv_cells(lines):
        where, wrong, lines.wrong = f"{file}, line {first}", lines.wrong, ""
        if not header:
            if wrong:
                raise ValueError(wrong)
            header, twice = cells, ambiguous(cells)
            _check_separator(where, header)
        elif wrong:
            yield RawRow(where, wrong=wrong)
        elif len(cells) != len(header):
            fault = f"{len(cells)} cells, and the header has {len(header)} columns"
            yield RawRow(where, wrong=f"{where}: {fault}")
        else:
            yield RawRow(where, dict(zip(header, cells, strict=True)) | twice)


def _csv_cells(lines: _CsvLines) -> Iterator[tuple[int, list[str]]]:
    """(line where it begins, cells) of each row that is not blank."""
    rows, first = csv.reader(iter(lines), strict=True), 1
    try:
        for cells in rows:
            if cells:
                yield first, cells
            first = lines.number + 1
    except csv.Error as error:
        fault = next((ours for theirs, ours in CSV_FAULTS.items() if theirs in str(error)), error)
        raise ValueError(f"{lines.file}, line {first}: {fault}") from None


def _check_separator(where: str, header: list[str]) -> None:
    found = [sign for sign in ";\t|" if len(header) == 1 and sign in header[0]]
    if found:
        raise ValueError(f"{where}: the header's cells are separated by {found[0]!r}, not by ','")

# SPDX-License-Identifier: Apache-2.0
"""The rows of a file of any size, one after the other, in windows of a bounded size."""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bort_jax.data.corpus import open_source
from bort_jax.tasks.read import json_lines, json_row, rows_of
from bort_jax.tasks.task import UNLABELLED, Examples, Item, Row, Task


class ReadRow(NamedTuple):
    """A row as it was read: its examples, or what is wrong with it.

    Attributes:
      items: the examples; one or more for each row of some tasks.
      wrong: empty, or a sentence that names file and line.
    """

    items: tuple[Item, ...] = ()
    wrong: str = ""

    @property
    def answers(self) -> int:
        """Answers that stand for the row: one an example, or one that says what is wrong."""
        return 1 if self.wrong else len(self.items)


def read_each(source: str | Path, task: Task) -> Iterator[ReadRow]:
    """Streams the rows of a file as the task reads them, labels left alone.

    Raises:
      ValueError: the file cannot be read further, or has no rows.
    """
    path = Path(source)
    if path.suffix == ".jsonl":
        rows = (
            (where, lambda w=where, line=line: json_row(w, line))
            for where, line in json_lines(path)
        )
    else:
        rows = ((where, lambda row=row: row) for where, row in rows_of(path))
    found = False
    for where, parse in rows:
        found = True
        yield _read_row(where, parse, task)
    if not found:
        raise ValueError(f"{source}: no rows")


def _read_row(where: str, parse: Callable[[], Row], task: Task) -> ReadRow:
    try:
        row = parse()
    except ValueError as error:
        return ReadRow(wrong=str(error))
    try:
        return ReadRow(tuple(task.items(row, task)))
    except ValueError as error:
        return ReadRow(wrong=f"{where}: {error}")


def stop_at_wrong(reads: Iterable[ReadRow], *, hint: str) -> Iterator[ReadRow]:
    """The same rows up to a wrong one, which raises ValueError, with what one could do."""
    for read in reads:
        if read.wrong:
            raise ValueError(f"{read.wrong}; {hint}")
        yield read


def skip_answered(reads: Iterable[ReadRow], answered: int) -> tuple[int, int, Iterator[ReadRow]]:
    """Leaves out the rows whose answers are all among the first `answered`.

    Returns:
      the rows left out, their answers, and the other rows.
    """
    reads, rows, answers = iter(reads), 0, 0
    for read in reads:
        if answers + read.answers > answered:
            return rows, answers, chain([read], reads)
        rows, answers = rows + 1, answers + read.answers
    return rows, answers, iter(())


def windows(reads: Iterable[ReadRow], size: int) -> Iterator[list[ReadRow]]:
    """Whole rows with at least `size` examples together, but the last; before an error too."""
    window, examples = [], 0
    try:
        for read in reads:
            window.append(read)
            examples += read.answers
            if examples >= size:
                yield window
                window, examples = [], 0
    except ValueError:
        if window:
            yield window
        raise
    if window:
        yield window


def examples_in(window: Iterable[ReadRow]) -> Examples:
    """The examples of a window's rows, without labels."""
    items = [item for read in window for item in read.items]
    texts, keys = tuple(item.texts for item in items), tuple(item.key for item in items)
    return Examples(texts, np.full(len(items), UNLABELLED, np.int32), keys)


def about_rows(source: str | Path) -> int | None:
    """Rows of a file, for the time left: its lines, or as parquet says; None on the hub."""
    files = open_source(source).files
    return sum(map(_about_rows, files)) if files else None


def _about_rows(file: Path) -> int:
    if file.suffix == ".parquet":
        import pyarrow.parquet as pq

        return pq.ParquetFile(file).metadata.num_rows
    with file.open("rb") as content:
        return sum(block.count(b"\n") for block in iter(lambda: content.read(1 << 20), b""))

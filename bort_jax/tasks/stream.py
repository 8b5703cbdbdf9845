# SPDX-License-Identifier: Apache-2.0
"""The rows of a file of any size, one after the other, in windows of a bounded size."""

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bort_jax.data.corpus import open_source
from bort_jax.data.reader import RawRow
from bort_jax.tasks.task import UNLABELLED, Examples, Item, Task

CHARACTERS = 1 << 24  # of a window's texts


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

    @property
    def characters(self) -> int:
        texts = (text for item in self.items for text in item.texts)
        return sum(len(piece.text) for text in texts for segment in text for piece in segment)


def read_each(source: str | Path, task: Task) -> Iterator[ReadRow]:
    """Streams the rows of a file as the task reads them, labels left alone.

    Raises:
      ValueError: the file cannot be read further, or has no rows.
    """
    found = False
    for _, row in open_source(source).rows(columns=task.columns_read):
        found = True
        yield _read_row(row, task)
    if not found:
        raise ValueError(f"{source}: no rows")


def _read_row(row: RawRow, task: Task) -> ReadRow:
    if row.wrong:
        return ReadRow(wrong=row.wrong)
    try:
        return ReadRow(tuple(task.items(row.values, task)))
    except ValueError as error:
        return ReadRow(wrong=f"{row.where}: {error}")


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
    """Whole rows with at least `size` examples together, or `CHARACTERS`, but the last; before an
    error too."""
    window, examples, characters = [], 0, 0
    try:
        for read in reads:
            window.append(read)
            examples, characters = examples + read.answers, characters + read.characters
            if examples >= size or characters >= CHARACTERS:
                yield window
                window, examples, characters = [], 0, 0
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

# SPDX-License-Identifier: Apache-2.0
"""The task record, reading its rows, and splits that keep equal texts together."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from bort_jax.data.corpus import nearest, read_rows
from bort_jax.data.tokenizer import Tokenizer

SPLITS = ("train", "validation", "test")
ENDINGS = (".parquet", ".jsonl", ".csv")


@dataclass(frozen=True)
class Task:
    """A classification task.

    Attributes:
      columns: one text column, or two for a pair.
      label: the label column.
      labels: names of the classes; a row holds a name or its index.
    """

    columns: tuple[str, ...] = ("text",)
    label: str = "label"
    labels: tuple[str, ...] = ("0", "1")


class Examples(NamedTuple):
    """n labelled rows: one tuple of texts for each column, and class indices."""

    columns: tuple[tuple[str, ...], ...]
    labels: Int[np.ndarray, " n"]

    def take(self, indices: Sequence[int] | np.ndarray) -> "Examples":
        columns = tuple(tuple(column[i] for i in indices) for column in self.columns)
        return Examples(columns, self.labels[np.asarray(indices, dtype=int)])

    def encode(self, tokenizer: Tokenizer, *, seq_len: int) -> "Points":
        return Points(tokenizer.encode(self.columns, seq_len=seq_len).ids, self.labels)


class Points(NamedTuple):
    """n points as a model reads them: padded token rows and class indices."""

    x: Int[np.ndarray, "n s"]
    y: Int[np.ndarray, " n"]

    def take(self, indices) -> "Points":
        return Points(self.x[indices], self.y[indices])


class Split(NamedTuple):
    """The two halves of dev: Agora reads `steer` and never `report`."""

    steer: Int[np.ndarray, " n"]
    report: Int[np.ndarray, " m"]


def find_split(folder: str | Path, split: str) -> Path:
    """The file of a split: `<folder>/<split>` with a known ending.

    Raises:
      FileNotFoundError: there is none.
    """
    candidates = [Path(folder) / f"{split}{ending}" for ending in ENDINGS]
    for file in candidates:
        if file.is_file():
            return file
    raise FileNotFoundError(f"no {split} split: expected one of {', '.join(map(str, candidates))}")


def read_examples(file: str | Path, task: Task) -> Examples:
    """Reads and checks every row.

    Raises:
      ValueError: a column is missing, a text is empty, or a label is outside the declared set;
        the message names the file and the row.
    """
    texts: list[tuple[str, ...]] = []
    labels: list[int] = []
    for number, row in enumerate(read_rows(file), start=1):
        where = f"{file}, row {number}"
        texts.append(tuple(_text(row, column, where) for column in task.columns))
        labels.append(_label(row, task, where))
    if not texts:
        raise ValueError(f"{file}: no rows")
    return Examples(tuple(zip(*texts, strict=True)), np.array(labels, dtype=np.int32))


def split_dev(examples: Examples, *, steer: float = 0.5) -> Split:
    """Splits by the hash of the text, so equal texts never stand on both sides.

    A text always falls on the same side, whatever else is in the file.
    """
    values = np.array([_hash01(row) for row in zip(*examples.columns, strict=True)])
    return Split(np.flatnonzero(values < steer), np.flatnonzero(values >= steer))


def _text(row: dict, column: str, where: str) -> str:
    if column not in row:
        raise ValueError(f"{where}: no column {column!r}{nearest(column, row)}")
    if not isinstance(row[column], str) or not row[column].strip():
        raise ValueError(f"{where}: column {column!r} holds no text: {row[column]!r}")
    return row[column]


def _label(row: dict, task: Task, where: str) -> int:
    if task.label not in row:
        raise ValueError(f"{where}: no column {task.label!r}{nearest(task.label, row)}")
    label = row[task.label]
    if str(label) in task.labels:
        return task.labels.index(str(label))
    if isinstance(label, int) and 0 <= label < len(task.labels):
        return label
    raise ValueError(f"{where}: label {label!r} is not one of {', '.join(task.labels)}")


def _hash01(row: tuple[str, ...]) -> float:
    normal = "\x1f".join(" ".join(text.lower().split()) for text in row)
    return int.from_bytes(hashlib.sha256(normal.encode()).digest()[:7]) / 2**56

# SPDX-License-Identifier: Apache-2.0
"""The task record and its examples."""

import math
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from bort_jax.data.corpus import SURROGATES
from bort_jax.data.reader import Ambiguous
from bort_jax.data.tokenizer import Tokenizer
from bort_jax.suggest import nearest, shorten
from bort_jax.tasks.encode import Text, cuttable, encode, uncut

SPLITS = ("train", "validation", "test")
HEADS = ("classification", "regression", "choice")
WHOLE = re.compile("-?[0-9]{1,18}")
# What Hugging Face puts where a leaderboard keeps the label. A score may be −1: among scores, which
# are floats, NaN stands for a label that is missing.
UNLABELLED = -1
Row = Mapping[str, Any]


class Key(NamedTuple):
    """Facts about an example, beside its label, that scoring and submission need.

    Attributes:
      id: the row's own number or name, as a leaderboard wants it back.
      group: examples that are scored together: a question's answers, a pair of sentences.
      text: the candidate that the example asks about.
      gold: the right answers' texts, where labels alone do not say them.
      source: the row itself, where the submission file repeats it.
    """

    id: Any = None
    group: Hashable = None
    text: str = ""
    gold: tuple[str, ...] = ()
    source: Row | None = None


class Item(NamedTuple):
    """An example as a row gives it: one text, or one for each choice.

    Without a label of its own it has the one in the row's label column.
    """

    texts: tuple[Text, ...]
    key: Key = Key()
    label: int | None = None


@dataclass(frozen=True)
class Place:
    """Where a task's files are, in a data folder and on the Hugging Face hub.

    Attributes:
      folders: below `<data-dir>/<suite>`, the first that is there counts; those whose name does not
        begin with the task's key are shared with another task.
      ending: of the names of files that hold this part of a shared folder (`test_matched`).
      keep: whether a row of a shared, undivided file belongs to the task.
      keep_train: whether `keep` counts for the train split too.
      hub: repository and configuration.
    """

    folders: tuple[str, ...] = ()
    ending: str = ""
    keep: Callable[[Row], bool] | None = None
    keep_train: bool = True
    hub: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class Form:
    """The submission file.

    Attributes:
      file: its name.
      layout: how a line is written: `tsv`, `jsonl`, `multirc`, `record` or `race`.
      answers: what is written for each label, in their order; none for numbers and texts.
    """

    file: str = ""
    layout: str = ""
    answers: tuple[str | int, ...] = ()


def from_columns(row: Row, task: "Task") -> list[Item]:
    """One example with the task's one or two columns as its text."""
    piece = lambda column: uncut if column == task.question else cuttable
    texts = [piece(column)(text_of(row, column)) for column in task.columns]
    return [Item((tuple(texts),), Key(number_in(row.get("idx"))))]


@dataclass(frozen=True)
class Task:
    """A task: what its rows hold, how a model reads them, how it is scored and handed in.

    The defaults are one's own data: one or two text columns, a label, accuracy.

    Attributes:
      columns: the text columns, in the order in which a model reads them.
      label: the label column.
      labels: names of the classes in Hugging Face's order; a row holds a name or its index. The
        two ends of the scale for regression.
      head: `classification`, `regression` (one number) or `choice` (one number a choice).
      metrics: names of the official metrics; the mean of them is the task's score.
      items: makes the examples of a row; raises ValueError where it cannot.
      question: the column of a pair that is not cut.
      suite: `glue`, `superglue` or `race`; empty for one's own data.
      key: name in its suite, which is its Hugging Face configuration.
      name: as the papers print it.
      rows: official sizes of train, validation and test; 0 where there is none.
      place: where its files are.
      form: its submission file.
      init_from: the task whose model may start this one's.
      scored_by: the task whose model predicts this one, which has no train split.
    """

    columns: tuple[str, ...] = ("text",)
    label: str = "label"
    labels: tuple[str, ...] = ("0", "1")
    head: str = "classification"
    metrics: tuple[str, ...] = ("accuracy",)
    items: Callable[[Row, "Task"], list[Item]] = from_columns
    question: str = ""
    suite: str = ""
    key: str = ""
    name: str = ""
    rows: tuple[int, int, int] = (0, 0, 0)
    place: Place = Place()
    form: Form = Form()
    init_from: str = ""
    scored_by: str = ""

    @property
    def reference(self) -> str:
        return f"{self.suite}/{self.key}"

    @property
    def columns_read(self) -> tuple[str, ...] | None:
        """The columns that its rows are made from, and none beside; None: it is not known."""
        plain = self.items is from_columns or not self.suite
        return (*self.columns, self.label, "idx") if plain else None

    @property
    def outputs(self) -> int:
        """Numbers that a model's head gives for a row of tokens."""
        return len(self.labels) if self.head == "classification" else 1


class Points(NamedTuple):
    """n points as a model reads them: padded token rows, and class indices or scores.

    Rows of a task with choices are `x[n, c, s]`. `targets` are soft labels, the probabilities of
    the classes, that are trained on instead of `y`; None: every label is certain.
    """

    x: Int[np.ndarray, "n s"] | Int[np.ndarray, "n c s"]
    y: Int[np.ndarray, " n"] | Float[np.ndarray, " n"]
    targets: Float[np.ndarray, "n c"] | None = None

    def take(self, indices) -> "Points":
        targets = None if self.targets is None else self.targets[indices]
        return Points(self.x[indices], self.y[indices], targets)


class Examples(NamedTuple):
    """n examples: their texts (one each, or one a choice), labels and keys."""

    texts: tuple[tuple[Text, ...], ...]
    labels: Int[np.ndarray, " n"] | Float[np.ndarray, " n"]
    keys: tuple[Key, ...] = ()

    @classmethod
    def of(cls, columns: Sequence[Sequence[str]], labels: Int[np.ndarray, " n"]) -> "Examples":
        """Examples of one's own: one or two columns of n texts."""
        rows = zip(*columns, strict=True)
        texts = tuple((tuple(cuttable(text) for text in row),) for row in rows)
        return cls(texts, labels, (Key(),) * len(texts))

    @property
    def has_labels(self) -> bool:
        return not any(map(is_missing, self.labels))

    def take(self, indices: Sequence[int] | np.ndarray) -> "Examples":
        pick = lambda values: tuple(values[i] for i in indices)
        chosen = self.labels[np.asarray(indices, dtype=int)]
        return Examples(pick(self.texts), chosen, pick(self.keys) if self.keys else ())

    def encode(self, tokenizer: Tokenizer, *, seq_len: int) -> Points:
        """Token rows: `[n, s]`, or `[n, c, s]` where there are c choices."""
        flat = [text for texts in self.texts for text in texts]
        x = encode(flat, tokenizer, seq_len=seq_len)
        choices = len(self.texts[0]) if self.texts else 1
        x = x if choices == 1 else x.reshape(-1, choices, seq_len)
        return Points(x, self.labels)


def is_missing(label: int | float) -> bool:
    """Whether a label says that there is none: NaN, or the class −1."""
    return math.isnan(label) or (isinstance(label, int | np.integer) and label == UNLABELLED)


def text_of(row: Row, column: str, *, blank: bool = False) -> str:
    """The text in a column.

    Raises:
      ValueError: there is no such column, or no text in it; `blank` allows none.
    """
    text = value_of(row, column)
    if not isinstance(text, str) or not (blank or text.strip()):
        raise ValueError(f"column {column!r} holds no text: {shorten(repr(text))}")
    if SURROGATES.search(text):
        raise ValueError(f"column {column!r} holds half a character (a lone surrogate)")
    return text


def value_of(row: Row, column: str) -> Any:
    """Raises ValueError where there is no such column, or more than one."""
    if column not in row:
        raise ValueError(f"no column {column!r}{nearest(column, row)}")
    if isinstance(row[column], Ambiguous):
        raise ValueError(str(row[column]))
    return row[column]


def number_in(value: Any) -> Any:
    """The whole number that a text is, as in a cell of CSV; anything else as it is."""
    return int(value) if isinstance(value, str) and WHOLE.fullmatch(value) else value


def label_of(row: Row, task: Task, *, required: bool = True) -> int | float:
    """The row's class index, or its score for regression.

    Args:
      required: refuse rows without a label; otherwise they have the class −1 or the score NaN.

    Raises:
      ValueError: the label is outside the declared set or scale, or there is none.
    """
    given = required or task.label in row
    label = value_of(row, task.label) if given else None
    scores = task.head == "regression"
    if not required and _is_withheld(label, task):
        return math.nan if scores else UNLABELLED
    return _score_of(label, task) if scores else _class_of(label, task)


def _is_withheld(label: Any, task: Task) -> bool:
    """Whether a test row has no label: nothing, NaN, or −1 where that is not on the scale."""
    if isinstance(label, float) and math.isnan(label):
        return True
    scale_has_it = task.head == "regression" and float(task.labels[0]) <= UNLABELLED
    return number_in(label) in ((None, "") if scale_has_it else (None, "", UNLABELLED))


class OneReading:
    """Whether a file's labels are names or indices: the first row decides, a mixture is refused."""

    def __init__(self, task: Task):
        self.task, self.first, self.named = task, None, False

    def check(self, where: str, row: Row) -> None:
        """Raises ValueError where the row's label is read otherwise than the first one's."""
        label = row.get(self.task.label)
        if self.task.head != "classification" or _is_withheld(label, self.task):
            return
        named = str(label) in self.task.labels
        if self.first is None:
            self.first, self.named = label, named
        if named != self.named:
            raise ValueError(
                f"{where}: label {label!r} is {'a name' if named else 'an index'}, and the file's "
                f"first, {self.first!r}, is not; a file holds names or indices"
            )


def _class_of(label: Any, task: Task) -> int:
    if all(map(WHOLE.fullmatch, task.labels)) and str(label) not in task.labels:
        raise ValueError(f"label {label!r} is not one of {', '.join(task.labels)}")
    if str(label) in task.labels:
        return task.labels.index(str(label))
    index = number_in(label)
    if isinstance(index, int) and 0 <= index < len(task.labels):
        return int(index)
    raise ValueError(f"label {shorten(repr(label))} is not one of {', '.join(task.labels)}")


def _score_of(label: Any, task: Task) -> float:
    low, high = map(float, task.labels)
    with suppress(ValueError):  # a score may be stored as a text
        number = float(label) if isinstance(label, (int, float, str)) else math.nan
        if low <= number <= high and math.isfinite(number) and "_" not in str(label):
            return number
    raise ValueError(f"label {shorten(repr(label))} is not a number from {low:g} to {high:g}")

# SPDX-License-Identifier: Apache-2.0
"""Agora's data: train, the two halves of dev, and the keys of all that is held out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from bort_jax.agora import Dataset, Guard, OneVsRest, Thresholds, Uncast, row_keys
from bort_jax.data.row_text import row_texts, text_keys
from bort_jax.data.tokenizer import Tokenizer
from bort_jax.report.terminal import say
from bort_jax.stages.agora.sides import token_sides
from bort_jax.stages.agora.split import example_texts, split_dev
from bort_jax.stages.finetune.config import HEADS, trainable
from bort_jax.tasks import Examples, Task, TaskOptions
from bort_jax.tasks.encode import Text, join_pieces
from bort_jax.tasks.labels import check_splits

Cast = Uncast | OneVsRest | Thresholds


class Half(NamedTuple):
    """Half of dev: its examples, its points with cast labels, the rows of the file that they are,
    and which tokens may change."""

    examples: Examples
    points: Dataset
    rows: Int[np.ndarray, " n"]
    sides: Int[np.ndarray, "..."]

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple("" if key.id is None else str(key.id) for key in self.examples.keys)


@dataclass(frozen=True)
class Material:
    """The task's data as the student reads it; of the test split only its texts.

    Attributes:
      given: the rows of the train split.
      test: its examples, or none; labels are looked at once, at the end.
      guard: knows the texts of validation and test.
      originals: texts of points as they were before they were cut and tokenized.
    """

    task: Task
    cast: Cast
    tokenizer: Tokenizer
    seq_len: int
    train: Dataset
    given: Examples
    steer: Half
    report: Half
    test: Examples | None
    guard: Guard
    originals: dict[bytes, tuple[str, ...]] = field(default_factory=dict)

    @property
    def head(self) -> str:
        """The student's head: a task of scores has been cast into classes."""
        return "choice" if self.task.head == "choice" else "classification"

    @property
    def shares(self) -> Float[np.ndarray, " c"]:
        """The classes' shares of the given train set."""
        counts = np.bincount(self.train.y, minlength=len(self.cast.labels))
        return counts / counts.sum()

    def points(self, examples: Examples) -> Dataset:
        points = encode_points(examples, self.cast, self.tokenizer, seq_len=self.seq_len)
        said = map(whole_texts, examples.texts)
        self.originals.update(zip(row_keys(points.x), said, strict=True))
        return points

    def texts(self, x: np.ndarray) -> list[tuple[str, ...]]:
        """The texts of points: as they were, or of points that were made as far as tokens say."""
        made = lambda row: tuple(
            text for texts in row_texts(row.reshape(-1, row.shape[-1]), self.tokenizer)
            for text in texts
        )  # fmt: skip
        rows = zip(row_keys(x), x, strict=True)
        return [self.originals.get(key) or made(row) for key, row in rows]


class Splits(NamedTuple):
    """A task and its rows.

    Attributes:
      validation: that of the task; with folds the train rows that are kept aside.
      test: the test split, or none.
      folds: of the cross-validation of the train rows, which then steer; 0: validation steers.
    """

    task: Task
    train: Examples
    validation: Examples
    test: Examples | None
    folds: int = 0

    @classmethod
    def read(cls, options: TaskOptions, *, folds: int = 0) -> "Splits":
        """Raises ValueError where the task has no train split, or not one of a validation split and
        folds."""
        task = trainable(options, heads=HEADS)
        test, train = options.read("test") if options.has("test") else None, options.read("train")
        check_folds(folds, validation=options.has("validation"))
        if folds:
            kept = split_dev(train, steer=folds / (folds + 1))
            validation, train = train.take(kept.report), train.take(kept.steer)
        else:
            validation = options.read("validation")
        found = cls(task, train, validation, test, folds)
        check_splits(task, {"train": found.train} | found.held_out)
        return found

    @property
    def held_out(self) -> dict[str, Examples]:
        return {"validation": self.validation} | ({"test": self.test} if self.test else {})


def read_material(
    splits: Splits,
    cast: Cast,
    tokenizer: Tokenizer,
    *,
    seq_len: int,
    steer_fraction: float = 0.5,
    drop_leaks: bool = False,
) -> Material:
    """Encodes and checks everything that a run of Agora needs.

    Raises:
      ValueError: half of validation is empty, or train rows stand in validation or test and
        `drop_leaks` is not given.
    """
    held_out = splits.held_out.items()
    encode = lambda rows: encode_points(rows, cast, tokenizer, seq_len=seq_len)
    # Rows of tokens may be cut off, and two texts may be cut down to the same row.
    guard = Guard.of(text_keys(tokenizer), {name: encode(rows).x for name, rows in held_out})
    of_texts = Guard.of(list, {name: texts_array(rows) for name, rows in held_out})
    train = encode(splits.train)
    forms = (
        (of_texts, Dataset(texts_array(splits.train), train.y)),
        (guard, train),
    )
    clean = clean_rows(forms, drop_leaks=drop_leaks)
    dev = dev_halves(splits, clean, steer_fraction=steer_fraction)
    steer, report = (half_of(*part, cast, tokenizer, seq_len=seq_len) for part in dev)
    return Material(
        task=splits.task,
        cast=cast,
        tokenizer=tokenizer,
        seq_len=seq_len,
        train=train.take(clean),
        given=splits.train,
        steer=steer,
        report=report,
        test=splits.test,
        guard=guard,
    )


def check_folds(folds: int, *, validation: bool) -> None:
    """Raises ValueError where there is not one of a validation split and folds."""
    if validation and folds:
        raise ValueError("the task has a validation split, which steers: leave --folds out")
    if not validation and not folds:
        raise ValueError(
            "the task has no validation split: --folds 5 takes the train rows' own mistakes, by "
            "cross-validation"
        )


def dev_halves(
    splits: Splits, clean: Int[np.ndarray, " n"], *, steer_fraction: float
) -> Iterator[tuple[Examples, Int[np.ndarray, " m"]]]:
    """Examples, and the rows of them that steer; then those that are never read.

    Args:
      clean: the train rows that are trained on, and steer where there are folds.

    Raises:
      ValueError: one half is empty.
    """
    halves = split_dev(splits.validation, steer=0.0 if splits.folds else steer_fraction)
    steer = clean if splits.folds else halves.steer
    if not len(steer) or not len(halves.report):
        what = "--folds" if splits.folds else f"steer_fraction {steer_fraction}"
        raise ValueError(f"{what} leaves no rows to steer by, or none to report on")
    yield (splits.train if splits.folds else splits.validation), steer
    yield splits.validation, halves.report


def cast_of(task: Task, *, one_vs_rest: str = "", thresholds: Sequence[float] = ()) -> Cast:
    """Casts the task into one that Agora can work on.

    Raises:
      ValueError: it is asked for what does not fit the task, or a task of scores for nothing.
    """
    scores = task.head == "regression"
    if scores != bool(thresholds):
        advice = (
            "needs --score-thresholds, such as [2.5]"
            if scores
            else "has classes, no --score-thresholds"
        )
        raise ValueError(f"{task.name or 'the task'} {advice}")
    if scores:
        return Thresholds(tuple(thresholds))
    if not one_vs_rest:
        return Uncast(task.labels)
    if task.head == "choice":
        raise ValueError(f"{task.name} has choices: there is no class to set against the rest")
    return OneVsRest(task.labels, one_vs_rest)


def clean_rows(
    forms: Sequence[tuple[Guard, Dataset]], *, drop_leaks: bool
) -> Int[np.ndarray, " n"]:
    """The train rows that are not held out; an error names one that is, unless they are dropped.

    Args:
      forms: the train set in several forms, each with the guard that knows it.
    """
    leaks = dict(leak for guard, train in forms for leak in guard.leaks(train.x))
    if leaks and not drop_leaks:
        for guard, train in forms:
            guard.check(train, advice="; --drop-leaks true leaves such rows out")
    if leaks:
        first = leaks[min(leaks)]
        say(f"{len(leaks)} train rows left out: they stand in validation or test ({first}, …)")
    return np.setdiff1d(np.arange(len(forms[0][1].y)), list(leaks))


def whole_texts(texts: Sequence[Text]) -> tuple[str, ...]:
    """An example's texts, one after the other."""
    return tuple(part for text in texts for part in join_pieces(text).split("\x1f"))


def texts_array(examples: Examples) -> np.ndarray:
    return np.array(example_texts(examples), object)


def half_of(dev: Examples, rows, cast: Cast, tokenizer: Tokenizer, *, seq_len: int) -> Half:
    part = dev.take(rows)
    sides = token_sides(part, tokenizer, seq_len=seq_len)
    return Half(part, encode_points(part, cast, tokenizer, seq_len=seq_len), rows, sides)


def encode_points(examples: Examples, cast: Cast, tokenizer: Tokenizer, *, seq_len: int) -> Dataset:
    points = examples.encode(tokenizer, seq_len=seq_len)
    return Dataset(points.x, cast(points.y))

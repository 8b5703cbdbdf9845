# SPDX-License-Identifier: Apache-2.0
"""What Agora works on: train, the two halves of dev, and the keys of what is held out."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from bort_jax.agora import Dataset, Guard, OneVsRest, Thresholds, Uncast
from bort_jax.data.row_text import text_keys
from bort_jax.data.tokenizer import Tokenizer
from bort_jax.report.terminal import say
from bort_jax.stages.agora.sides import token_sides
from bort_jax.stages.agora.split import example_texts, split_dev
from bort_jax.stages.finetune.config import trainable
from bort_jax.tasks import Examples, Task

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
    """The task's data as the model reads it; of the test split only what its texts are.

    Attributes:
      test: its examples, or none; labels are looked at once, at the end.
      guard: knows the texts of validation and test.
    """

    task: Task
    cast: Cast
    tokenizer: Tokenizer
    seq_len: int
    train: Dataset
    steer: Half
    report: Half
    test: Examples | None
    guard: Guard

    @property
    def shares(self) -> Float[np.ndarray, " c"]:
        """Of the classes in the given train set."""
        counts = np.bincount(self.train.y, minlength=len(self.cast.labels))
        return counts / counts.sum()

    def points(self, examples: Examples) -> Dataset:
        return encoded(examples, self.cast, self.tokenizer, seq_len=self.seq_len)


def read_material(config, tokenizer: Tokenizer) -> Material:
    """Reads and checks everything that a run of Agora needs.

    Raises:
      ValueError: the task cannot be cast as asked, half of dev is empty, or train rows stand in
        validation or test and `drop_leaks` is not given.
    """
    task = config.record()
    cast = casting(config, task)
    seq_len = config.seq_len
    dev = config.read("validation")
    test = config.read("test") if config.has("test") else None
    split = split_dev(dev, steer=config.steer)
    if not len(split.steer) or not len(split.report):
        raise ValueError(f"steer {config.steer} leaves one half of validation empty")
    held_out = {"validation": dev} | ({"test": test} if test else {})
    guard = Guard.of(
        text_keys(tokenizer),
        {name: rows.encode(tokenizer, seq_len=seq_len).x for name, rows in held_out.items()},
    )
    whole_texts = Guard.of(list, {name: texts_array(rows) for name, rows in held_out.items()})
    half = lambda rows: half_of(dev, rows, cast, tokenizer, seq_len=seq_len)
    return Material(
        task=task,
        cast=cast,
        tokenizer=tokenizer,
        seq_len=seq_len,
        train=clean_train(config, cast, tokenizer, guards=(whole_texts, guard)),
        steer=half(split.steer),
        report=half(split.report),
        test=test,
        guard=guard,
    )


def casting(config, task: Task) -> Cast:
    """How the task becomes one that Agora can work on.

    Raises:
      ValueError: it is asked for what does not fit the task, or a task of scores for nothing.
    """
    scores = task.head == "regression"
    if scores != bool(config.thresholds):
        advice = "needs --thresholds, such as [2.5]" if scores else "has classes, no --thresholds"
        raise ValueError(f"{task.name or 'the task'} {advice}")
    if scores:
        return Thresholds(tuple(config.thresholds))
    trainable(config, heads=("classification", "choice"))
    if not config.one_against:
        return Uncast(task.labels)
    if task.head == "choice":
        raise ValueError(f"{task.name} has choices: there is no class to set against the rest")
    return OneVsRest(task.labels, config.one_against)


def clean_train(
    config, cast: Cast, tokenizer: Tokenizer, *, guards: tuple[Guard, Guard]
) -> Dataset:
    """The train set without rows that are held out, or an error that names one.

    Args:
      guards: one that knows whole texts, since rows of tokens may be cut off, and one that knows
        rows of tokens, since two texts may be cut down to the same.
    """
    examples = config.read("train")
    train = encoded(examples, cast, tokenizer, seq_len=config.seq_len)
    forms = (Dataset(texts_array(examples), train.y), train)
    leaks = dict(
        leak for guard, form in zip(guards, forms, strict=True) for leak in guard.leaks(form.x)
    )
    if not leaks:
        return train
    if not config.drop_leaks:
        for guard, form in zip(guards, forms, strict=True):
            guard.check(form, advice="; --drop-leaks true leaves such rows out")
    first = min(leaks)
    say(f"{len(leaks)} train rows left out: they stand in validation or test ({leaks[first]}, …)")
    kept = np.setdiff1d(np.arange(len(train.y)), list(leaks))
    return Dataset(train.x[kept], train.y[kept])


def texts_array(examples: Examples) -> np.ndarray:
    return np.array(example_texts(examples), object)


def half_of(dev: Examples, rows, cast: Cast, tokenizer: Tokenizer, *, seq_len: int) -> Half:
    part = dev.take(rows)
    sides = token_sides(part, tokenizer, seq_len=seq_len)
    return Half(part, encoded(part, cast, tokenizer, seq_len=seq_len), rows, sides)


def encoded(examples: Examples, cast: Cast, tokenizer: Tokenizer, *, seq_len: int) -> Dataset:
    points = examples.encode(tokenizer, seq_len=seq_len)
    return Dataset(points.x, cast(points.y))

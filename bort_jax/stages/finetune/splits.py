# SPDX-License-Identifier: Apache-2.0
"""A task's splits as a model reads and is scored on them."""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from bort_jax.data.corpus import open_source
from bort_jax.data.tokenizer import Tokenizer
from bort_jax.interop import Checkpoint
from bort_jax.interop.description import identity
from bort_jax.stages.finetune.tuner import trim_columns
from bort_jax.stages.predict.outputs import scores_of
from bort_jax.tasks import Examples, Points, Task, TaskOptions, headline
from bort_jax.tasks.labels import check_splits
from bort_jax.tasks.read import examples_of, rows_of
from bort_jax.tasks.task import UNLABELLED


class HeldOut(NamedTuple):
    """Rows to score on: their examples, and their tokens `[n, s]`, or `[n, c, s]` for choices."""

    task: Task
    examples: Examples
    x: Int[np.ndarray, "*rows s"]

    def scores(self, outputs: Float[np.ndarray, "m k"]) -> dict[str, float]:
        """The task's metrics, by name; NaN of a model that has diverged."""
        return scores_of(outputs, self.task, examples=self.examples)

    def headline(self, outputs: Float[np.ndarray, "m k"]) -> float:
        return headline(self.scores(outputs))


class Splits(NamedTuple):
    """Train and validation, and test where its labels are given.

    Attributes:
      texts: of the train rows.
    """

    train: Points
    dev: HeldOut
    test: HeldOut | None
    texts: Examples


def read_splits(
    rows: TaskOptions, tokenizer: Tokenizer, *, seq_len: int, unlabelled: str = ""
) -> Splits:
    """Reads, checks and encodes every split before the first is trained on.

    Args:
      unlabelled: a source of rows that join the train rows without labels.

    Raises:
      FileNotFoundError: train or validation is missing.
      ValueError: a row of any split cannot be read.
    """
    task = rows.record()

    def held_out(examples: Examples) -> HeldOut:
        return HeldOut(task, examples, examples.encode(tokenizer, seq_len=seq_len).x)

    train = rows.read("train")
    if unlabelled:
        train = join_examples(train, read_unlabelled(unlabelled, task))
    dev = held_out(rows.read("validation"))
    test = rows.read_labelled("test")
    splits = {"train": train, "validation": dev.examples, "test": test}
    check_splits(task, {name: rows for name, rows in splits.items() if rows})
    points = train.encode(tokenizer, seq_len=seq_len)
    points = Points(trim_columns(points.x, tokenizer.special.pad), points.y)
    return Splits(points, dev, test and held_out(test), train)


def inputs_of(rows: TaskOptions, **models: Checkpoint | None) -> dict[str, Any]:
    """What a run is made from, by digests of content: the splits, unlabelled rows, models."""
    unlabelled = getattr(rows, "unlabelled", "")
    text = open_source(unlabelled).description() if unlabelled else {}
    named = {name: identity(checkpoint) for name, checkpoint in models.items()}
    return {"rows": rows.content(), "unlabelled": text, **named}


def read_unlabelled(source: str, task: Task) -> Examples:
    """The rows of a source as the task reads its own, without labels; blank ones are left out.

    Raises:
      FileNotFoundError: there is no such source.
      ValueError: a row cannot be read, or there is none.
    """
    rows = rows_of(source, keep=lambda row: any(row.values()))
    if open_source(source).is_text:
        task = replace(task, columns=("text",), question="")
    found = examples_of(rows, replace(task, label=""), required=False)
    missing = np.nan if task.head == "regression" else UNLABELLED
    return found._replace(labels=np.full_like(found.labels, missing))


def join_examples(one: Examples, other: Examples) -> Examples:
    labels = np.concatenate([one.labels, other.labels])
    return Examples(one.texts + other.texts, labels, one.keys + other.keys)

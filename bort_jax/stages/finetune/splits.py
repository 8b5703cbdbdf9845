# SPDX-License-Identifier: Apache-2.0
"""A task's splits as a model reads and is scored on them."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from bort_jax.data.tokenizer import Tokenizer
from bort_jax.stages.predict.outputs import scores_of
from bort_jax.tasks import Examples, Points, Task, TaskOptions, headline


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
    """Train and validation, and test where its labels are given."""

    train: Points
    dev: HeldOut
    test: HeldOut | None


def read_splits(rows: TaskOptions, tokenizer: Tokenizer, *, seq_len: int) -> Splits:
    """Reads, checks and encodes every split before the first is trained on.

    Raises:
      FileNotFoundError: train or validation is missing.
      ValueError: a row of any split cannot be read.
    """
    task = rows.record()

    def held_out(examples: Examples) -> HeldOut:
        return HeldOut(task, examples, examples.encode(tokenizer, seq_len=seq_len).x)

    train = rows.read("train").encode(tokenizer, seq_len=seq_len)
    dev = held_out(rows.read("validation"))
    test = rows.read("test") if rows.has("test") else None
    # Leaderboards keep the labels: `submit` is for those.
    return Splits(train, dev, held_out(test) if test and test.labelled else None)

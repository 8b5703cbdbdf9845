# SPDX-License-Identifier: Apache-2.0
"""A pretraining as a few typed values: its losses, its updates, its length and its pauses."""

from typing import NamedTuple

from bort_jax.engine.optimizer import Hyper
from bort_jax.engine.schedule import Horizon, Steps, Time
from bort_jax.engine.step import State


class LossWeights(NamedTuple):
    """The weight of each loss.

    Attributes:
      mlm: masked LM beside distillation; alone it always counts 1.
      distillation: T²·KL(teacher ‖ student).
      hidden: error of the last hidden states.
      temperature: T.
    """

    mlm: float = 0.1
    distillation: float = 0.5
    hidden: float = 0.0
    temperature: float = 2.0


class Recipe(NamedTuple):
    """The losses, the optimizer and its schedule.

    Attributes:
      losses: their weights.
      hyper: learning rate over steps, or over seconds where the run has a time; weight decay.
      optimizer: adamw or lamb.
      clip: largest norm of the gradient.
      accumulation_steps: micro-batches per step.
      seed: of dropout, and of the map to a teacher's hidden states.
    """

    losses: LossWeights
    hyper: Hyper
    optimizer: str = "adamw"
    clip: float = 1.0
    accumulation_steps: int = 1
    seed: int = 0


class Pacing(NamedTuple):
    """The length of a run, and the steps at which it saves, logs and scores.

    Attributes:
      steps: training steps; not read where there are seconds.
      seconds: time to train instead, or None.
      save_every: steps between checkpoints.
      keep: how many of the last checkpoints stay.
      keep_best: how many stay of those with the lowest held-out loss.
      log_every: steps between log lines.
      eval_every: steps between scores on held-out text.
      eval_rows: held-out rows that they are measured on.
      most_skipped: steps in a row without a finite loss and gradient that end the run.
    """

    steps: int
    seconds: float | None
    save_every: int
    keep: int
    keep_best: int
    log_every: int
    eval_every: int
    eval_rows: int
    most_skipped: int

    @property
    def total(self) -> float:
        """Steps, or seconds where the run has a time: what the learning rate follows."""
        return self.steps if self.seconds is None else self.seconds

    def horizon(self, state: State, *, began: float) -> Horizon:
        """The end of the run; seconds count from `began`, on top of what `state` has used."""
        if self.seconds is None:
            return Steps(self.steps, done=int(state.step))
        used = float(state.seconds)
        return Time(self.seconds, used=used, began=began, every=self.log_every)

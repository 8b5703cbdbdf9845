# SPDX-License-Identifier: Apache-2.0
"""Early stopping: a group is scored now and then, and each member keeps its best parameters."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from bort_jax.engine.parallel import unstack_members
from bort_jax.engine.step import State
from bort_jax.stages.finetune.population import Population, nan_like

DEV_ROWS = 64  # held-out points that are scored at a time


class EarlyStopping(NamedTuple):
    """When to stop early, and what for: the parameters that score best are kept.

    Attributes:
      x: the held-out points, `[n, s]`, or `[n, c, s]` for choices.
      score_fn: outputs of their rows of tokens, `[n, k]` or `[n * c, 1]`, to a number that should
        be large; NaN: no score, which is below any.
      every: steps from one evaluation to the next.
      patience: evaluations without a new best, in a row, after which a run ends.
    """

    x: Int[np.ndarray, "*rows s"]
    score_fn: Callable[[Float[np.ndarray, "m k"]], float]
    every: int
    patience: int


class Tuned(NamedTuple):
    """A finished fine-tuning: its parameters on the host, and the steps that made them."""

    params: Any
    steps: int


class EarlyStopper:
    """Watches one group.

    Args:
      population: the group's programs.
      shape: devices, and members of each.
      steps: of the whole training.
    """

    def __init__(
        self, rule: EarlyStopping, population: Population, shape: tuple[int, int], steps: int
    ):
        self.rule, self.population, self.shape, self.steps = rule, population, shape, steps
        members = shape[0] * shape[1]
        self.best = np.full(members, -np.inf)
        self.best_step, self.worse = np.zeros(members, int), np.zeros(members, int)
        self.params: Any = None

    def is_over(self, states: State, done: int) -> bool:
        """Scores the members, where it is time to; whether none of them goes on."""
        if done % self.rule.every and done != self.steps:
            return False
        scores = np.array([self.rule.score_fn(outputs) for outputs in self.outputs(states)])
        scores = np.where(np.isnan(scores), -np.inf, scores)
        going = self.worse < self.rule.patience
        # A first look always counts, so that a run without a finite score has parameters too.
        better = going & (scores > self.best) | (self.best_step == 0)
        old = states.params if self.params is None else self.params
        self.params = self.population.choose(states.params, old, better.reshape(self.shape))
        self.best[better], self.best_step[better] = scores[better], done
        self.worse = np.where(better, 0, self.worse + going)
        return bool((self.worse >= self.rule.patience).all())

    def outputs(self, states: State) -> list[Float[np.ndarray, "m k"]]:
        """Outputs of the held-out rows of tokens for each member; NaN where it has diverged."""
        x, parts = self.rule.x, []
        for start in range(0, len(x), DEV_ROWS):
            at = np.arange(start, start + DEV_ROWS)
            ids = x[np.where(at < len(x), at, start)]
            parts.append(np.asarray(self.population.outputs(states.params, ids)))
        outputs = np.concatenate(parts, axis=2)[:, :, : len(x)]
        outputs[np.asarray(states.in_a_row) > 0] = np.nan
        # Choices are rows of tokens too.
        return list(outputs.reshape(len(self.best), -1, outputs.shape[-1]))

    def take_best(self, count: int) -> list[Tuned]:
        """The best of each of the first `count` members."""
        found = zip(unstack_members(self.params, count), self.best, self.best_step, strict=False)
        return [Tuned(p if best > -np.inf else nan_like(p), int(step)) for p, best, step in found]

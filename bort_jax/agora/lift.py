# SPDX-License-Identifier: Apache-2.0
"""Whether mistakes are neighbours: only then are points near them better than points anywhere."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

NEIGHBOURS = 5
DRAWS = 999
CHANCE = (2.5, 97.5)  # percent


class Lift(NamedTuple):
    """P(wrong | a neighbour is wrong) / P(wrong), beside the same with mistakes in random order.

    Attributes:
      value: the lift.
      low: 2.5 % of random orders have less.
      high: 2.5 % have more.
    """

    value: float
    low: float
    high: float

    @property
    def clustered(self) -> bool:
        """Whether mistakes are neighbours more often than by chance."""
        return self.value > self.high

    def __str__(self) -> str:
        return f"{self.value:.2f} (by chance {self.low:.2f} to {self.high:.2f})"


def nearest_rows(
    vectors: Float[np.ndarray, "n h"], *, k: int = NEIGHBOURS
) -> Int[np.ndarray, "n k"] | None:
    """The k rows with the largest dot product with each, itself left out; None of too few rows."""
    if len(vectors) <= k:
        return None
    alike = vectors @ vectors.T
    np.fill_diagonal(alike, -np.inf)
    return np.argpartition(-alike, k - 1, axis=1)[:, :k]


def mistake_lift(
    neighbours: Int[np.ndarray, "n k"], wrong: Bool[np.ndarray, " n"], *, seed: int = 0
) -> Lift | None:
    """The lift, with an interval by permutation; None where none or all are wrong.

    Source: our reading; the paper has none.
    """
    if wrong.all() or not wrong.any():
        return None
    rng = np.random.default_rng(seed)
    orders = [wrong, *(rng.permutation(wrong) for _ in range(DRAWS))]
    values = np.array([_lift(neighbours, order) for order in orders])
    low, high = np.percentile(values[1:], CHANCE)
    return Lift(float(values[0]), float(low), float(high))


def _lift(neighbours: Int[np.ndarray, "n k"], wrong: Bool[np.ndarray, " n"]) -> float:
    near = wrong[neighbours]
    return float(near[wrong].sum() / max(1, near.sum()) / wrong.mean())

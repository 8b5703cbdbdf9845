# SPDX-License-Identifier: Apache-2.0
"""Ways to do the same, compared seed by seed: differences, how sure they are, tables of them."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student_t

# Of each task the scores of each arm, one a seed: the same seeds for all arms.
Scores = Mapping[str, Mapping[str, Sequence[float]]]
MEAN = "mean of tasks"


class Gain(NamedTuple):
    """Mean of paired differences and half its 95 % interval, by Student's t.

    The interval says how the mean would vary over seeds; what is the same for all seeds, such as
    the rows of a test set, is not in it.
    """

    mean: float
    margin: float

    @property
    def sure(self) -> bool:
        """The interval does not hold 0."""
        return abs(self.mean) > self.margin

    def __str__(self) -> str:
        return f"{self.mean:+.1f} ± {self.margin:.1f}"


def gain(ours: Sequence[float] | np.ndarray, theirs: Sequence[float] | np.ndarray) -> Gain:
    """Mean gain of `ours` over `theirs`, seed by seed.

    Raises:
      ValueError: fewer than two seeds, or not as many on both sides.
    """
    if len(ours) != len(theirs) or len(ours) < 2:
        raise ValueError(f"pairs of two seeds or more are compared, not {len(ours)}, {len(theirs)}")
    differences = np.subtract(ours, theirs)
    error = differences.std(ddof=1) / np.sqrt(len(differences))
    quantile = student_t.ppf(0.975, len(differences) - 1)
    return Gain(float(differences.mean()), float(quantile * error))


def with_mean(scores: Scores) -> Scores:
    """The tasks, and where there are several their mean, seed by seed."""
    if len(scores) < 2:
        return scores
    arms = next(iter(scores.values()))
    mean = lambda arm: np.mean([task[arm] for task in scores.values()], axis=0)
    return {**scores, MEAN: {arm: mean(arm) for arm in arms}}

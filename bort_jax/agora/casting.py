# SPDX-License-Identifier: Apache-2.0
"""Tasks that are not binary, cast into ones that are (arXiv 2010.07990 names casting; how is
our reading): one class against the rest, and scores against thresholds."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True)
class Uncast:
    """The task's own classes."""

    labels: tuple[str, ...]

    def __call__(self, y: np.ndarray) -> Int[np.ndarray, " n"]:
        return np.asarray(y, np.int32)


@dataclass(frozen=True)
class OneVsRest:
    """Class 1 is `positive` of the classes, class 0 all others.

    Raises:
      ValueError: there is no such class.
    """

    classes: tuple[str, ...]
    positive: str

    def __post_init__(self):
        if self.positive not in self.classes:
            raise ValueError(f"{self.positive!r} is not one of {', '.join(self.classes)}")

    @property
    def labels(self) -> tuple[str, str]:
        return (f"not {self.positive}", self.positive)

    def __call__(self, y: np.ndarray) -> Int[np.ndarray, " n"]:
        return (np.asarray(y) == self.classes.index(self.positive)).astype(np.int32)


@dataclass(frozen=True)
class Thresholds:
    """A score's class is how many of the rising thresholds it reaches.

    Raises:
      ValueError: there are none, or they do not rise.
    """

    cuts: tuple[float, ...]

    def __post_init__(self):
        if not self.cuts or any(b <= a for a, b in pairwise(self.cuts)):
            raise ValueError(f"thresholds must rise; got {list(self.cuts)}")

    @property
    def labels(self) -> tuple[str, ...]:
        between = [f"{low:g} to {high:g}" for low, high in pairwise(self.cuts)]
        return (f"below {self.cuts[0]:g}", *between, f"{self.cuts[-1]:g} or more")

    def __call__(self, y: np.ndarray) -> Int[np.ndarray, " n"]:
        return np.searchsorted(self.cuts, np.asarray(y), side="right").astype(np.int32)


def most_positive(scores: Sequence[Float[np.ndarray, " n"]]) -> Int[np.ndarray, " n"]:
    """The class of each point from one-against-rest models: the one that is surest of its own.

    Args:
      scores: of each class's model, how sure it is that a point is of its class.
    """
    return np.stack(scores).argmax(axis=0).astype(np.int32)

# SPDX-License-Identifier: Apache-2.0
"""Socrates: is he acceptable, and which of the points that he labels join the train set."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from bort_jax.agora.generate import row_keys

ACCEPTABLE = 2 / 3  # the accuracy that arXiv 2010.07990 asks of him
CHANCE = 0.05  # a Socrates who knows nothing is taken for one who does this often
PERMUTATIONS = 5000


class Trust(NamedTuple):
    """How far Socrates can be trusted, on points that steer nothing.

    Attributes:
      accuracy: share of the points that he labels right.
      chance: accuracy that his labels would have in random order.
      p: how often random order is as good; near 1 where he knows nothing.
    """

    accuracy: float
    chance: float
    p: float

    @property
    def acceptable(self) -> bool:
        return self.accuracy >= ACCEPTABLE

    @property
    def random(self) -> bool:
        """His labels are no better than the same labels dealt out at random."""
        return self.p > CHANCE


def trust(said: Int[np.ndarray, " n"], labels: Int[np.ndarray, " n"], *, seed: int = 0) -> Trust:
    """Compares Socrates' labels with the true ones.

    The test is one of permutation: a constant Socrates, and one who draws labels in whatever
    proportion, are random by it whatever their accuracy on an unbalanced set.

    Raises:
      ValueError: there are no points.
    """
    said, labels = np.asarray(said), np.asarray(labels)
    if not len(labels):
        raise ValueError("Socrates cannot be judged on no points")
    right = int((said == labels).sum())
    rng = np.random.default_rng(seed)
    dealt = [int((rng.permutation(said) == labels).sum()) for _ in range(PERMUTATIONS)]
    as_good = sum(count >= right for count in dealt)
    p = (1 + as_good) / (1 + PERMUTATIONS)
    return Trust(right / len(labels), float(np.mean(dealt)) / len(labels), p)


def certain(label_fn: Callable[[np.ndarray], np.ndarray]) -> Callable:
    """A Socrates without doubts: a function of points to labels as one with confidences."""

    def label(x: np.ndarray):
        labels = np.asarray(label_fn(x))
        return labels, np.ones(len(labels))

    return label


def remembered(label_fn: Callable) -> Callable:
    """A Socrates who is asked once for each point: τ *mix* asks him about the same parents at every
    try, and he is the larger model.

    Args:
      label_fn: points to labels and confidences, a point's own whatever stands beside it.
    """
    known: dict[bytes, tuple] = {}

    def label(x: np.ndarray):
        keys = row_keys(x)
        new = {key: k for k, key in enumerate(keys) if key not in known}
        if new:
            answers = zip(*label_fn(x[list(new.values())]), strict=True)
            known.update(zip(new, answers, strict=True))
        labels = np.array([known[key][0] for key in keys], int)
        return labels, np.array([known[key][1] for key in keys], float)

    return label


def balanced(shares: Float[np.ndarray, " c"], *, drift: float = 0.05) -> Callable:
    """Builds `keep_fn`: no class's share of the train set exceeds its wanted share by more than
    `drift`; of a class with too many new points the least confident are dropped.

    It keeps as many points as that allows. A class that is too large from the start gets no new
    points until the others have caught up.

    Args:
      shares: wanted of the classes 0, 1, …; often those of the train set that was given.
      drift: in [0, 1]; 1 keeps everything.

    Raises:
      ValueError: the shares do not sum to 1, or drift is outside [0, 1].
    """
    shares = np.asarray(shares, float)
    if shares.min() < 0 or abs(shares.sum() - 1) > 1e-6:
        raise ValueError(f"shares of the classes must sum to 1; got {shares.tolist()}")
    if not 0 <= drift <= 1:
        raise ValueError(f"drift must lie in [0, 1]; got {drift}")

    def keep(
        train: Int[np.ndarray, " n"], labels: Int[np.ndarray, " m"], confidences
    ) -> Bool[np.ndarray, " m"]:
        counts = lambda y: np.bincount(y, minlength=len(shares))
        allowed = largest_counts(counts(train), counts(labels), limits=shares + drift)
        # The rank of each point among those of its class, the most confident first.
        order = np.lexsort((-np.asarray(confidences), labels))
        starts = np.cumsum(counts(labels)) - counts(labels)
        rank = np.empty(len(labels), int)
        rank[order] = np.arange(len(labels)) - starts[labels[order]]
        return rank < allowed[labels]

    return keep


def confident(keep_fn: Callable, *, least: float) -> Callable:
    """`keep_fn` among the points whose label has at least the confidence `least`; the others go.

    A model's mistakes are where Socrates errs more often too: near them his labels are worse than
    his accuracy on dev says, and his confidence tells which (our reading; the paper keeps all).

    Raises:
      ValueError: `least` is outside [0, 1].
    """
    if not 0 <= least <= 1:
        raise ValueError(f"the least confidence must lie in [0, 1]; got {least}")

    def keep(train, labels, confidences) -> Bool[np.ndarray, " m"]:
        kept = np.asarray(confidences) >= least
        kept[kept] = keep_fn(train, labels[kept], np.asarray(confidences)[kept])
        return kept

    return keep


def largest_counts(
    present: Int[np.ndarray, " c"], offered: Int[np.ndarray, " c"], *, limits: np.ndarray
) -> Int[np.ndarray, " c"]:
    """The most new points of each class such that no class with new points has a share above its
    limit. Fewer of one class never allow more of another, so cutting down ends at the most."""
    allowed = offered
    while True:
        total = present.sum() + allowed.sum()
        cut = np.clip(np.floor(limits * total + 1e-9).astype(int) - present, 0, allowed)
        if (cut == allowed).all():
            return allowed
        allowed = cut

# SPDX-License-Identifier: Apache-2.0
"""Socrates, the teacher: what he answers, is he acceptable, and which of the points that he
labelled join the train set.

He is a function of texts, or of points, to probabilities `float32[n, classes]`: one-hot where he
gives names only, NaN where he could not be asked.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from scipy.stats import permutation_test

from bort_jax.agora.dataset import one_hot
from bort_jax.agora.generate import row_keys

ACCEPTABLE = 2 / 3  # the accuracy that arXiv 2010.07990 asks of him
CHANCE = 0.05  # how often a Socrates who knows nothing passes the test
PERMUTATIONS = 5000
SMALLEST = 1e-12  # a probability of 0 has no logarithm
RANGE = (0.5, 20.0)  # few rows, all of them right, would make every answer certain


class Trust(NamedTuple):
    """Accuracy of Socrates, the teacher, on labelled points, beside that of chance.

    Attributes:
      accuracy: fraction of the points that he labels correctly.
      chance: mean accuracy of his labels in random order.
      p: p-value of the permutation test: how often random order is as good.
    """

    accuracy: float
    chance: float
    p: float

    @property
    def acceptable(self) -> bool:
        """Whether he is as good as the paper asks."""
        return self.accuracy >= ACCEPTABLE

    @property
    def random(self) -> bool:
        """Whether his labels are no better than the same labels in random order."""
        return self.p > CHANCE


def assess(
    predicted: Int[np.ndarray, " n"], labels: Int[np.ndarray, " n"], *, seed: int = 0
) -> Trust:
    """Compares Socrates' labels with the true ones.

    The test is one of permutation: a constant Socrates, and one who draws labels in whatever
    proportion, are random by it whatever their accuracy on an unbalanced set.

    Raises:
      ValueError: there are fewer than two points.
    """
    predicted, labels = np.asarray(predicted), np.asarray(labels)
    if len(labels) < 2:
        raise ValueError(f"Socrates cannot be judged on {len(labels)} rows: at least 2 are needed")
    test = permutation_test(
        (predicted,),
        lambda shuffled, axis: (shuffled == labels).mean(axis=axis),
        permutation_type="pairings",
        alternative="greater",
        n_resamples=PERMUTATIONS,
        batch=250,
        rng=seed,
    )
    return Trust(float(test.statistic), float(test.null_distribution.mean()), float(test.pvalue))


def hard_labels(label_fn: Callable[[np.ndarray], np.ndarray], *, classes: int = 2) -> Callable:
    """Turns a function of points to labels into a `label_fn`: every answer is certain."""
    return lambda x: one_hot(np.asarray(label_fn(x), int), classes)


def cache_labels(label_fn: Callable) -> Callable:
    """Caches Socrates' answers: τ *mix* asks for those of the same parents at every try, and he
    is the larger model.

    Args:
      label_fn: points to probabilities [n, c], a point's own whatever stands beside it.
    """
    known: dict[bytes, np.ndarray] = {}

    def label(x: np.ndarray) -> Float[np.ndarray, "n c"]:
        keys = row_keys(x)
        new = {key: k for k, key in enumerate(keys) if key not in known}
        if new:
            known.update(zip(new, label_fn(x[list(new.values())]), strict=True))
        return np.stack([known[key] for key in keys])

    return label


def balance_classes(shares: Float[np.ndarray, " c"], *, max_class_shift: float = 0.05) -> Callable:
    """Builds `keep_fn`: no class's share of the train set exceeds its wanted share by more than
    `max_class_shift`; of a class with too many new points the least confident are dropped.

    It keeps as many points as that allows. A class that is too large from the start gets no new
    points until the others have caught up.

    Args:
      shares: wanted of the classes 0, 1, …; often those of the train set that was given.
      max_class_shift: in [0, 1]; 1 keeps everything.

    Raises:
      ValueError: the shares do not sum to 1, or max_class_shift is outside [0, 1].
    """
    shares = np.asarray(shares, float)
    if shares.min() < 0 or abs(shares.sum() - 1) > 1e-6:
        raise ValueError(f"shares of the classes must sum to 1; got {shares.tolist()}")
    if not 0 <= max_class_shift <= 1:
        raise ValueError(f"max_class_shift must lie in [0, 1]; got {max_class_shift}")

    def keep(
        train: Int[np.ndarray, " n"], labels: Int[np.ndarray, " m"], confidences
    ) -> Bool[np.ndarray, " m"]:
        counts = lambda y: np.bincount(y, minlength=len(shares))
        allowed = largest_counts(counts(train), counts(labels), limits=shares + max_class_shift)
        # The rank of each point among those of its class, the most confident first.
        order = np.lexsort((-np.asarray(confidences), labels))
        starts = np.cumsum(counts(labels)) - counts(labels)
        rank = np.empty(len(labels), int)
        rank[order] = np.arange(len(labels)) - starts[labels[order]]
        return rank < allowed[labels]

    return keep


def drop_unsure(keep_fn: Callable, *, min_confidence: float) -> Callable:
    """Drops the points whose pseudo-label is less confident, before `keep_fn` sees the others.

    A model's mistakes are where Socrates errs more often too: near them his labels are worse than
    his accuracy on dev says, and his confidence tells which (our reading; the paper keeps all).

    Raises:
      ValueError: `min_confidence` is outside [0, 1].
    """
    if not 0 <= min_confidence <= 1:
        raise ValueError(f"min_confidence must lie in [0, 1]; got {min_confidence}")

    def keep(train, labels, confidences) -> Bool[np.ndarray, " m"]:
        kept = np.asarray(confidences) >= min_confidence
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


def fit_temperature(answers: Float[np.ndarray, "n c"], labels: Int[np.ndarray, " n"]) -> float:
    """The temperature under which the answers make the true labels likeliest.

    1 where all answers are certain: who gives no probabilities has none to soften.

    Source: temperature scaling, Guo et al., arXiv 1706.04599.
    """
    if not len(labels) or (answers.max(axis=1) == 1).all():
        return 1.0
    logits, rows = log_answers(answers), np.arange(len(labels))
    surprise = lambda log_t: -log_softmax(logits / np.exp(log_t), axis=1)[rows, labels].mean()
    found: Any = minimize_scalar(surprise, bounds=np.log(RANGE), method="bounded")
    return float(np.exp(found.x))


def at_temperature(label_fn: Callable, temperature: float) -> Callable:
    """`label_fn` with softened probabilities; certain answers stay."""

    def label(x: np.ndarray) -> Float[np.ndarray, "n c"]:
        answers = np.asarray(label_fn(x), np.float32)
        softened = softmax(log_answers(answers) / temperature, axis=1).astype(np.float32)
        return np.where(answers.max(axis=1, keepdims=True) == 1, answers, softened)

    return label if temperature != 1 else label_fn


def log_answers(answers: Float[np.ndarray, "n c"]) -> Float[np.ndarray, "n c"]:
    return np.log(np.maximum(np.asarray(answers, float), SMALLEST))

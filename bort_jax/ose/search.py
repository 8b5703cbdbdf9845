# SPDX-License-Identifier: Apache-2.0
"""Which architectures to train: three searches, each a rule for what to train next.

A rule sees what has been asked and measured so far and names the next members of Ξ to train;
none: it is done. Let g = (1 − p/p(T))·(1 − i/i(T)), so that W = g/e.

*interval* (arXiv 2010.08512, section 4; our reading of k). Order Ξ by falling g and cut it into
intervals in which g falls by no more than the factor 1 − ε; k, the length of an interval, is
as long as ε allows, not fixed. Train the last of each. If e does not increase along the
order, then for every ξ in the interval of the representative r

    W(r) = g(r)/e(r) ≥ (1 − ε)·g(ξ)/e(ξ) = (1 − ε)·W(ξ),

so the best representative has W ≥ (1 − ε)·max W. There are at most 1 + ln(g_max/g_min)/ε
intervals, and each costs one training, whatever |Ξ| is.

*bounded* (our own) assumes less: e does not increase when every architectural parameter stays
or grows. Then e(ξ) ≥ e(ξ′) for every measured ξ′ ≥ ξ, which bounds W(ξ) by g(ξ)/max e(ξ′).
Train where the bound is largest, until the best W is at least 1 − ε of it. Members that have
no bound yet are bounded by training a largest member above them first.

*exhaustive* trains all, and assumes nothing.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from bort_jax.ose.candidates import Candidates, Relation


class Progress(NamedTuple):
    """The state of a search, which a rule decides on.

    Attributes:
      candidates: all of Ξ.
      eligible: members that the budget allows, as far as is known before training.
      asked: members that were handed to the error function.
      errors: what came back, NaN where nothing did.
      max_error: ceiling on e.
      epsilon: ε.
    """

    candidates: Candidates
    eligible: Bool[np.ndarray, " n"]
    asked: Bool[np.ndarray, " n"]
    errors: Float[np.ndarray, " n"]
    max_error: float
    epsilon: float

    def best_w(self) -> float:
        """The largest W measured within the budget, 0 if there is none."""
        allowed = self.eligible & (self.errors <= self.max_error)
        return float(np.max(self.candidates.savings / self.errors, where=allowed, initial=0.0))


class Search(NamedTuple):
    """A rule, and the relation that its bound rests on."""

    rule: Callable[[Progress], Int[np.ndarray, " m"]]
    relation: Relation


def worth_training(progress: Progress) -> Bool[np.ndarray, " n"]:
    """Members that save something; under a ceiling on e also others, lest they alone meet it.

    Members that save nothing have W = 0 whatever their error.
    """
    return progress.eligible & ((progress.candidates.savings > 0) | (progress.max_error < np.inf))


def exhaustive(progress: Progress) -> Int[np.ndarray, " m"]:
    """Everything, T and what else saves nothing included: the table serves every budget."""
    return np.flatnonzero(progress.eligible & ~progress.asked)


def interval(progress: Progress) -> Int[np.ndarray, " m"]:
    """The last of each interval; where that failed, the one before it that can be trained."""
    savings = progress.candidates.savings
    members = np.flatnonzero(worth_training(progress))
    numbers = cut(savings[members], epsilon=progress.epsilon)
    failed = progress.asked & np.isnan(progress.errors)
    left = members[~failed[members]]
    last = np.append(np.diff(numbers[~failed[members]]) > 0, True)[: len(left)]
    return left[last & ~progress.asked[left]]


def cut(savings: Float[np.ndarray, " n"], *, epsilon: float) -> Int[np.ndarray, " n"]:
    """Numbers the intervals: a new one begins where g falls below (1 − ε) of its first."""
    numbers = np.zeros(len(savings), dtype=np.int64)
    first = savings[0] if len(savings) else 0.0
    for k in range(1, len(savings)):
        begins = savings[k] < (1 - epsilon) * first
        numbers[k] = numbers[k - 1] + begins
        first = savings[k] if begins else first
    return numbers


def bounded(progress: Progress) -> Int[np.ndarray, " m"]:
    """The member with the largest bound on W; a largest member above it while it has none."""
    candidates, open_ = progress.candidates, progress.eligible & ~progress.asked
    bounds = np.where(open_, upper_bounds(progress, "componentwise"), 0.0)
    best = int(bounds.argmax())
    if not bounds[best]:
        return _any_that_may_meet_the_ceiling(progress)
    if progress.best_w() >= (1 - progress.epsilon) * bounds[best]:
        return np.array([], dtype=np.int64)
    if np.isinf(bounds[best]):
        best = int(np.flatnonzero(open_ & candidates.above(best, "componentwise"))[-1])
    return np.array([best])


def _any_that_may_meet_the_ceiling(progress: Progress) -> Int[np.ndarray, " m"]:
    """The largest left, until one meets the ceiling on e: W is 0 for all that is left."""
    met = progress.eligible & (progress.errors <= progress.max_error)
    least = progress.candidates.least_errors(progress.errors, "componentwise")
    left = worth_training(progress) & ~progress.asked & (least <= progress.max_error)
    return np.flatnonzero(left)[-1:] if not met.any() else np.array([], dtype=np.int64)


def upper_bounds(progress: Progress, relation: Relation) -> Float[np.ndarray, " n"]:
    """The largest W that each member can have: its own where it was measured, 0 where the
    budget forbids it, ∞ where nothing above it was measured."""
    candidates, errors = progress.candidates, progress.errors
    least = candidates.least_errors(errors, relation)
    with np.errstate(divide="ignore", invalid="ignore"):
        possible = np.where(candidates.savings > 0, candidates.savings / least, 0.0)
    bounds = np.where(np.isnan(errors), possible, candidates.savings / errors)
    known = np.where(np.isnan(errors), least, errors)
    return np.where(progress.eligible & (known <= progress.max_error), bounds, 0.0)


SEARCHES = {
    "interval": Search(interval, "order"),
    "bounded": Search(bounded, "componentwise"),
    "exhaustive": Search(exhaustive, "componentwise"),
}

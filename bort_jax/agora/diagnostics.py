# SPDX-License-Identifier: Apache-2.0
"""What says beforehand that Agora will not help: numbers, and what to do instead.

Source: our reading; the limits are ours.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

HEADROOM = 0.03  # that Socrates must be ahead of plain fine-tuning on dev
SURE = 0.7  # a class is named with confidence from here on
LARGE = 1.5  # times the budget: a pool that is hardly larger is labelled as a whole
FAR = 1.25  # times the distance between dev rows: a pool that is farther is of another kind
COMPARED, DRAWS = 300, 200  # rows of each side, random divisions of both


class Finding(NamedTuple):
    """One check.

    Attributes:
      name: of the check.
      number: what was found, as it is printed.
      problem: what speaks against a run, and what to do instead; empty: nothing.
    """

    name: str
    number: str
    problem: str = ""


def headroom(socrates: float, plain: float) -> Finding:
    """Both accuracies are of the same rows of dev."""
    ahead = socrates - plain
    both = f"Socrates {100 * socrates:.1f} %, plain {100 * plain:.1f} %"
    problem = (
        f"Socrates is less than {100 * HEADROOM:.0f} points above plain fine-tuning ({both}), "
        "which can gain little from him: get a better Socrates, or label rows by hand"
    )
    number = f"{both}: {100 * ahead:+.1f} points"
    return Finding("headroom", number, problem if ahead < HEADROOM else "")


def weak_classes(
    answers: Float[np.ndarray, "n c"], labels: Int[np.ndarray, " n"], names: tuple[str, ...]
) -> Finding:
    """Of each class that stands in dev, the rows that Socrates gives it with confidence."""
    sure = answers.argmax(axis=1)[answers.max(axis=1) >= SURE]
    counts = np.bincount(sure, minlength=len(names))
    number = ", ".join(f"{name} {count}" for name, count in zip(names, counts))
    weak = [names[c] for c in np.unique(labels) if not counts[c]]
    problem = (
        f"Socrates never names {' or '.join(weak)} with a confidence of {SURE:g}: teach him that "
        "class first, or label rows of it by hand"
    )
    return Finding("confident answers by class", number, problem if weak else "")


def pool_size(pool: int, calls: int) -> Finding:
    number = f"{pool:,} texts, {calls:,} calls"
    problem = (
        f"the pool of {pool:,} texts is hardly larger than the budget of {calls:,} calls: label "
        "all of it (finetune --teacher SOCRATES --unlabelled POOL)"
    )
    return Finding("pool beside the budget", number, problem if pool < LARGE * calls else "")


def pool_distance(dev: Float[np.ndarray, "n h"], pool: Float[np.ndarray, "m h"]) -> Finding:
    """How far dev's rows are from the pool, beside how far they are from each other.

    Few rows are far from others by chance: what is refused is farther than that, too.

    Args:
      dev: vectors of length 1.
      pool: as many of the pool, drawn at random: more of them would be nearer.
    """
    rng = np.random.default_rng(0)
    dev, pool = (rows[rng.permutation(len(rows))[:COMPARED]] for rows in (dev, pool))
    both = np.concatenate([dev, pool])
    apart = 1 - both @ both.T
    np.fill_diagonal(apart, np.inf)
    orders = [np.arange(len(both)), *(rng.permutation(len(both)) for _ in range(DRAWS))]
    ratio, *mixed = (_times_as_far(apart, *np.split(order, [len(dev)])) for order in orders)
    chance = float(np.quantile(mixed, 0.975))
    problem = (
        f"the pool is {ratio:.2f} times as far from validation as its rows are from each other (by "
        f"chance up to {chance:.2f}): it is the wrong pool; give texts of the task's own kind"
    )
    number = f"{ratio:.2f} times that between rows of validation (by chance up to {chance:.2f})"
    return Finding("distance of the pool", number, problem if ratio > max(FAR, chance) else "")


def _times_as_far(apart: Float[np.ndarray, "n n"], dev, pool) -> float:
    """Median distance of dev's rows to the nearest of the pool, over that to the nearest own."""
    own, theirs = (np.median(apart[np.ix_(dev, rows)].min(axis=1)) for rows in (dev, pool))
    return float(theirs / max(own, 1e-6))

# SPDX-License-Identifier: Apache-2.0
"""Θ, the hyperparameter sets, and step 6: which of them leave."""

from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

# One hyperparameter set: (name, value) pairs, hashable and in a fixed order.
Theta = tuple[tuple[str, Any], ...]


class Run(NamedTuple):
    """The sets that leave, worst first, and the pairs that all of them share."""

    removed: list[Theta]
    shared: Theta


def grid(**choices: Sequence[Any]) -> list[Theta]:
    """All combinations of the choices: `grid(seed=[0, 1], learning_rate=[1e-4, 1e-5])`.

    A name with a single choice belongs to no set: what all share from the start can
    neither rank nor prune them. Give it to `fit_fn` instead.
    """
    varied = {name: values for name, values in choices.items() if len(values) > 1}
    return [tuple(zip(varied, values, strict=True)) for values in product(*varied.values())]


def describe(theta: Theta) -> str:
    """A set in one line: `seed=0 learning_rate=0.001`."""
    return " ".join(f"{name}={value}" for name, value in theta)


def worst_run(ranked: Sequence[Theta]) -> Run:
    """The longest common sequence rooted at the first, the worst, element.

    *Our reading* of arXiv 2010.07990: walk up from the worst set while the sets walked over
    still share at least one (name, value) pair; that run is removed, so that a bad value leaves
    as a whole. The best set stays while there is another; alone, it leaves. At least one set
    goes each time.

    Args:
      ranked: hyperparameter sets, worst first.

    Raises:
      ValueError: there is none.
    """
    if not ranked:
        raise ValueError("no hyperparameter set is left to remove")
    shared, run = set(ranked[0]), 1
    for theta in ranked[1:-1]:
        if not shared & set(theta):
            break
        shared &= set(theta)
        run += 1
    return Run(list(ranked[:run]), tuple(pair for pair in ranked[0] if pair in shared))


def prune(ranked: Sequence[Theta]) -> list[Theta]:
    """The survivors of `worst_run`, in the same order; none of none."""
    return list(ranked[len(worst_run(ranked).removed) :]) if ranked else []

# SPDX-License-Identifier: Apache-2.0
"""The interval scheme: order Ξ by its exact costs, train one architecture per interval.

The law. Let g = (1 − p/p(T))·(1 − i/i(T)), so that W = g/e, and order Ξ by falling g. Cut
the order into intervals in which g falls by no more than the factor 1 − ε, and train the
last of each. If e does not increase along the order, then for every ξ in the interval of
the representative r

    W(r) = g(r)/e(r) ≥ (1 − ε)·g(ξ)/e(ξ) = (1 − ε)·W(ξ),

so the best representative has W ≥ (1 − ε)·max W. There are at most 1 + ln(g_max/g_min)/ε
intervals, and each costs one training, whatever |Ξ| is. If e is only nearly monotone,
e(r) ≤ ρ·e(ξ) for ξ before r, the same lines give (1 − ε)/ρ.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from bort_jax.arch import Arch, SearchSpace, as_rows
from bort_jax.ose.objective import break_even, on_pareto_front, saving, w_coefficient

ErrorFn = Callable[[Arch], float]


@dataclass(frozen=True)
class Certificate:
    """What is guaranteed about the winner, and on what the guarantee rests.

    Attributes:
      epsilon: the ε that was asked for.
      assumption: the sentence that the bound needs.
      violations: measured pairs, out of `pairs`, in which the costlier architecture of the
        order erred more.
      rho: the largest such ratio of errors that was measured, 1 if none.
      ratio: (1 − ε)/ρ. W of the winner is at least this share of the largest W in Ξ if the
        architectures that were not trained behave like those that were.
    """

    epsilon: float
    assumption: str
    violations: int
    pairs: int
    rho: float
    ratio: float


@dataclass(frozen=True)
class Extraction:
    """The outcome of an extraction; arrays are in the order of `archs`.

    Attributes:
      archs: all of Ξ, ordered by falling g, ties by size.
      params, steps: p and i.
      intervals: number of the interval that each belongs to.
      errors: e, NaN where not trained.
      w: W, NaN where not trained.
      front: on the Pareto front of (p, i, e) among the trained.
      break_even: e(best)/e(ξ) below which `best` beats ξ.
      best: index of the winner.
      maximum_point: the T of Ξ.
    """

    archs: list[Arch]
    params: Int[np.ndarray, " n"]
    steps: Int[np.ndarray, " n"]
    intervals: Int[np.ndarray, " n"]
    errors: Float[np.ndarray, " n"]
    w: Float[np.ndarray, " n"]
    front: np.ndarray
    break_even: Float[np.ndarray, " n"]
    best: int
    maximum_point: Arch
    certificate: Certificate

    @property
    def best_arch(self) -> Arch:
        return self.archs[self.best]

    @property
    def trained(self) -> Int[np.ndarray, " t"]:
        """Indices of the architectures whose error was measured."""
        return np.flatnonzero(~np.isnan(self.errors))


def extract(
    space: SearchSpace, *, cost_fn: Callable, error_fn: ErrorFn, epsilon: float = 0.25
) -> Extraction:
    """Finds the architecture of nearly largest W with few trainings (arXiv 2010.08512, 4).

    *Our reading* of the published scheme: k, the length of an interval, is not fixed but is
    as long as ε allows (see the law at the head of this module). T itself has W = 0 and is
    not trained, nor is anything else that saves no parameters or no steps. Ties in g, such
    as tuples that differ only in heads, are ordered by hidden, depth, intermediate, heads;
    ties in W go to the smaller g, the larger network.

    Args:
      space: Ξ.
      cost_fn: int[n, 4] to an object with `params` and `steps`, exact.
      error_fn: trains an architecture and returns its error in (0, 1]; called once per
        interval, in order of growing size.
      epsilon: ε in (0, 1); smaller means shorter intervals and more trainings.

    Raises:
      ValueError: ε is outside (0, 1), Ξ is empty, or an error is not in (0, 1].
    """
    if not 0 < epsilon < 1:
        raise ValueError(f"epsilon must lie in (0, 1); got {epsilon}")
    archs, params, steps = _ordered(space.archs(), cost_fn)
    savings = saving(params, steps)
    intervals = _cut(savings, epsilon=epsilon)
    errors = np.full(len(archs), np.nan)
    for index in _representatives(intervals, savings):
        errors[index] = _checked_error(error_fn(archs[index]), archs[index])
    w = w_coefficient(params, steps, errors)
    # Where nothing saves anything every W is 0, and the answer is T.
    best = int(np.lexsort((np.arange(len(w)), np.nan_to_num(w, nan=-1.0)))[-1])
    return Extraction(
        archs=archs,
        params=params,
        steps=steps,
        intervals=intervals,
        errors=errors,
        w=w,
        front=on_pareto_front(np.stack([params, steps, errors], axis=1)),
        break_even=break_even(savings, best),
        best=best,
        maximum_point=archs[-1],
        certificate=_certify(errors[~np.isnan(errors)], epsilon=epsilon),
    )


def planned_trainings(space: SearchSpace, *, cost_fn: Callable, epsilon: float) -> list[Arch]:
    """The architectures that `extract` would train, in its order."""
    archs, params, steps = _ordered(space.archs(), cost_fn)
    savings = saving(params, steps)
    return [archs[i] for i in _representatives(_cut(savings, epsilon=epsilon), savings)]


def _ordered(archs: list[Arch], cost_fn: Callable):
    """Ξ by falling g; among equals by size, so that the last of equals is the largest."""
    costs = cost_fn(as_rows(archs))
    savings = saving(costs.params, costs.steps)

    def rank(index: int):
        arch = archs[index]
        size = (arch.hidden, arch.depth, arch.intermediate, arch.heads)
        return (-savings[index], costs.params[index], *size)

    order = sorted(range(len(archs)), key=rank)
    return [archs[i] for i in order], costs.params[order], costs.steps[order]


def _cut(savings: Float[np.ndarray, " n"], *, epsilon: float) -> Int[np.ndarray, " n"]:
    """Numbers the intervals: a new one begins where g falls below (1 − ε) of its first."""
    intervals = np.zeros(len(savings), dtype=np.int64)
    first = savings[0]
    for index in range(1, len(savings)):
        begins = savings[index] < (1 - epsilon) * first
        intervals[index] = intervals[index - 1] + begins
        first = savings[index] if begins else first
    return intervals


def _representatives(intervals: np.ndarray, savings: np.ndarray) -> Iterable[int]:
    """The last of each interval, save where it saves nothing: W is 0 whatever its error."""
    last = np.flatnonzero(np.append(np.diff(intervals) > 0, True))
    return [int(index) for index in last if savings[index] > 0]


def _checked_error(error: float, arch: Arch) -> float:
    if not 0 < error <= 1:
        raise ValueError(f"error_fn must return a number in (0, 1]; got {error} for {arch}")
    return error


def _certify(errors: Float[np.ndarray, " t"], *, epsilon: float) -> Certificate:
    ratios = errors[None, :] / errors[:, None]  # [earlier, later] in the order
    later = np.triu(np.ones_like(ratios, dtype=bool), k=1)
    rho = float(max(ratios[later].max(initial=1.0), 1.0))
    return Certificate(
        epsilon=epsilon,
        assumption="e does not increase along the order by falling savings g",
        violations=int((ratios[later] > 1).sum()),
        pairs=int(later.sum()),
        rho=rho,
        ratio=(1 - epsilon) / rho,
    )

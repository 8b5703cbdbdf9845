# SPDX-License-Identifier: Apache-2.0
"""The networks inside a parent that are best under a budget, and the front of all budgets."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from bort_jax.arch import LayerwiseArch
from bort_jax.ose import Budget, Infeasible, LayerwiseSolution, on_pareto_front, solve_layerwise
from bort_jax.stages.extract.parent.choices import Choices

MOST = 8  # networks that are measured jointly
TRIES = 3
SHARES = (3 / 4, 1 / 2, 1 / 3, 1 / 4, 1 / 6, 1 / 8, 1 / 12, 1 / 16)  # of the parent's i: the front
FAR = 10_000  # times the parent's p and i
W_OF_DEPTH, LEAST_ERROR = "largest W of its depth", "least e at its multiply-adds"
LIMITED = ("params", "macs", "error")
Ceilings = tuple[float, float, float]


class Found(NamedTuple):
    """A network inside a parent.

    Attributes:
      params, macs: p and i, exact.
      surrogate: e as the sum over its layers.
      error: e, measured jointly; until it is, the surrogate times the ratio seen at its depth.
      measured: whether it is.
      saving: (1 − p/P)(1 − i/I).
      wanted: what it is the best of, by surrogate.
      gap: 0: that is proved; else how far from it, as a share of W, it can be.
    """

    arch: LayerwiseArch
    params: int
    macs: int
    surrogate: float
    error: float
    measured: bool
    saving: float
    wanted: str
    gap: float

    @property
    def w(self) -> float:
        return self.saving / self.error


class Checked(NamedTuple):
    """A network that was measured jointly, by its surrogate and what it was."""

    surrogate: float
    error: float

    @property
    def ratio(self) -> float:
        return self.error / self.surrogate


Known = Mapping[str, Checked]  # by the name of the architecture


def ceilings_within(budget: Budget) -> Ceilings:
    """Ceilings on p, i and e.

    Raises:
      ValueError: a limit on something else, or a floor.
    """
    budget.check(LIMITED)
    if budget.floors:
        raise ValueError("inside a parent there are ceilings only: leave --about-params out")
    params, macs, error = (float(budget.ceilings.get(name, np.inf)) for name in LIMITED)
    return params, macs, error


def parent_fits(choices: Choices, ceilings: Ceilings) -> bool:
    """Whether there is a ceiling on p or i, and the parent keeps them all."""
    costs = (*choices.costs.whole, choices.bases[0])
    given = any(np.isfinite(ceilings[:2]))
    return bool(given and all(cost <= top for cost, top in zip(costs, ceilings, strict=True)))


def parent_itself(choices: Choices) -> Found:
    """The parent as a network inside itself, whose W is 0."""
    arch = choices.arch(0, [len(choices.options) - 1] * len(choices.errors))
    base = choices.bases[0]
    return Found(arch, *choices.costs.whole, base, base, True, 0.0, "the parent", 0.0)


def best_of_depths(choices: Choices, ceilings: Ceilings, known: Known) -> list[Found]:
    """The network of each depth that has the largest W by surrogate; the largest W first.

    Raises:
      Infeasible: no network is within the ceilings.
    """
    found = [best_of_depth(choices, k, ceilings, known) for k in range(len(choices.kept))]
    there = [one for one in found if one is not None]
    if not there:
        raise Infeasible(none_within(choices, ceilings))
    return sorted(there, key=lambda one: -one.w)[:MOST]


def best_of_depth(choices: Choices, number: int, ceilings: Ceilings, known: Known) -> Found | None:
    """The network of one depth with the largest W by surrogate; None if none is within."""
    ratio = ratio_of(choices, number, known)
    scaled = (*ceilings[:2], ceilings[2] / ratio)
    try:
        solved = solve_layerwise([choices.problem(number), choices.whole], ceilings=scaled)
    except ValueError:  # no choice of layers within the ceilings
        return None
    return found_by(choices, number, solved, known)._replace(wanted=W_OF_DEPTH)


def least_error(choices: Choices, macs: float, known: Known) -> Found | None:
    """The network within a ceiling on i that has the least e by surrogate; None if none is."""
    # Beside a maximum point this far away all save alike, and W is 1/e.
    far = choices.whole._replace(
        params=FAR * choices.whole.params, inference_cost=FAR * choices.whole.inference_cost
    )
    problems = [choices.problem(k) for k in range(len(choices.kept))]
    try:
        solved = solve_layerwise([*problems, far], ceilings=(np.inf, macs, np.inf))
    except ValueError:  # no choice of layers within the ceiling
        return None
    return found_by(choices, solved.problem, solved, known)


def found_by(choices: Choices, number: int, solved: LayerwiseSolution, known: Known) -> Found:
    """What the program found among the networks of a depth."""
    arch = choices.arch(number, solved.choice.tolist())
    whole, seen = choices.costs.whole, known.get(str(arch))
    saving = (1 - solved.params / whole[0]) * (1 - solved.inference_cost / whole[1])
    error = seen.error if seen else ratio_of(choices, number, known) * solved.error
    return Found(
        *(arch, solved.params, solved.inference_cost, solved.error, error),
        *(seen is not None, saving, LEAST_ERROR, solved.gap),
    )


def ratio_of(choices: Choices, number: int, known: Known) -> float:
    """Measured e over surrogate of the networks of a depth that were measured; 1 where none was."""
    depth = len(choices.kept[number])
    seen = [one.ratio for name, one in known.items() if _depth(name) == depth]
    return float(np.mean(seen)) if seen else 1.0


def _depth(name: str) -> int:
    return LayerwiseArch.parse(name).depth


def none_within(choices: Choices, ceilings: Ceilings) -> str:
    """What to say where no network is within the ceilings: the least of each."""
    problems = [choices.problem(k) for k in range(len(choices.kept))]
    least = (
        min(p.base_params + int(p.params.min(axis=1).sum()) for p in problems),
        min(p.base_inference_cost + int(p.inference_cost.min(axis=1).sum()) for p in problems),
        min(choices.bases),
    )
    told = ", ".join(f"{name} {value:,.4g}" for name, value in zip(LIMITED, least, strict=True))
    budget = Budget({n: c for n, c in zip(LIMITED, ceilings, strict=True) if np.isfinite(c)})
    return f"no network inside the parent meets {budget}; the least that there is of each: {told}"


def answer(
    choices: Choices, ceilings: Ceilings, error_fn: Callable[[LayerwiseArch], float]
) -> tuple[list[Found], dict[str, Checked]]:
    """The best of each depth, measured jointly, largest W first; and all that were measured.

    A ceiling on e holds for what was measured: where none keeps it, the surrogate's is lowered.

    Raises:
      Infeasible: no network is within the ceilings, or none was found whose measured e is.
    """
    known: dict[str, Checked] = {}
    for _ in range(TRIES):
        found = []
        for one in best_of_depths(choices, ceilings, known):
            if not one.measured:
                known[str(one.arch)] = Checked(one.surrogate, error_fn(one.arch))
            found.append(one._replace(error=known[str(one.arch)].error, measured=True))
        within = [one for one in found if one.error <= ceilings[2]]
        if within:
            return sorted(within, key=lambda one: -one.w), known
    least = min(one.error for one in known.values())
    raise Infeasible(
        f"no network was found whose measured e is at most {ceilings[2]:.4g}; the least was "
        f"{least:.4g}"
    )


def front(choices: Choices, known: Known, more: Sequence[Found]) -> list[Found]:
    """Networks that no other found one beats in p, i and e, the largest i first.

    They have the least e at falling shares of the parent's i; `more` is added.
    """
    whole = choices.costs.whole[1]
    found = {str(one.arch): one for one in [parent_itself(choices), *more]}
    for share in SHARES:
        one = least_error(choices, share * whole, known)
        found = ({str(one.arch): one} if one else {}) | found
    networks = sorted(found.values(), key=lambda one: (-one.macs, -one.params))
    kept = on_pareto_front(np.array([(one.params, one.macs, one.error) for one in networks], float))
    return [one for one, stays in zip(networks, kept, strict=True) if stays]

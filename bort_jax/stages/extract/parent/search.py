# SPDX-License-Identifier: Apache-2.0
"""The networks inside a parent that are best under a budget, and the front of all budgets."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bort_jax.arch import LayerwiseArch
from bort_jax.ose.budget import Budget, Infeasible
from bort_jax.ose.objective import on_pareto_front
from bort_jax.stages.extract.parent.choices import Choices, Networks

MOST = 8  # networks that are measured jointly
TRIES = 3
SHARES = (3 / 4, 1 / 2, 1 / 3, 1 / 4, 1 / 6, 1 / 8, 1 / 12, 1 / 16)  # of the parent's i: the front
W_OF_DEPTH, LEAST_ERROR = "largest W of its depth", "least e at its inference cost"
COSTS = ("params", "macs", "memory", "latency_ms")


class Found(NamedTuple):
    """A network inside a parent.

    Attributes:
      params, macs: p and i, exact; memory: bytes of weights and of what it holds for one row.
      latency_ms: of one row on this device, as the sum over its layers; None: not timed.
      surrogate: e as the sum over its layers.
      error: e, measured jointly; until it is, the surrogate times the ratio seen at its depth.
      measured: whether it is.
      saving: (1 − p/P)(1 − i/I).
      wanted: what it is the best of, by surrogate: that is proved.
    """

    arch: LayerwiseArch
    params: int
    macs: int
    memory: int
    latency_ms: float | None
    surrogate: float
    error: float
    measured: bool
    saving: float
    wanted: str

    @property
    def w(self) -> float:
        return self.saving / self.error

    @property
    def columns(self) -> dict[str, Any]:
        """Its costs and e, as a budget reads them."""
        found = {name: getattr(self, name) for name in (*COSTS, "error")}
        return {name: np.array([x]) for name, x in found.items() if x is not None}


class Checked(NamedTuple):
    """A network that was measured jointly, by its surrogate and what it was."""

    surrogate: float
    error: float

    @property
    def ratio(self) -> float:
        return self.error / self.surrogate


Known = Mapping[str, Checked]  # by the name of the architecture


def check_budget(choices: Choices, budget: Budget) -> None:
    """Raises ValueError for a limit on what was not counted or timed."""
    limits = {*budget.ceilings, *budget.floors}
    if "latency_ms" in limits and choices.latency is None:
        raise ValueError("this run has timed no latencies: extract with --latency to limit them")
    budget.check([*choices.whole])


def parent_fits(choices: Choices, budget: Budget) -> bool:
    """Whether there is a ceiling on a cost, and the parent keeps to all limits."""
    given = any(name in COSTS for name in budget.ceilings)
    columns = {name: np.array([value]) for name, value in choices.whole.items()}
    return bool(given and budget.allows(columns)[0])


def parent_itself(choices: Choices) -> Found:
    """The parent as a network inside itself, whose W is 0."""
    depth, whole = choices.costs.arch.depth, choices.whole
    arch = choices.arch(0, [len(choices.heads) - 1] * depth, [len(choices.units) - 1] * depth)
    costs = {name: whole.get(name) for name in COSTS}
    measured: Any = dict(surrogate=whole["error"], error=whole["error"], measured=True)
    return Found(arch, **costs, **measured, saving=0.0, wanted="the parent")  # pyright: ignore


def best_of_depths(choices: Choices, budget: Budget, known: Known) -> list[Found]:
    """The network of each depth that has the largest W by surrogate; the largest W first.

    Raises:
      Infeasible: no network is within the budget.
    """
    found = [best_of_depth(choices, k, budget, known) for k in range(len(choices.kept))]
    there = [one for one in found if one is not None]
    if not there:
        raise Infeasible(none_within(choices, budget))
    return sorted(there, key=lambda one: -one.w)[:MOST]


def best_of_depth(choices: Choices, number: int, budget: Budget, known: Known) -> Found | None:
    """The network of one depth with the largest W by surrogate; None if none is within."""
    value = lambda columns: columns["saving"] / columns["error"]
    found = _best(choices, number, budget, known, value)
    return found and found._replace(wanted=W_OF_DEPTH)


def least_error(choices: Choices, budget: Budget, known: Known) -> Found | None:
    """The network within a budget that has the least e by surrogate; None if none is."""
    value = lambda columns: -columns["error"]
    found = [_best(choices, k, budget, known, value) for k in range(len(choices.kept))]
    return min((one for one in found if one), key=lambda one: one.surrogate, default=None)


def _best(
    choices: Choices, number: int, budget: Budget, known: Known, value: Callable
) -> Found | None:
    """The network of a depth within a budget with the largest value of its columns."""
    levels = choices.levels if "memory" in budget.ceilings else [np.inf]
    ratio, best = ratio_of(choices, number, known), None
    for most_live in levels:
        networks = choices.networks(number, most_live=most_live)
        columns = networks.columns
        columns = columns | {"saving": _saving(choices, columns), "error": ratio * columns["error"]}
        values = np.where(_met(budget, columns), value(columns), -np.inf)
        at = np.unravel_index(int(values.argmax()), values.shape)
        if np.isfinite(values[at]) and (best is None or values[at] > best[0]):
            best = float(values[at]), network_at(choices, number, networks, at, known)
    return best and best[1]


def _met(budget: Budget, columns: Mapping[str, np.ndarray]) -> np.ndarray:
    shape = columns["error"].shape
    return budget.allows({name: x.reshape(-1) for name, x in columns.items()}).reshape(shape)


def _saving(choices: Choices, columns: Mapping[str, np.ndarray]) -> np.ndarray:
    whole, i = choices.whole, choices.inference
    return (1 - columns["params"] / whole["params"]) * (1 - columns[i] / whole[i])


def network_at(choices: Choices, number: int, networks: Networks, at, known: Known) -> Found:
    """The pair of rows `at` in the tables of a depth, as a network."""
    arch = choices.arch(number, networks.heads.picks[at[0]], networks.units.picks[at[1]])
    columns = {name: values[at].item() for name, values in networks.columns.items()}
    surrogate, seen = columns.pop("error"), known.get(str(arch))
    error = seen.error if seen else ratio_of(choices, number, known) * surrogate
    saving = float(_saving(choices, columns))
    costs = {name: columns.get(name) for name in COSTS}
    measured: Any = dict(surrogate=surrogate, error=error, measured=seen is not None)
    return Found(arch, **costs, **measured, saving=saving, wanted=LEAST_ERROR)  # pyright: ignore


def ratio_of(choices: Choices, number: int, known: Known) -> float:
    """Measured e over surrogate of the networks of a depth that were measured; 1 where none was."""
    depth = len(choices.kept[number])
    seen = [one.ratio for name, one in known.items() if _depth(name) == depth]
    return float(np.mean(seen)) if seen else 1.0


def _depth(name: str) -> int:
    return LayerwiseArch.parse(name).depth


def none_within(choices: Choices, budget: Budget) -> str:
    """What to say where no network is within a budget: the least of each cost."""
    columns = [choices.networks(k).columns for k in range(len(choices.kept))]
    least = {name: min(float(one[name].min()) for one in columns) for name in columns[0]}
    told = ", ".join(f"{name} {value:,.4g}" for name, value in least.items())
    return f"no network inside the parent meets {budget}; the least that there is of each: {told}"


def answer(
    choices: Choices, budget: Budget, error_fn: Callable[[LayerwiseArch], float]
) -> tuple[list[Found], dict[str, Checked]]:
    """The best of each depth, measured jointly, largest W first; and all that were measured.

    A ceiling on e holds for what was measured: where none keeps it, the surrogate's is lowered.

    Raises:
      Infeasible: no network is within the budget, or none was found whose measured e is.
    """
    known: dict[str, Checked] = {}
    for _ in range(TRIES):
        found = []
        for one in best_of_depths(choices, budget, known):
            if not one.measured:
                known[str(one.arch)] = Checked(one.surrogate, error_fn(one.arch))
            found.append(one._replace(error=known[str(one.arch)].error, measured=True))
        within = [one for one in found if budget.allows(one.columns)[0]]
        if within:
            return sorted(within, key=lambda one: -one.w), known
    least = min(one.error for one in known.values())
    raise Infeasible(
        f"no network was found whose measured e meets {budget}; the least was {least:.4g}"
    )


def front(choices: Choices, known: Known, more: Sequence[Found]) -> list[Found]:
    """Networks that no other found one beats in p, i and e, the largest i first.

    They have the least e at falling shares of the parent's i; `more` is added.
    """
    i = choices.inference
    found = {str(one.arch): one for one in [parent_itself(choices), *more]}
    for share in SHARES:
        one = least_error(choices, Budget({i: share * choices.whole[i]}), known)
        found = ({str(one.arch): one} if one else {}) | found
    networks = sorted(found.values(), key=lambda one: (-getattr(one, i), -one.params))
    rows = [(one.params, getattr(one, i), one.error) for one in networks]
    kept = on_pareto_front(np.array(rows, float))
    return [one for one, stays in zip(networks, kept, strict=True) if stays]

# SPDX-License-Identifier: Apache-2.0
"""Ceilings and floors on any cost of an architecture, and what to say when none meets them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

ABOUT = 0.1  # "about N parameters" is N ± 10 %
Columns = Mapping[str, np.ndarray]


class Infeasible(ValueError):
    """No architecture meets the budget; the message names the nearest and what binds."""


@dataclass(frozen=True)
class Budget:
    """Ceilings and floors by the name of a cost: `params`, `macs`, …, `error`.

    Attributes:
      ceilings: the largest values allowed, inclusive.
      floors: the smallest values allowed, inclusive.
    """

    ceilings: Mapping[str, float] = field(default_factory=dict)
    floors: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def about(cls, **targets: float) -> "Budget":
        """`about(params=30e6)`: within a tenth of each target."""
        return cls(
            {name: (1 + ABOUT) * target for name, target in targets.items()},
            {name: (1 - ABOUT) * target for name, target in targets.items()},
        )

    def __and__(self, other: "Budget") -> "Budget":
        """Both budgets together: the tighter limit of each cost."""
        return Budget(
            _tighter(self.ceilings, other.ceilings, min), _tighter(self.floors, other.floors, max)
        )

    def __str__(self) -> str:
        limits = [f"{name} ≤ {value:,.6g}" for name, value in self.ceilings.items()]
        limits += [f"{name} ≥ {value:,.6g}" for name, value in self.floors.items()]
        return ", ".join(limits) or "none"

    def check(self, known: Sequence[str]) -> None:
        """Raises ValueError for a limit on something that is not a cost here, or NaN."""
        for name, value in [*self.ceilings.items(), *self.floors.items()]:
            if name not in known:
                raise ValueError(f"no cost {name!r} to limit; there are: {', '.join(known)}")
            if np.isnan(value):
                raise ValueError(f"the limit on {name} is not a number")

    def excess(self, columns: Columns) -> Mapping[str, Float[np.ndarray, " n"]]:
        """By limit, by what factor each architecture misses it; at most 1: it is met.

        NaN, a cost that is not known, meets every limit here.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            over = {
                f"{name} ≤ {top:,.6g}": _times(columns[name], top)
                for name, top in self.ceilings.items()
            }
            under = {
                f"{name} ≥ {least:,.6g}": _times(least, columns[name])
                for name, least in self.floors.items()
            }
        return over | under

    def allows(self, columns: Columns) -> Bool[np.ndarray, " n"]:
        """Which architectures meet every limit."""
        met = np.ones(len(next(iter(columns.values()))), dtype=bool)
        for name, top in self.ceilings.items():
            met &= ~(columns[name] > top)
        for name, least in self.floors.items():
            met &= ~(columns[name] < least)
        return met

    def infeasible(self, archs: Sequence[Any], columns: Columns) -> Infeasible:
        """The error to raise: names the member whose worst excess is least, and what binds."""
        excess = self.excess(columns)
        worst = np.nan_to_num(np.max(list(excess.values()), axis=0), nan=np.inf)
        k = int(worst.argmin())
        binding = [
            f"{limit} (missed by a factor of {values[k]:.3g})"
            for limit, values in excess.items()
            if values[k] > 1
        ]
        costs = ", ".join(
            f"{name} {columns[name][k]:,.6g}"
            for name in dict.fromkeys([*self.ceilings, *self.floors])
        )
        return Infeasible(
            f"no architecture meets {self}; the nearest is {archs[k]} with {costs}; "
            f"binding: {' and '.join(binding) or 'none alone, all together'}"
        )


def _times(larger, smaller) -> Float[np.ndarray, " n"]:
    """larger/smaller; two zeros are equal."""
    return np.nan_to_num(np.asarray(larger / np.asarray(smaller, float)), nan=1.0, posinf=np.inf)


def _tighter(one: Mapping[str, float], other: Mapping[str, float], pick) -> dict[str, float]:
    names = {**one, **other}
    return {n: pick(one.get(n, other.get(n)), other.get(n, one.get(n))) for n in names}

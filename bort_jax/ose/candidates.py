# SPDX-License-Identifier: Apache-2.0
"""Ξ as a table: its members, their costs, and the two orders in which e is taken to fall."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from bort_jax.ose.objective import saving

Relation = Literal["order", "componentwise"]
ASSUMPTIONS = {
    "order": "e does not increase along the order by falling savings g",
    "componentwise": "e does not increase when every architectural parameter stays or grows",
}


@dataclass(frozen=True)
class Candidates:
    """All of Ξ, ordered by falling g, among equals by p, then as tuples.

    Attributes:
      archs: tuples of architectural parameters.
      columns: costs by name, each [n]; at least `params`, which is p.
      inference: the column that is i.
    """

    archs: list[Any]
    columns: Mapping[str, np.ndarray]
    inference: str = "macs"

    @classmethod
    def of(cls, archs: Sequence[Any], cost_fn: Callable, *, inference: str) -> "Candidates":
        """Counts the costs of all architectures and puts them in order.

        Raises:
          ValueError: there is no architecture, one is there twice, or `inference` is not a cost.
        """
        if not archs:
            raise ValueError("the search space Ξ is empty")
        if len(set(archs)) < len(archs):
            raise ValueError("an architecture is in the search space more than once")
        # From one order of rows whatever order the caller had: ties are broken by tuples.
        archs = sorted(archs)
        columns = _columns(cost_fn(np.array(archs, dtype=np.int64)))
        for name in ("params", inference):
            if name not in columns:
                raise ValueError(f"no cost {name!r}; there are: {', '.join(columns)}")
        savings = saving(columns["params"], columns[inference])
        order = np.lexsort((columns["params"], -savings))
        return cls(
            [archs[k] for k in order],
            {name: values[order] for name, values in columns.items()},
            inference,
        )

    @property
    def params(self) -> np.ndarray:
        return self.columns["params"]

    @property
    def inference_cost(self) -> np.ndarray:
        """i, in the unit of the column `inference`."""
        return self.columns[self.inference]

    @cached_property
    def savings(self) -> Float[np.ndarray, " n"]:
        return saving(self.params, self.inference_cost)

    @property
    def maximum_point(self) -> int:
        """T: the index with the largest p, of these the largest i, the last tuple."""
        return int(np.lexsort((np.arange(len(self.archs)), self.inference_cost, self.params))[-1])

    def above(self, index: int, relation: Relation) -> Bool[np.ndarray, " n"]:
        """The members that are taken to err no more than `index` does; it is one of them."""
        if relation == "order":
            return np.arange(len(self.archs)) >= index
        return (self._rows >= self._rows[index]).all(axis=1)

    def below(self, index: int, relation: Relation) -> Bool[np.ndarray, " n"]:
        """The members that are taken to err no less than `index` does; it is one of them."""
        if relation == "order":
            return np.arange(len(self.archs)) <= index
        return (self._rows <= self._rows[index]).all(axis=1)

    @cached_property
    def _rows(self) -> Int[np.ndarray, "n k"]:
        return np.array(self.archs, dtype=np.int64)

    def least_errors(
        self, errors: Float[np.ndarray, " n"], relation: Relation
    ) -> Float[np.ndarray, " n"]:
        """The smallest e still possible: the largest measured e of a member above, 0 if none."""
        least = np.zeros(len(self.archs))
        for k in np.flatnonzero(~np.isnan(errors)):
            below = self.below(int(k), relation)
            least[below] = np.maximum(least[below], errors[k])
        return least


def _columns(costs) -> dict[str, np.ndarray]:
    named = costs if isinstance(costs, Mapping) else costs._asdict()
    return {name: np.asarray(values) for name, values in named.items()}

# SPDX-License-Identifier: Apache-2.0
"""Which layers a network of fewer layers keeps: a beam search by errors of whole sets."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import nsmallest

import numpy as np

SETS, BEAM = 6, 2  # of kept layers of each depth: measured, and carried on to the next
Kept = tuple[int, ...]


@dataclass(frozen=True)
class DepthSearch:
    """Best sets of kept layers, one layer fewer at a time.

    Of the `BEAM` best sets of one more layer each loses one, and of what is left the `SETS` are
    measured that add least to e by the sum of the larger set's error and the lost layer's own.
    Source: our reading.

    Attributes:
      count: the parent's layers.
      errors_fn: e of networks that keep these sets, as a list.
    """

    count: int
    errors_fn: Callable[[Sequence[Kept]], list[float]]
    _errors: dict[Kept, float] = field(default_factory=dict, repr=False)
    _best: dict[int, list[Kept]] = field(default_factory=dict, repr=False)

    def best(self, depth: int) -> Kept:
        """The set of a depth that errs least of those that were measured.

        Raises:
          ValueError: a depth that is not between 1 and the parent's.
        """
        if not 1 <= depth <= self.count:
            raise ValueError(f"expected a depth between 1 and {self.count}; got {depth}")
        return self._best_sets(depth)[0]

    def _best_sets(self, depth: int) -> list[Kept]:
        if depth == self.count:
            return [tuple(range(self.count))]
        if depth not in self._best:
            larger = self._measured(self._best_sets(depth + 1))
            found = self._measured(self._promising(larger))
            order = np.argsort([*found.values()], kind="stable")[:BEAM]
            self._best[depth] = [[*found][k] for k in order]
        return self._best[depth]

    def _measured(self, sets: Sequence[Kept]) -> dict[Kept, float]:
        missing = [kept for kept in sets if kept not in self._errors]
        self._errors.update(zip(missing, self.errors_fn(missing), strict=True))
        return {kept: self._errors[kept] for kept in sets}

    def _promising(self, larger: Mapping[Kept, float]) -> list[Kept]:
        """The sets of one layer fewer that are measured."""
        everything = tuple(range(self.count))
        whole, guess = self._errors[everything], {}
        for kept, error in larger.items():
            for n in kept if len(kept) > 1 else ():
                alone = tuple(k for k in everything if k != n)
                left = tuple(k for k in kept if k != n)
                added = self._errors.get(alone, whole) - whole
                guess[left] = min(error + added, guess.get(left, np.inf))
        most = max(SETS, self.count) if len(larger) == 1 else SETS
        return nsmallest(most, guess, key=guess.__getitem__)

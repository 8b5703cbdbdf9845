# SPDX-License-Identifier: Apache-2.0
"""Guards of honest scores: nothing held out is trained on, and the test is scored once."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bort_jax.agora.dataset import Dataset
from bort_jax.agora.generate import KeysFn
from bort_jax.agora.theta import Theta
from bort_jax.storage.files import read_json, write_json


class Leak(ValueError):
    """A train row is also a row of dev or test."""


@dataclass(frozen=True)
class Guard:
    """Knows the keys of the points that are held out, and nothing else of them.

    Attributes:
      keys_fn: points to what makes two of them the same.
      held_out: key to the words that name the row, as in `test row 3`.
    """

    keys_fn: KeysFn
    held_out: Mapping[Hashable, str]

    @classmethod
    def of(cls, keys_fn: KeysFn, splits: Mapping[str, np.ndarray]) -> "Guard":
        """Builds a guard from points held out, by the names of their splits."""
        named = [
            (key, f"{split} row {row}")
            for split, x in splits.items()
            for row, key in enumerate(keys_fn(x))
        ]
        return cls(keys_fn, dict(reversed(named)))  # of equals the first is named

    def leaks(self, x: np.ndarray) -> list[tuple[int, str]]:
        """Finds the rows of x that are held out: each row, and the name of what it is."""
        keys = enumerate(self.keys_fn(x))
        return [(row, self.held_out[key]) for row, key in keys if key in self.held_out]

    def check(self, train: Dataset, *, advice: str = "") -> None:
        """Raises `Leak`, naming the first row, where train holds what is held out."""
        found = self.leaks(train.x)
        if found:
            row, name = found[0]
            raise Leak(
                f"train row {row} is also {name}, as are {len(found) - 1} more of "
                f"{len(train.y)}: a score on it would be no evidence{advice}"
            )

    def wrap(self, fit_fn: Callable) -> Callable:
        """Returns a `fit_fn` that checks each train set before anything is fitted to it."""

        def fit(thetas: Sequence[Theta], train: Dataset) -> Iterable:
            self.check(train)
            return fit_fn(thetas, train)

        return fit


def score_once(file: Path, score_fn: Callable[[], dict]) -> dict:
    """Calls `score_fn` once for this file, and returns the result that the file keeps.

    The test split of a run is scored through this: a second scoring reads the first one's result.
    """
    if not file.is_file():
        write_json(file, score_fn())
    return read_json(file)

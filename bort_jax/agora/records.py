# SPDX-License-Identifier: Apache-2.0
"""What Agora's rounds hand on and leave behind: copies, mistakes, points, rounds, the state."""

from collections import Counter
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from bort_jax.agora.dataset import Dataset
from bort_jax.agora.lift import Lift
from bort_jax.agora.theta import Theta


class Copy(NamedTuple):
    """Timaeus, the student, fine-tuned with one hyperparameter set.

    Attributes:
      theta: the set.
      model: its parameters; None where a better copy is known: only the best is kept.
      correct: which dev points it classifies correctly, bool[n]; NaN where the training diverged.
    """

    theta: Theta
    model: Any
    correct: Bool[np.ndarray, " n"] | Float[np.ndarray, "..."]

    @property
    def accuracy(self) -> float:
        """On dev; NaN: there is no score."""
        return float(np.mean(self.correct))

    def beats(self, other: "Copy | None") -> bool:
        """Says whether it is better; a copy without a score beats nothing."""
        return self.accuracy >= 0 and (other is None or self.accuracy > other.accuracy)


class Mistakes(NamedTuple):
    """The dev points near which new ones are made, without their labels: those that the best copy
    misclassifies, or as many of all (`Agora.parents`)."""

    x: np.ndarray
    rows: Int[np.ndarray, " n"]  # where they stand in dev
    known: np.ndarray  # the train set's points: what need not be made again
    used: frozenset[int] = frozenset()  # pool rows that Socrates was asked about
    model: Any = None  # the best copy
    most: int | None = None  # points that Socrates may still be asked about; None: no limit


class Origin(NamedTuple):
    """Provenance of m generated points: what lineage keeps of each."""

    parents: Int[np.ndarray, " m"]  # rows of dev
    taus: tuple[str, ...]  # τ and its settings
    distances: Float[np.ndarray, " m"]  # from the parent
    confidences: Float[np.ndarray, " m"]  # Socrates', in [0, 1]; NaN before he is asked
    pool_rows: Int[np.ndarray, " m"] | None = None  # −1: no text of the pool; None: of none

    @property
    def sources(self) -> Int[np.ndarray, " m"]:
        """The pool's rows; −1 for points that are made."""
        made = np.full(len(self.parents), -1)
        return made if self.pool_rows is None else self.pool_rows

    def take(self, points: Int[np.ndarray, " k"]) -> "Origin":
        taus = tuple(self.taus[k] for k in points)
        arrays = (self.distances, self.confidences, self.sources)
        return Origin(self.parents[points], taus, *(values[points] for values in arrays))

    def append(self, other: "Origin") -> "Origin":
        """Of these points and then of the others."""
        both = lambda name: np.concatenate([getattr(self, name), getattr(other, name)])
        taus = (*self.taus, *other.taus)
        arrays = (both(name) for name in ("distances", "confidences", "sources"))
        return Origin(both("parents"), taus, *arrays)


class Generated(NamedTuple):
    """The points that τ made: m of them, and their provenance."""

    x: np.ndarray
    origin: Origin
    refused: dict[str, int] = {}  # proposals that did not become points, by reason
    distances: tuple[float, ...] = ()  # quantiles over all proposals

    def append(self, other: "Generated") -> "Generated":
        """These points and then the others; the distances are of those that have some."""
        x, origin = np.concatenate([self.x, other.x]), self.origin.append(other.origin)
        refused = dict(Counter(self.refused) + Counter(other.refused))
        return Generated(x, origin, refused, self.distances or other.distances)


class Round(NamedTuple):
    """The record of one round."""

    number: int
    accuracies: dict[str, float | None]  # on dev, of each θ as printed; None: diverged
    best: Theta
    mistakes: int
    added: int
    labels_added: dict[int, int]  # points added of each class
    train_size: int
    removed: tuple[Theta, ...]
    removed_by: Theta  # the pairs that all of them share
    refused: dict[str, int]  # proposals of τ that did not become points, by reason
    distances: tuple[float, ...]  # quantiles over all proposals, as τ measured them
    asked: int = 0  # points that Socrates was asked about
    passed_over: tuple[int, ...] = ()  # pool rows among these that did not join
    fitted_rows: int = 0  # of train: what the copies were fitted to
    lift: Lift | None = None  # of the best copy's mistakes
    near: str = "mistakes"  # what the points are near: `mistakes` or `all` of dev

    @property
    def accuracy(self) -> float:
        """The best copy's accuracy on dev."""
        return max(score for score in self.accuracies.values() if score is not None)


class AgoraState(NamedTuple):
    """All that a next round needs; saving it after each round makes Agora resumable."""

    train: Dataset
    thetas: tuple[Theta, ...]
    best: Copy | None = None
    best_rows: int = 0  # of train: what the best copy was trained on
    rounds: tuple[Round, ...] = ()
    origins: tuple[Origin, ...] = ()  # of each round's points, which stand in train in this order
    seed: int = 0
    replays: int = 0

    @property
    def champion(self) -> Copy:
        """The best copy seen; raises ValueError before the first round."""
        if self.best is None:
            raise ValueError("no round has run: there is no best copy yet")
        return self.best

    @property
    def best_train(self) -> Dataset:
        """The train set of the best copy."""
        return self.train.take(slice(self.best_rows))

    @property
    def asked(self) -> int:
        """Points that Socrates was asked about."""
        return sum(one.asked for one in self.rounds)

    @property
    def used(self) -> frozenset[int]:
        """Pool rows that he was asked about."""
        joined = (int(row) for origin in self.origins for row in origin.sources if row >= 0)
        return frozenset(joined).union(*(one.passed_over for one in self.rounds))

    @property
    def given_rows(self) -> int:
        """The number of train rows before the first round."""
        return len(self.train.y) - sum(len(origin.parents) for origin in self.origins)

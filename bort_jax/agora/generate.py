# SPDX-License-Identifier: Apache-2.0
"""Step 3, data augmentation near mistakes: proposals of one τ or several, within a window.

"Similar, but neither too similar nor too distinct" (arXiv 2010.07990) is *our reading* a window
in which the distance of a new point from its parent must lie, in a representation that is given.
"""

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from bort_jax.agora.records import Generated, Mistakes, Origin

QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)


class Parents(NamedTuple):
    """Points that new ones are made near.

    Attributes:
      x: n points.
      sides: for text, of x's shape: which of a row's texts a token belongs to, 1 or 2; 0 where it
        must stay; −1 where it follows the same place of the row's first choice.
    """

    x: np.ndarray
    sides: Int[np.ndarray, "..."] | None = None

    def take(self, indices) -> "Parents":
        sides = None if self.sides is None else self.sides[indices]
        return Parents(self.x[indices], sides)


@dataclass(frozen=True, eq=False)
class Tau:
    """A generating function τ: one kind of data augmentation.

    Attributes:
      name: for lineage, with the settings.
      make: (all parents, indices of m of them, random generator) to m new points, one near each.
      settings: what `make` was built with.
    """

    name: str
    make: Callable[[Parents, Int[np.ndarray, " m"], np.random.Generator], np.ndarray]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return " ".join([self.name, *(f"{name}={value}" for name, value in self.settings.items())])


KeysFn = Callable[[np.ndarray], Sequence[Hashable]]


def euclidean(x: np.ndarray, parents: Parents) -> Float[np.ndarray, " m"]:
    """Euclidean distances of vectors."""
    away = x - parents.x
    return np.sqrt((away * away).sum(axis=tuple(range(1, x.ndim))))


def changed_fraction(x: np.ndarray, parents: Parents) -> Float[np.ndarray, " m"]:
    """For token rows: the fraction that changed of the tokens that may change."""
    free = parents.x == parents.x if parents.sides is None else parents.sides > 0
    count = lambda places: places.sum(axis=tuple(range(1, x.ndim)))
    return count((x != parents.x) & free) / np.maximum(count(free), 1)


class Window(NamedTuple):
    """Distances of a new point from its parent that are allowed.

    Attributes:
      min_distance: smallest.
      max_distance: largest.
      distance_fn: (m new points, their m parents) to distances [m].
    """

    min_distance: float = 0.0
    max_distance: float = np.inf
    distance_fn: Callable[[np.ndarray, Parents], np.ndarray] = changed_fraction


ANYWHERE = Window()


def row_keys(x: np.ndarray) -> list[bytes]:
    """Keys by which points are the same where all their numbers are."""
    return [row.tobytes() for row in np.ascontiguousarray(x)]


def generator(
    taus: Mapping[Tau, float] | Tau,
    *,
    samples_per_error: int,
    window: Window = ANYWHERE,
    keys_fn: KeysFn = row_keys,
    forbidden: Collection[Hashable] = frozenset(),
    sides: Int[np.ndarray, "..."] | None = None,
    tries: int = 3,
) -> Callable[[Mistakes, np.random.Generator], Generated]:
    """Builds `generate_fn`.

    No point is its parent, stands in train already, is made twice, or has the key of a
    forbidden one.

    Args:
      taus: one τ, or several with a weight each: how often it is drawn.
      samples_per_error: new points wanted near each mistake; less in all where Socrates may be
        asked about fewer.
      window: distances from the parent that are allowed.
      keys_fn: points to what makes two of them the same.
      forbidden: keys of what must not be made: all of dev and test.
      sides: of all dev points, for text.
      tries: proposals for each wanted point before it is given up.

    Raises:
      ValueError: no samples or tries, an empty window, or weights that are not positive.
    """
    taus = {taus: 1.0} if isinstance(taus, Tau) else dict(taus)
    check_settings(taus, samples_per_error, window, tries)
    kinds, weights = list(taus), np.array(list(taus.values())) / sum(taus.values())

    def generate(mistakes: Mistakes, rng: np.random.Generator) -> Generated:
        parents = Parents(mistakes.x, None if sides is None else sides[mistakes.rows])
        slots = np.repeat(np.arange(len(mistakes.rows)), samples_per_error)
        if mistakes.most is not None:
            slots = np.sort(rng.permutation(slots)[: mistakes.most])
        kind = rng.choice(len(kinds), size=len(slots), p=weights)
        accept = ProposalFilter(
            window, keys_fn, seen=set(keys_fn(mistakes.known)), forbidden=forbidden
        )
        found, open_slots, measured = {}, np.arange(len(slots)), []
        for _ in range(tries):
            x = propose(kinds, kind[open_slots], parents, slots[open_slots], rng)
            own = parents.take(slots[open_slots])
            distances = window.distance_fn(x, own)
            measured.append(distances)
            passed = accept(x, own.x, distances)
            found |= {open_slots[k]: (x[k], distances[k]) for k in np.flatnonzero(passed)}
            open_slots = open_slots[~passed]
            if not len(open_slots):
                break
        done = sorted(found)
        return Generated(
            np.stack([found[slot][0] for slot in done]) if done else mistakes.x[:0],
            Origin(
                mistakes.rows[slots[done]],
                tuple(str(kinds[kind[slot]]) for slot in done),
                np.array([found[slot][1] for slot in done], float),
                np.full(len(done), np.nan),
            ),
            dict(accept.refused),
            tuple(map(float, np.quantile(np.concatenate(measured), QUANTILES))),
        )

    return generate


@dataclass
class ProposalFilter:
    """Accepts proposals, and counts the others by the reason of their refusal."""

    window: Window
    keys_fn: KeysFn
    seen: set[Hashable]
    forbidden: Collection[Hashable]
    refused: Counter[str] = field(default_factory=Counter)

    def __call__(self, x: np.ndarray, parents: np.ndarray, distances: np.ndarray) -> np.ndarray:
        keys = zip(self.keys_fn(x), self.keys_fn(parents), distances, strict=True)
        reasons = [self.reason(*one) for one in keys]
        self.refused.update(reason for reason in reasons if reason)
        return np.array([not reason for reason in reasons], bool)

    def reason(self, key: Hashable, parent: Hashable, distance: float) -> str:
        if key == parent:
            return "unchanged"
        if key in self.forbidden:
            return "copy of dev or test"
        if key in self.seen:
            return "duplicate"
        if distance < self.window.min_distance:
            return "too near"
        if not distance <= self.window.max_distance:
            return "too far"
        self.seen.add(key)
        return ""


def propose(
    taus: Sequence[Tau],
    kinds: Int[np.ndarray, " m"],
    parents: Parents,
    which: Int[np.ndarray, " m"],
    rng: np.random.Generator,
) -> np.ndarray:
    """One proposal for each of `which`, by the τ that its kind names."""
    x = parents.x[which].copy()
    for k, tau in enumerate(taus):
        mine = np.flatnonzero(kinds == k)
        if len(mine):
            x[mine] = tau.make(parents, which[mine], rng)
    return x


def check_settings(taus: Mapping[Tau, float], samples: int, window: Window, tries: int) -> None:
    if not taus or min(taus.values()) <= 0:
        raise ValueError(f"each τ needs a positive weight; got {list(taus.values())}")
    if samples < 1 or tries < 1:
        raise ValueError(
            f"samples per error and tries must be at least 1; got {samples} and {tries}"
        )
    if not 0 <= window.min_distance <= window.max_distance:
        raise ValueError(
            "a window must have 0 ≤ min distance ≤ max distance; "
            f"got {window.min_distance:g} and {window.max_distance:g}"
        )

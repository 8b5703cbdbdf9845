# SPDX-License-Identifier: Apache-2.0
"""Data augmentation by generating functions τ: *mlm*, *neighbour*, *mix*; a ball for vectors.

Rows of text are `[s]`, or `[c, s]` with c choices; only tokens whose side is free change.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from bort_jax.agora.generate import Parents, Tau

EITHER = (1, 2)  # both texts of a pair


def ball_tau(max_distance: float, *, min_distance: float = 0.0) -> Tau:
    """τ for vectors: a uniform direction, a radius uniform in [min_distance, max_distance].

    Raises:
      ValueError: the radii are not 0 ≤ min_distance ≤ max_distance.
    """
    if not 0 <= min_distance <= max_distance:
        raise ValueError(
            f"radii must have 0 ≤ min ≤ max distance; got {min_distance}, {max_distance}"
        )

    def make(parents, which, rng):
        x = parents.x[which]
        direction = rng.standard_normal((len(x), x[:1].size))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        radius = rng.uniform(min_distance, max_distance, (len(x), 1))
        return (x + (radius * direction).reshape(x.shape)).astype(x.dtype)

    return Tau("ball", make, {"min_distance": min_distance, "max_distance": max_distance})


def mlm_tau(
    resample_fn: Callable,
    *,
    edit_fraction: float = 0.2,
    passes: int = 2,
    sides: Sequence[int] = EITHER,
) -> Tau:
    """τ by a masked LM: a fraction of the tokens is masked and drawn anew.

    Args:
      resample_fn: (x [n, s], positions [n, m], seed) to tokens [n, m].
      edit_fraction: of the free tokens of the chosen sides.
      passes: masked-LM passes that share them; each sees the last one's result, so that
        neighbouring new tokens agree.
      sides: which texts of a pair change.

    Raises:
      ValueError: edit_fraction is outside (0, 1], or passes below 1.
    """
    check_fraction(edit_fraction)
    if passes < 1:
        raise ValueError(f"passes must be at least 1; got {passes}")

    def make(parents, which, rng):
        own = parents.take(which)
        x, order = own.x.copy(), draw_order(free_tokens(own, sides), edit_fraction, rng)
        # One width for all calls, so that a compiled model is compiled once.
        width = -(-max(1, round(edit_fraction * x.shape[-1])) // passes)
        for one_pass in range(passes):
            chosen = (order >= 0) & (order % passes == one_pass)
            resample(x, chosen, resample_fn, width=width, seed=int(rng.integers(2**31)))
        return copy_shared(x, own)

    settings = {"edit_fraction": edit_fraction, "passes": passes, **side_setting(sides)}
    return Tau("mlm", make, settings)


def neighbour_tau(
    table: Float[np.ndarray, "v h"],
    *,
    special: Sequence[int],
    edit_fraction: float = 0.2,
    nearest_tokens: int = 10,
    sides: Sequence[int] = EITHER,
) -> Tau:
    """τ by an embedding table: a fraction of the tokens gives way to one of its nearest by cosine.

    Args:
      table: the word embeddings.
      special: ids that are not text, and are never put in.
      edit_fraction: of the free tokens of the chosen sides.
      nearest_tokens: among so many, all equally likely; neither the token itself nor a special one.
      sides: which texts of a pair change.

    Raises:
      ValueError: edit_fraction is outside (0, 1], or the table has too few rows.
    """
    check_fraction(edit_fraction)
    if not 1 <= nearest_tokens <= len(table) - len(special) - 1:
        raise ValueError(f"{nearest_tokens} nearest tokens of a table of {len(table)}")
    lookup = Neighbours(table, special=special, nearest=nearest_tokens)

    def make(parents, which, rng):
        own = parents.take(which)
        x = own.x.copy()
        chosen = draw_order(free_tokens(own, sides), edit_fraction, rng) >= 0
        found = lookup(x[chosen])
        x[chosen] = found[np.arange(len(found)), rng.integers(nearest_tokens, size=len(found))]
        return copy_shared(x, own)

    settings = {"edit_fraction": edit_fraction, "nearest_tokens": nearest_tokens}
    return Tau("neighbour", make, {**settings, **side_setting(sides)})


def mix_tau(
    label_fn: Callable, *, edit_fraction: float = 0.3, sides: Sequence[int] = EITHER
) -> Tau:
    """τ by other mistakes: a span gives way to as long a span of a mistake of the same label.

    A side stays a side: spans of first texts go into first texts. A mistake without a partner
    stays as it is, and is refused.

    Args:
      label_fn: points to probabilities: Socrates. Labels of dev are not read.
      edit_fraction: length of the span, as a fraction of the free tokens of the chosen sides; less
        where no run of free tokens is as long.
      sides: which texts of a pair change.

    Raises:
      ValueError: edit_fraction is outside (0, 1].
    """
    check_fraction(edit_fraction)

    def make(parents, which, rng):
        labels = label_fn(parents.x).argmax(axis=1)
        swap = SpanSwap(parents, labels, edit_fraction, sides)
        made = np.stack([swap(int(k), rng) for k in which])
        return copy_shared(made, parents.take(which))

    return Tau("mix", make, {"edit_fraction": edit_fraction, **side_setting(sides)})


def check_fraction(edit_fraction: float) -> None:
    if not 0 < edit_fraction <= 1:
        raise ValueError(f"edit_fraction must lie in (0, 1]; got {edit_fraction}")


def side_setting(sides: Sequence[int]) -> dict:
    """The sides as a setting, where not both change."""
    return {} if tuple(sides) == EITHER else {"side": sides[0]}


def free_tokens(parents: Parents, sides: Sequence[int]) -> Bool[np.ndarray, "..."]:
    if parents.sides is None:
        raise ValueError("τ for text needs the sides of dev's tokens")
    return np.isin(parents.sides, sides)


def draw_order(
    free: Bool[np.ndarray, "n *row"], fraction: float, rng: np.random.Generator
) -> Int[np.ndarray, "n *row"]:
    """Numbers a fraction of each row's free places from 0, in random order; −1 elsewhere.

    At least one of each row that has one; a row is a choice where there are choices.
    """
    rows = free.reshape(-1, free.shape[-1])
    count = rows.sum(axis=1)
    wanted = np.minimum(np.maximum(1, np.rint(fraction * count)), count)
    rank = np.where(rows, rng.random(rows.shape), 2.0).argsort(axis=1).argsort(axis=1)
    return np.where((rank < wanted[:, None]) & rows, rank, -1).reshape(free.shape)


def resample(
    x: np.ndarray, chosen: np.ndarray, resample_fn: Callable, *, width: int, seed: int
) -> None:
    """Draws the chosen tokens, at most `width` a row, anew, in place."""
    rows, places = (values.reshape(-1, x.shape[-1]) for values in (x, chosen))
    touched = np.flatnonzero(places.any(axis=1))
    if not len(touched):
        return
    # Chosen places first; shorter rows are filled up with their own first place.
    order = (~places[touched]).argsort(axis=1, kind="stable")[:, :width]
    real = np.take_along_axis(places[touched], order, axis=1)
    positions = np.where(real, order, order[:, :1])
    tokens = resample_fn(rows[touched], positions, seed)
    changed = rows[touched]
    filled = np.where(real, tokens, tokens[:, :1]).astype(x.dtype)
    np.put_along_axis(changed, positions, filled, axis=1)
    rows[touched] = changed  # rows is a view of x


def copy_shared(x: np.ndarray, parents: Parents) -> np.ndarray:
    """Copies the first choice's tokens to where the other choices share them."""
    if x.ndim < 3 or parents.sides is None:
        return x
    return np.where(parents.sides < 0, x[:, :1], x)


class Neighbours:
    """Finds the nearest tokens of any token, once."""

    def __init__(self, table: np.ndarray, *, special: Sequence[int], nearest: int):
        norms = np.linalg.norm(table, axis=1, keepdims=True)
        self.unit = (table / np.maximum(norms, 1e-12)).astype(np.float32)
        self.special, self.nearest = list(special), nearest
        self.found = np.full((len(table), nearest), -1)

    def __call__(self, tokens: Int[np.ndarray, " m"]) -> Int[np.ndarray, "m k"]:
        missing = np.unique(tokens[self.found[tokens, 0] < 0]) if len(tokens) else tokens
        for start in range(0, len(missing), 256):  # 50,000 tokens × 256: 50 MB
            part = missing[start : start + 256]
            cosine = self.unit[part] @ self.unit.T
            cosine[:, self.special] = -np.inf
            cosine[np.arange(len(part)), part] = -np.inf
            self.found[part] = np.argpartition(-cosine, self.nearest - 1)[:, : self.nearest]
        return self.found[tokens]


class SpanSwap(NamedTuple):
    """Replaces a span of a point by one of another point that has the same label."""

    parents: Parents
    labels: Int[np.ndarray, " n"]
    edit_fraction: float
    sides: Sequence[int]

    def __call__(self, k: int, rng: np.random.Generator) -> np.ndarray:
        """Parent k with such a span; unchanged where no other parent can give one."""
        x, sides = self.parents.x[k].copy(), self.parents.sides
        if sides is None:
            raise ValueError("τ for text needs the sides of dev's tokens")
        alike = self.labels == self.labels[k]
        partners = np.flatnonzero(alike & (np.arange(len(alike)) != k))
        if not len(partners):
            return x
        other = int(rng.choice(partners))
        present = [side for side in self.sides if (sides[k] == side).any()]
        side = int(rng.choice(present or list(self.sides)))
        mine, theirs = (free_runs(sides[n].reshape(-1) == side) for n in (k, other))
        if not (len(mine) and len(theirs)):
            return x
        wanted = max(1, round(self.edit_fraction * float(np.isin(sides[k], self.sides).sum())))
        length = int(min(wanted, np.diff(mine).max(), np.diff(theirs).max()))
        at, source = (span_start(of, length, rng) for of in (mine, theirs))
        given = self.parents.x[other].reshape(-1)[source : source + length]
        x.reshape(-1)[at : at + length] = given
        return x


def free_runs(free: Bool[np.ndarray, " s"]) -> Int[np.ndarray, "r 2"]:
    """The begin and end of each stretch of free places."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], free.astype(np.int8), [0]])))
    return edges.reshape(-1, 2)


def span_start(stretches: Int[np.ndarray, "r 2"], length: int, rng: np.random.Generator) -> int:
    """Draws a place where a span of that length fits, all equally likely."""
    starts = [np.arange(begin, end - length + 1) for begin, end in stretches]
    return int(rng.choice(np.concatenate(starts)))

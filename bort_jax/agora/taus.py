# SPDX-License-Identifier: Apache-2.0
"""Generating functions τ: for text *mlm*, *neighbour* and *mix*, for vectors a ball.

Rows of text are `[s]`, or `[c, s]` with c choices; only tokens whose side is free change.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from bort_jax.agora.generate import Parents, Tau

EITHER = (1, 2)  # both texts of a pair


def ball_tau(farthest: float, *, nearest: float = 0.0) -> Tau:
    """τ for vectors: a uniform direction, a radius uniform in [nearest, farthest].

    Raises:
      ValueError: the radii are not 0 ≤ nearest ≤ farthest.
    """
    if not 0 <= nearest <= farthest:
        raise ValueError(f"radii must have 0 ≤ nearest ≤ farthest; got {nearest}, {farthest}")

    def make(parents, which, rng):
        x = parents.x[which]
        direction = rng.standard_normal((len(x), x[:1].size))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        radius = rng.uniform(nearest, farthest, (len(x), 1))
        return (x + (radius * direction).reshape(x.shape)).astype(x.dtype)

    return Tau("ball", make, {"nearest": nearest, "farthest": farthest})


def mlm_tau(
    resample_fn: Callable, *, share: float = 0.2, passes: int = 2, sides: Sequence[int] = EITHER
) -> Tau:
    """τ by a masked LM: a share of the tokens is masked and drawn anew.

    Args:
      resample_fn: (x [n, s], positions [n, m], seed) to tokens [n, m].
      share: of the free tokens of the chosen sides, drawn in this many passes, each
        seeing the last one's result, so that neighbouring new tokens agree.
      sides: which texts of a pair change.

    Raises:
      ValueError: share is outside (0, 1], or passes below 1.
    """
    check_share(share)
    if passes < 1:
        raise ValueError(f"passes must be at least 1; got {passes}")

    def make(parents, which, rng):
        own = parents.take(which)
        x, order = own.x.copy(), drawn(free_tokens(own, sides), share, rng)
        # One width for all calls, so that a compiled model is compiled once.
        width = -(-max(1, round(share * x.shape[-1])) // passes)
        for one_pass in range(passes):
            chosen = (order >= 0) & (order % passes == one_pass)
            resample(x, chosen, resample_fn, width=width, seed=int(rng.integers(2**31)))
        return mirrored(x, own)

    return Tau("mlm", make, {"share": share, "passes": passes, **said(sides)})


def neighbour_tau(
    table: Float[np.ndarray, "v h"],
    *,
    special: Sequence[int],
    share: float = 0.2,
    nearest: int = 10,
    sides: Sequence[int] = EITHER,
) -> Tau:
    """τ by an embedding table: a share of the tokens gives way to one of its nearest by cosine.

    Args:
      special: ids that are not text, and are never put in.
      nearest: how many neighbours, all equally likely; neither the token itself nor a special one.

    Raises:
      ValueError: share is outside (0, 1], or the table has too few rows.
    """
    check_share(share)
    if not 1 <= nearest <= len(table) - len(special) - 1:
        raise ValueError(f"nearest {nearest} of a table of {len(table)} tokens")
    lookup = Neighbours(table, special=special, nearest=nearest)

    def make(parents, which, rng):
        own = parents.take(which)
        x = own.x.copy()
        chosen = drawn(free_tokens(own, sides), share, rng) >= 0
        found = lookup(x[chosen])
        x[chosen] = found[np.arange(len(found)), rng.integers(nearest, size=len(found))]
        return mirrored(x, own)

    return Tau("neighbour", make, {"share": share, "nearest": nearest, **said(sides)})


def mix_tau(label_fn: Callable, *, share: float = 0.3, sides: Sequence[int] = EITHER) -> Tau:
    """τ by other mistakes: a span gives way to as long a span of a mistake of the same label.

    A side stays a side: spans of first texts go into first texts. A mistake without a partner
    stays as it is, and is refused.

    Args:
      label_fn: points to labels and confidences: Socrates. Labels of dev are not read.
      share: length of the span, of the free tokens of the chosen sides; less where no run of
        free tokens is as long.

    Raises:
      ValueError: share is outside (0, 1].
    """
    check_share(share)

    def make(parents, which, rng):
        labels, _ = label_fn(parents.x)
        made = [swapped(parents, int(k), np.asarray(labels), share, sides, rng) for k in which]
        return mirrored(np.stack(made), parents.take(which))

    return Tau("mix", make, {"share": share, **said(sides)})


def check_share(share: float) -> None:
    if not 0 < share <= 1:
        raise ValueError(f"τ's share must lie in (0, 1]; got {share}")


def said(sides: Sequence[int]) -> dict:
    """The sides as a setting, where not both change."""
    return {} if tuple(sides) == EITHER else {"side": sides[0]}


def free_tokens(parents: Parents, sides: Sequence[int]) -> Bool[np.ndarray, "..."]:
    if parents.sides is None:
        raise ValueError("τ for text needs the sides of dev's tokens")
    return np.isin(parents.sides, sides)


def drawn(
    free: Bool[np.ndarray, "n *row"], share: float, rng: np.random.Generator
) -> Int[np.ndarray, "n *row"]:
    """Numbers from 0 a share of each row's free places, in random order; −1 elsewhere.

    At least one of each row that has one; a row is a choice where there are choices.
    """
    rows = free.reshape(-1, free.shape[-1])
    count = rows.sum(axis=1)
    wanted = np.minimum(np.maximum(1, np.rint(share * count)), count)
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


def mirrored(x: np.ndarray, parents: Parents) -> np.ndarray:
    """Choices share what they shared: the first one's tokens stand in all of them."""
    if x.ndim < 3 or parents.sides is None:
        return x
    return np.where(parents.sides < 0, x[:, :1], x)


class Neighbours:
    """The nearest tokens of any token, found once."""

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


def swapped(
    parents: Parents, k: int, labels: np.ndarray, share: float, sides: Sequence[int], rng
) -> np.ndarray:
    """Parent k with a span of another parent of the same label."""
    x = parents.x[k].copy()
    partners = np.flatnonzero((labels == labels[k]) & (np.arange(len(labels)) != k))
    if parents.sides is None:
        raise ValueError("τ for text needs the sides of dev's tokens")
    if not len(partners):
        return x
    other, side = int(rng.choice(partners)), int(rng.choice(sides_present(parents, k, sides)))
    flat = lambda values: values.reshape(-1)
    mine, theirs = (runs(flat(parents.sides[n]) == side) for n in (k, other))
    if not (len(mine) and len(theirs)):
        return x
    wanted = max(1, round(share * float(np.isin(parents.sides[k], sides).sum())))
    length = int(min(wanted, np.diff(mine).max(), np.diff(theirs).max()))
    at, source = (span_start(of, length, rng) for of in (mine, theirs))
    flat(x)[at : at + length] = flat(parents.x[other])[source : source + length]
    return x


def sides_present(parents: Parents, k: int, sides: Sequence[int]) -> list[int]:
    """Those of the sides that a point has; all of them where it has none."""
    assert parents.sides is not None
    return [side for side in sides if (parents.sides[k] == side).any()] or list(sides)


def runs(free: Bool[np.ndarray, " s"]) -> Int[np.ndarray, "r 2"]:
    """Where each stretch of free places begins and ends."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], free.astype(np.int8), [0]])))
    return edges.reshape(-1, 2)


def span_start(stretches: Int[np.ndarray, "r 2"], length: int, rng: np.random.Generator) -> int:
    """A place where a span of that length fits, all equally likely."""
    starts = [np.arange(begin, end - length + 1) for begin, end in stretches]
    return int(rng.choice(np.concatenate(starts)))

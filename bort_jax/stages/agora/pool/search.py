# SPDX-License-Identifier: Apache-2.0
"""Exact search by cosine distance: a jitted matrix product for each block of vectors."""

from collections.abc import Iterable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

BLOCK = 1 << 14  # vectors of a block: with 512 queries 32 MB of cosines


class Nearest(NamedTuple):
    """The nearest vectors of each query, nearest first.

    Attributes:
      rows: −1 where there are no more.
      distances: infinite there.
    """

    rows: Int[np.ndarray, "q k"]
    distances: Float[np.ndarray, "q k"]


def search(
    queries: Float[np.ndarray, "q h"],
    blocks: Iterable[tuple[int, Float[np.ndarray, "_ h"]]],
    *,
    free: Bool[np.ndarray, " total"],
    k: int,
    min_distance: float,
    max_distance: float,
    block: int = BLOCK,
) -> Nearest:
    """The nearest k free vectors of each query whose cosine distance, 1 − q·v, lies in
    [min_distance, max_distance]. Of equals the first.

    Args:
      queries: of length 1.
      blocks: the number of the first vector, and vectors of length 1, in whatever precision they
        are kept.
      free: which of all vectors may be found.
      block: vectors of a block, at the most.
    """
    count = len(queries)
    width, height = _power_of_two(k), _power_of_two(count)  # few shapes: few compilations
    padded = np.zeros((height, queries.shape[1]), np.float32)
    padded[:count] = queries
    cosines = 1 - max_distance, 1 - min_distance
    best = jnp.full((height, width), -jnp.inf), jnp.full((height, width), -1, jnp.int32)
    given = jnp.asarray(padded)
    for start, vectors in blocks:
        whole = np.zeros((block, vectors.shape[1]), vectors.dtype)
        whole[: len(vectors)] = vectors
        allowed = np.zeros(block, bool)
        allowed[: len(vectors)] = free[start : start + len(vectors)]
        best = _merge(given, whole, allowed, start, cosines, best)
    cosines, rows = (np.asarray(part)[:count, :k] for part in best)
    return Nearest(rows.astype(int), np.where(rows < 0, np.inf, 1 - cosines).astype(float))


@partial(jax.jit, donate_argnames="best")
def _merge(queries: Float[jax.Array, "q h"], block, allowed, start, window, best):
    """The best so far, with those of a block that are better: cosines and rows, both [q, k]."""
    (low, high), (cosines, rows), k = window, best, best[0].shape[1]
    found = queries @ block.astype(jnp.float32).T
    inside = allowed[None] & (found >= low) & (found <= high)
    found, places = jax.lax.top_k(jnp.where(inside, found, -jnp.inf), min(k, block.shape[0]))
    new = jnp.where(found > -jnp.inf, start + places.astype(jnp.int32), -1)
    cosines, rows = jnp.concatenate([cosines, found], 1), jnp.concatenate([rows, new], 1)
    cosines, order = jax.lax.top_k(cosines, k)
    return cosines, jnp.take_along_axis(rows, order, axis=1)


def _power_of_two(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()

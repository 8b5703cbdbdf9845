# SPDX-License-Identifier: Apache-2.0
"""τ *retrieve* made of an embedded pool, an encoder and the student."""

from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from scipy.special import softmax

from bort_jax.agora import Retrieval, Window
from bort_jax.agora.generate import ProposalFilter
from bort_jax.report.terminal import say
from bort_jax.stages.agora.material import Material
from bort_jax.stages.agora.pool.search import Nearest, search
from bort_jax.stages.agora.pool.store import Encoder, Pool, embed_pool


def retrieval_of(
    pool: Pool,
    encoder: Encoder,
    material: Material,
    outputs_fn: Callable,
    *,
    samples_per_error: int,
    distances: tuple[float, float],
) -> Retrieval:
    """τ *retrieve* on a task.

    Args:
      outputs_fn: (the student's parameters, points) to the outputs of its head.
      distances: the window.

    Raises:
      ValueError: every text of the pool stands in train, validation or test.
    """
    free = free_texts(pool, material)
    near, far = distances
    steer = encoder.vectors(encoder.tokens(material.steer.examples))

    def search_fn(rows: Int[np.ndarray, " q"], k: int, used: Collection[int]) -> Nearest:
        open_rows = free.copy()
        open_rows[list(used)] = False
        return search(
            steer[rows], pool.blocks(), free=open_rows, k=k, min_distance=near, max_distance=far
        )

    def doubt_fn(params, x: Int[np.ndarray, "m s"]) -> Float[np.ndarray, " m"]:
        chances = np.sort(softmax(outputs_fn(params, x), axis=1), axis=1)
        return chances[:, -1] - chances[:, -2]

    return Retrieval(
        search_fn=search_fn,
        read_fn=lambda rows: material.points(pool.read(rows)).x,
        doubt_fn=doubt_fn,
        samples_per_error=samples_per_error,
        name=f"retrieve min_distance={near:g} max_distance={far:g}",
    )


def open_pool(source: str, material: Material, encoder: Encoder, folder: Path) -> Pool:
    """Embeds the pool's file, or finds it embedded.

    Raises:
      ValueError: the task has choices, or as `embed_pool`.
    """
    if material.head == "choice":
        raise ValueError("τ retrieve does not know tasks with choices; leave --pool out")
    return embed_pool(source, material.task, encoder, folder)


def random_texts(
    pool: Pool, material: Material, count: int, *, seed: int = 0
) -> Int[np.ndarray, "m s"]:
    """Random texts of the pool as points, none of them held out or in train: up to `count`."""
    known = material.guard.keys_fn(material.train.x)
    accept = ProposalFilter(Window(), material.guard.keys_fn, set(known), material.guard.held_out)
    rows = np.random.default_rng(seed).permutation(np.flatnonzero(free_texts(pool, material)))
    x = material.points(pool.read(rows[: 2 * count])).x
    return x[accept(x, np.zeros_like(x), np.zeros(len(x)))][:count]


def free_texts(pool: Pool, material: Material) -> np.ndarray:
    """Which texts of the pool stand nowhere else, the first of equals: bool[n]."""
    held = (material.given, material.steer.examples, material.report.examples, material.test)
    free = pool.unknown([examples for examples in held if examples])
    count = int(free.sum())
    if not count:
        raise ValueError(
            f"{pool.source}: all {len(pool)} texts stand in train, validation or test: there is "
            "nothing to retrieve"
        )
    say(
        f"pool: {count:,} texts; {len(pool) - count:,} more are known already, or stand there twice"
    )
    return free

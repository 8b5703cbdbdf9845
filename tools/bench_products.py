# SPDX-License-Identifier: Apache-2.0
"""Products of matrices on this device: float32, bfloat16 as XLA takes it, and as the model asks.

    python tools/bench_products.py

Each product and its two gradients, x · w, g · wᵀ and xᵀ · g, GFLOP/s in turns, medians. `narrow` is
`bort_jax.model.cpu`.
"""

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jsonargparse import auto_cli

from bort_jax.model.cpu import narrow_matmul
from bort_jax.report.terminal import show_table

SHAPES = ((2048, 384, 384), (2048, 384, 1536), (2048, 1536, 384), (4096, 1024, 768))
NAMES = ("x · w", "g · wᵀ", "xᵀ · g")


def main(repeats: int = 15) -> None:
    """GFLOP/s of products in float32 and bfloat16.

    Args:
      repeats: turns; their median is shown.
    """
    rows = [row for shape in SHAPES for row in of_shape(*shape, repeats=repeats)]
    show_table("GFLOP/s", ("rows × inner × outer", "", *NAMES), rows)


def of_shape(m: int, k: int, n: int, *, repeats: int) -> list[tuple[str, ...]]:
    contestants = in_jax(m, k, n)
    times = {name: [[] for _ in runs] for name, runs in contestants.items()}
    for _ in range(repeats + 1):  # the first is not counted: it compiles
        for name, runs in contestants.items():
            for taken, run in zip(times[name], runs, strict=True):
                taken.append(seconds(run))
    rate = lambda taken: f"{2e-9 * m * k * n / np.median(taken[1:]):,.0f}"
    return [(f"{m} × {k} × {n}", name, *map(rate, taken)) for name, taken in times.items()]


def seconds(run: Callable) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def in_jax(m: int, k: int, n: int) -> dict[str, list[Callable]]:
    def runs(product, dtype) -> list[Callable]:
        x, w, g = (jnp.ones(shape, dtype) for shape in ((m, k), (k, n), (m, n)))
        left = jax.jit(lambda w, g: jax.vjp(lambda x: product(x, w), jnp.zeros_like(x))[1](g))
        right = jax.jit(lambda x, g: jax.vjp(lambda w: product(x, w), jnp.zeros_like(w))[1](g))
        calls = ((jax.jit(product), (x, w)), (left, (w, g)), (right, (x, g)))
        return [lambda f=f, a=a: jax.block_until_ready(f(*a)) for f, a in calls]

    return {
        "float32": runs(jnp.dot, jnp.float32),
        "bfloat16": runs(jnp.dot, jnp.bfloat16),
        "narrow": runs(narrow_matmul, jnp.float32),
    }


if __name__ == "__main__":
    auto_cli(main)

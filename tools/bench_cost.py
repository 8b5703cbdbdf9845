# SPDX-License-Identifier: Apache-2.0
"""Tuples a second through the jitted cost evaluator, once compiled; median and spread of 15."""

import time

import numpy as np

from bort_jax import SearchSpace, as_rows, cost


def main(tuples: int = 5_000_000, repeats: int = 15) -> None:
    space = SearchSpace.published()
    cost_fn = cost(space)
    rows = np.resize(as_rows(space.archs()), (tuples, 4))
    cost_fn(rows)
    rates = []
    for _ in range(repeats):
        start = time.perf_counter()
        cost_fn(rows)
        rates.append(tuples / (time.perf_counter() - start) / 1e6)
    low, middle, high = np.percentile(rates, [0, 50, 100])
    print(f"million tuples a second: median {middle:.1f} (smallest {low:.1f}, largest {high:.1f})")


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Tuples a second through the jitted cost evaluator, once compiled, and the memory it takes."""

import resource
import time

import numpy as np

from bort_jax import SearchSpace, as_rows, cost_function


def main(tuples: int = 5_000_000, repeats: int = 15) -> None:
    space = SearchSpace.published()
    cost_fn = cost_function(space)
    print(f"extra memory of 1,000,000 tuples: {extra_megabytes(cost_fn, space):.0f} MB")
    rows = np.resize(as_rows(space.archs()), (tuples, 4))
    rates = []
    for _ in range(repeats):
        start = time.perf_counter()
        cost_fn(rows)
        rates.append(tuples / (time.perf_counter() - start) / 1e6)
    low, middle, high = np.percentile(rates, [0, 50, 100])
    print(f"million tuples a second: median {middle:.1f} (smallest {low:.1f}, largest {high:.1f})")


def extra_megabytes(cost_fn, space: SearchSpace) -> float:
    """Growth of the peak resident memory, results included; the rows themselves are not."""
    rows = np.resize(as_rows(space.archs()), (1_000_000, 4))
    cost_fn(rows[: 1 << 17])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cost_fn(rows)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


if __name__ == "__main__":
    main()

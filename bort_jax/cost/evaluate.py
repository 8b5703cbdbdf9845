# SPDX-License-Identifier: Apache-2.0
"""The jitted, vmapped cost evaluator, exact in 64 bits."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Int

from bort_jax.arch import Arch, SearchSpace
from bort_jax.cost.bert import Head, Network, bert_network

INT64_MAX = np.iinfo(np.int64).max


class Costs(NamedTuple):
    """Exact costs of n architectures, in the order in which they were asked for."""

    params: Int[np.ndarray, " n"]  # trainable parameters
    steps: Int[np.ndarray, " n"]  # multiply-adds of one forward pass on one sequence


CostFn = Callable[[Int[np.ndarray, "n 4"]], Costs]


def cost(space: SearchSpace, *, seq_len: int = 128, head: Head = "none", labels: int = 2) -> CostFn:
    """Builds `cost_fn(archs: int[n, 4]) -> Costs`, jitted and vmapped over n.

    The rows need not belong to the grid of `space`; its vocabulary and positions are what
    counts. Exact as long as no result exceeds 2⁶³ − 1: the bound is checked on each call,
    from the componentwise largest row, in Python integers.

    Args:
      space: gives `vocab_size` and `positions`.
      seq_len: length at which multiply-adds are counted.
      head: what stands on the encoder; `none` counts the encoder alone.
      labels: outputs of the classifier head.
    """
    network = bert_network(
        vocab_size=space.vocab_size,
        positions=space.positions,
        seq_len=seq_len,
        head=head,
        labels=labels,
    )

    def one(arch: Int[jax.Array, "4"]):
        return total(network, arch)

    evaluate = jax.jit(jax.vmap(one))

    def cost_fn(archs: Int[np.ndarray, "n 4"]) -> Costs:
        rows = _checked_rows(archs)
        if len(rows) and max(total(network, [int(m) for m in rows.max(axis=0)])) > INT64_MAX:
            raise ValueError(f"costs beyond 2⁶³ − 1: largest sizes {rows.max(axis=0)}")
        # 64-bit integers exist only inside this context: int32 would overflow silently.
        with jax.enable_x64(True):
            return Costs(*map(np.asarray, evaluate(rows)))

    return cost_fn


def total(network: Network, arch):
    """p and i of the whole network at `arch`: four Python ints, or four traced integers."""
    params = sum(part.params(arch) for part in network.parts.values())
    steps = sum(part.steps(arch) for part in network.parts.values())
    return params, steps


def by_part(network: Network, arch: Arch) -> dict[str, dict[str, int]]:
    """p and i of each part, in Python integers."""
    return {
        name: {"params": part.params(arch), "steps": part.steps(arch)}
        for name, part in network.parts.items()
    }


def _checked_rows(archs) -> Int[np.ndarray, "n 4"]:
    rows = np.asarray(archs)
    if rows.ndim != 2 or rows.shape[1] != 4 or not np.issubdtype(rows.dtype, np.integer):
        raise ValueError(
            f"expected integers of shape [n, 4] in the order <D, A, H, I>; "
            f"got {rows.dtype} of shape {list(rows.shape)}"
        )
    return rows.astype(np.int64, copy=False)

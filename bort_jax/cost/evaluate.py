# SPDX-License-Identifier: Apache-2.0
"""The jitted, vmapped cost evaluator, exact in 64 bits."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from bort_jax.arch import SearchSpace
from bort_jax.cost.bert import Head, bert_network
from bort_jax.cost.network import Network, total

INT64_MAX = np.iinfo(np.int64).max
CHUNK = 1 << 17  # rows evaluated at once: a million tuples need no more room than their results


class Costs(NamedTuple):
    """Exact costs of n architectures, in the order in which they were asked for."""

    params: Int[np.ndarray, " n"]  # trainable parameters, p
    steps: Int[np.ndarray, " n"]  # multiply-adds of one forward pass on one sequence, i
    others: Int[np.ndarray, " n"]  # element-wise operations of the same pass
    weight_bytes: Int[np.ndarray, " n"]  # of the parameters, in float32
    activation_bytes: Int[np.ndarray, " n"]  # the most alive at once in a forward pass

    @property
    def operations(self) -> Int[np.ndarray, " n"]:
        """Multiply-adds and element-wise operations, one each: heads are not free here."""
        return self.steps + self.others

    @property
    def memory(self) -> Int[np.ndarray, " n"]:
        """Bytes of weights and activations."""
        return self.weight_bytes + self.activation_bytes


CostFn = Callable[[Int[np.ndarray, "n k"]], Costs]


def cost(
    space: SearchSpace,
    *,
    seq_len: int = 128,
    head: Head = "none",
    labels: int = 2,
    batch: int = 1,
    bytes_per_number: int = 4,
) -> CostFn:
    """Builds `cost_fn(archs: int[n, 4]) -> Costs`, jitted and vmapped over n.

    The rows need not belong to the grid of `space`; its vocabulary and positions are what
    counts.

    Args:
      space: gives `vocab_size` and `positions`.
      seq_len: length at which steps, operations and activations are counted.
      head: what stands on the encoder; `none` counts the encoder alone.
      labels: outputs of the classifier head.
      batch: sequences in a forward pass, for `activation_bytes`.
      bytes_per_number: of an activation: 4, or 2 in half precision.
    """
    network = bert_network(
        vocab_size=space.vocab_size,
        positions=space.positions,
        seq_len=seq_len,
        head=head,
        labels=labels,
    )
    return network_cost(network, batch=batch, bytes_per_number=bytes_per_number)


def network_cost(network: Network, *, batch: int = 1, bytes_per_number: int = 4) -> CostFn:
    """Builds `cost_fn(rows: int[n, k]) -> Costs` of any A·Bⁿ·C network with k parameters.

    Exact as long as no result exceeds 2⁶³ − 1: the bound is checked on each call, in Python
    integers, at the componentwise largest row (counts are taken to grow with every parameter).

    Raises (by `cost_fn`):
      ValueError: rows are not integers of shape [n, k], or a result would not fit.
    """

    def one(row):
        return Costs(*_costs(network, row, batch * bytes_per_number, jnp.maximum))

    evaluate = jax.jit(jax.vmap(one))

    def cost_fn(rows: Int[np.ndarray, "n k"]) -> Costs:
        rows = _checked_rows(rows, network.names)
        largest = [int(size) for size in rows.max(axis=0)] if len(rows) else []
        if largest and max(_costs(network, largest, batch * bytes_per_number, max)) > INT64_MAX:
            raise ValueError(f"costs beyond 2⁶³ − 1: largest sizes {largest}")
        return _in_chunks(evaluate, rows)

    return cost_fn


def _costs(network: Network, row, bytes_alive: int, larger: Callable) -> tuple:
    counts = total(network, row)
    most = 0 * row[0]
    for count in (*network.a.alive, *network.b.alive, *network.c.alive):
        most = larger(most, count(row))
    params, steps, others = counts["params"], counts["steps"], counts["others"]
    return params, steps, others, 4 * params, bytes_alive * most


def _in_chunks(evaluate: Callable, rows: Int[np.ndarray, "n k"]) -> Costs:
    """All rows, CHUNK at a time where there are more; the last is filled up to one shape."""
    size = min(CHUNK, max(len(rows), 1))
    found = Costs(*(np.empty(len(rows), np.int64) for _ in Costs._fields))
    # 64-bit integers exist only inside this context: int32 would overflow silently.
    with jax.enable_x64(True):
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            filled = np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])
            for out, values in zip(found, evaluate(filled), strict=True):
                out[start : start + len(part)] = values[: len(part)]
    return found


def _checked_rows(rows, names) -> Int[np.ndarray, "n k"]:
    rows = np.asarray(rows)
    wanted = len(names)
    if rows.ndim != 2 or rows.shape[1] != wanted or not np.issubdtype(rows.dtype, np.integer):
        raise ValueError(
            f"expected integers of shape [n, {wanted}] in the order <{', '.join(names)}>; "
            f"got {rows.dtype} of shape {list(rows.shape)}"
        )
    return rows.astype(np.int64, copy=False)

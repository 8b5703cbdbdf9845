# SPDX-License-Identifier: Apache-2.0
"""The jitted, vmapped cost evaluator, exact in 64 bits."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from bort_jax.arch import SearchSpace
from bort_jax.cost.bert import Head, bert_network
from bort_jax.cost.network import Network, total

CHUNK = 1 << 17  # rows evaluated at once: a million tuples need no more room than their results


class Costs(NamedTuple):
    """Exact costs of n architectures, in the order in which they were asked for."""

    params: Int[np.ndarray, " n"]  # trainable parameters, p
    macs: Int[np.ndarray, " n"]  # multiply-adds of one forward pass on one sequence, i
    elementwise_ops: Int[np.ndarray, " n"]  # element-wise operations of the same pass
    weight_bytes: Int[np.ndarray, " n"]  # of the parameters, in float32
    activation_bytes: Int[np.ndarray, " n"]  # the most live_activations at once in a forward pass

    @property
    def operations(self) -> Int[np.ndarray, " n"]:
        """Multiply-adds and element-wise operations, one each: heads are not free here."""
        return self.macs + self.elementwise_ops

    @property
    def memory(self) -> Int[np.ndarray, " n"]:
        """Bytes of weights and activations."""
        return self.weight_bytes + self.activation_bytes


CostFn = Callable[[Int[np.ndarray, "n k"]], Costs]


def cost_function(
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
      seq_len: length at which macs, operations and activations are counted.
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

    Exact as long as no result exceeds 2⁶³ − 1. Each call checks this: a result that wrapped
    around is far from the same count in floating point. Nothing is assumed about how counts grow.

    Raises:
      ValueError: `batch` is below 1 or absurd; by `cost_fn`, rows are not integers of shape [n, k],
        or a result would not fit.
    """
    if not 1 <= batch < 2**31:
        raise ValueError(f"batch must be 1 or more, below 2^31; got {batch}")

    def one(row):
        return _costs(network, row, batch * bytes_per_number)

    def evaluate(rows):
        exact = jax.vmap(one)(rows)
        near = jax.vmap(one)(rows.astype(jnp.float64))
        return exact, jnp.array([_agree(*pair) for pair in zip(exact, near, strict=True)]).all()

    compiled = jax.jit(evaluate)
    return lambda rows: _in_chunks(compiled, _check_rows(rows, network.names))


def _costs(network: Network, row, bytes_alive: int) -> Costs:
    counts = total(network, row)
    most: Any = 0 * row[0]
    for count in (
        *network.a.live_activations,
        *network.b.live_activations,
        *network.c.live_activations,
    ):
        most = jnp.maximum(most, count(row))
    params, macs, elementwise_ops = counts["params"], counts["macs"], counts["elementwise_ops"]
    return Costs(params, macs, elementwise_ops, 4 * params, bytes_alive * most)


def _agree(exact, near):
    # Wrapping moves a count by a multiple of 2⁶⁴: by two thirds of it or more, however large it is.
    return jnp.all(jnp.abs(exact - near) <= 1e-6 * jnp.abs(near) + 1)


def _in_chunks(evaluate: Callable, rows: Int[np.ndarray, "n k"]) -> Costs:
    """All rows, CHUNK at a time where there are more; the last is filled up to one shape."""
    size = min(CHUNK, max(len(rows), 1))
    found = Costs(*(np.empty(len(rows), np.int64) for _ in Costs._fields))
    # 64-bit integers exist only inside this context: int32 would overflow silently.
    with jax.enable_x64(True):
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            filled = np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])
            costs, fits = evaluate(filled)
            if not fits:
                raise ValueError(f"costs beyond 2⁶³ − 1: largest sizes {rows.max(axis=0).tolist()}")
            for out, values in zip(found, costs, strict=True):
                out[start : start + len(part)] = values[: len(part)]
    return found


def _check_rows(rows, names) -> Int[np.ndarray, "n k"]:
    rows = np.asarray(rows)
    wanted = len(names)
    if rows.ndim != 2 or rows.shape[1] != wanted or not np.issubdtype(rows.dtype, np.integer):
        raise ValueError(
            f"expected integers of shape [n, {wanted}] in the order <{', '.join(names)}>; "
            f"got {rows.dtype} of shape {list(rows.shape)}"
        )
    return rows.astype(np.int64, copy=False)

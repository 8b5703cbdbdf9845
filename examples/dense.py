# SPDX-License-Identifier: Apache-2.0
"""Fully connected layers with a width of their own: an A·Bⁿ·C network of another kind."""

from collections.abc import Sequence
from functools import partial

from bort_jax.cost.network import Network, Part


def dense_network(layers: int) -> Network:
    """Widths w0 … w_n of n = `layers` dense layers with biases and a ReLU between them.

    A is the first layer, C the last, and the middle stands as one B with n = 1, since its
    layers have widths of their own.

    Raises:
      ValueError: fewer than two layers.
    """
    if layers < 2:
        raise ValueError(f"A and C take one layer each; got {layers}")
    parts = (range(1), range(1, layers - 1), range(layers - 1, layers))
    a, b, c = (Part(partial(_params, part), partial(_macs, part)) for part in parts)
    return Network(a, b, c, names=[f"w{n}" for n in range(layers + 1)], repeats=lambda row: 1)


def _params(layers: range, row):
    return sum((row[n] * row[n + 1] + row[n + 1] for n in layers), start=0 * row[0])


def _macs(layers: range, row):
    return sum((row[n] * row[n + 1] for n in layers), start=0 * row[0])


def article_count(widths: Sequence[int]):
    """The count of the article "A version of the BERT language model that's 20 times as fast":
    w0·(w1·w2 + w1 + w3·w4 + w4), which is 72 at (2, 4, 3, 4, 4) and 40 at (2, 3, 3, 3, 2).

    It is not the number of weights and biases of such layers, which `dense_network` counts
    as 63 and 41; the article shows no derivation.
    """
    w0, w1, w2, w3, w4 = widths
    return w0 * (w1 * w2 + w1 + w3 * w4 + w4)

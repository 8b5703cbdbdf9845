# SPDX-License-Identifier: Apache-2.0
"""A vision transformer as an A·Bⁿ·C network: the number of tokens depends on ξ.

Patch embedding with a class token and learned positions (A), pre-LayerNorm layers (B), a final
LayerNorm and a linear classifier on the class token (C).
"""

from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

from bort_jax.cost.bert import GELU, LAYER_NORM, SOFTMAX
from bort_jax.cost.network import Network, Part


class VitArch(NamedTuple):
    """ξ of a vision transformer; `heads` divides `hidden`, `patch` the image."""

    depth: int
    heads: int
    hidden: int
    intermediate: int
    patch: int

    def __str__(self) -> str:
        return "D{}-A{}-H{}-I{}-P{}".format(*self)


@dataclass(frozen=True)
class VitSpace:
    """A grid of `VitArch`."""

    depth: tuple[int, ...]
    heads: tuple[int, ...]
    hidden: tuple[int, ...]
    intermediate: tuple[int, ...]
    patch: tuple[int, ...]
    image: int = 32

    def archs(self) -> list[VitArch]:
        """Every valid tuple, in lexical order; empty if there is none."""
        grid = product(self.depth, self.heads, self.hidden, self.intermediate, self.patch)
        return [
            arch
            for arch in map(VitArch._make, grid)
            if arch.hidden % arch.heads == 0 and self.image % arch.patch == 0
        ]


def vit_network(*, image: int, channels: int = 3, labels: int = 10) -> Network:
    """The counts of a vision transformer at rows <D, A, H, I, patch>."""

    def tokens(row):
        return (image // row[4]) ** 2 + 1

    def pixels(row):
        return channels * row[4] * row[4]

    a = Part(
        params=lambda row: (pixels(row) + 1 + 1 + tokens(row)) * row[2],
        macs=lambda row: (tokens(row) - 1) * pixels(row) * row[2],
        elementwise_ops=lambda row: tokens(row) * row[2] * 2,
    )
    b = Part(
        params=lambda row: 4 * row[2] * row[2] + 2 * row[2] * row[3] + 9 * row[2] + row[3],
        macs=lambda row: tokens(row) * (4 * row[2] + 2 * row[3] + 2 * tokens(row)) * row[2],
        elementwise_ops=lambda row: (
            tokens(row)
            * (SOFTMAX * row[1] * tokens(row) + (8 + 2 * LAYER_NORM) * row[2] + (1 + GELU) * row[3])
        ),
    )
    c = Part(
        params=lambda row: (2 + labels) * row[2] + labels,
        macs=lambda row: labels * row[2],
        elementwise_ops=lambda row: LAYER_NORM * row[2] + labels,
    )
    return Network(a, b, c, names=VitArch._fields, repeats=lambda row: row[0])

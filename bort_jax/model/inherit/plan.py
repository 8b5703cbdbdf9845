# SPDX-License-Identifier: Apache-2.0
"""Which of a parent's layers stay, and which skipped ones each of them stands in for."""

from typing import NamedTuple

from bort_jax.arch import LayerwiseArch

Option = tuple[int, int]
SKIP: Option = (0, 0)
CLOSE = 3  # skipped layers in a row that are prepared for at once


class Kept(NamedTuple):
    """A layer that stays, and the last of the skipped ones after it, which it stands in for."""

    number: int
    until: int
    option: Option


def plan(arch: LayerwiseArch) -> list[Kept]:
    """The layers that stay, each with the skipped ones after it."""
    kept = [n for n, option in enumerate(arch.layers) if option != SKIP]
    ends = [*(n - 1 for n in kept[1:]), len(arch.layers) - 1]
    return [Kept(n, end, arch.layers[n]) for n, end in zip(kept, ends, strict=True)]


def pairs(arch: LayerwiseArch) -> list[tuple[int, int]]:
    """Layers that stay, each with the last skipped one that it stands in for."""
    return [(kept.number, kept.until) for kept in plan(arch) if kept.until > kept.number]


def close_pairs(depth: int) -> list[tuple[int, int]]:
    """Layers with the last of up to `CLOSE` skipped ones after them."""
    return [(n, until) for n in range(depth) for until in range(n + 1, min(depth, n + CLOSE + 1))]

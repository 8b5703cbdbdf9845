# SPDX-License-Identifier: Apache-2.0
"""Layers of their own sizes in stock classes: filled up with zeros, and cut off again.

A head of zeros mixes zeros, and a unit of zeros is GELU(0) = 0: neither adds anything to a state. A
gradient cannot move them, for every factor of theirs meets a zero.
"""

from dataclasses import replace

import jax
import numpy as np

from bort_jax.arch import Arch, LayerwiseArch
from bort_jax.interop.checkpoint import Checkpoint
from bort_jax.model import count_params, param_structs


def hull(arch: Arch | LayerwiseArch) -> Arch:
    """The least architecture of equal layers that holds all of them: the layers that are not
    skipped, all heads of a hidden size, for stock ones have A·k = H, and the largest I.

    Raises:
      ValueError: the heads of no stock class have this size, or more of them than fit, or every
        layer is skipped.
    """
    if isinstance(arch, Arch):
        return arch
    heads, rest = divmod(arch.hidden, arch.head_size)
    sizes = arch.sizes()
    if rest or not sizes or max(a for a, _ in sizes) > heads:
        raise ValueError(
            f"stock classes cannot express {arch}: they have layers, and heads whose sizes add up "
            "to the hidden size; --to onnx, --to orbax and --to stablehlo hold any"
        )
    return Arch(len(sizes), heads, arch.hidden, max(i for _, i in sizes))


def padding_note(checkpoint: Checkpoint) -> str:
    """What of the sizes a stock class computes with, or nothing where that is all."""
    wide = in_hull(checkpoint)
    if wide.config == checkpoint.config:
        return ""
    own, stored = count_params(checkpoint.model), count_params(wide.model)
    return (
        f"layers of different sizes are filled up with zeros to {wide.config.arch}: {stored:,} "
        f"parameters in stock classes, of which {own:,} are the model's; this package reads its "
        "true sizes, and onnx, orbax and stablehlo hold no others"
    )


def in_hull(empty: Checkpoint) -> Checkpoint:
    """A checkpoint without parameters, of the architecture that stock classes have."""
    return replace(empty, config=replace(empty.config, arch=hull(empty.config.arch)), params=None)


def pad(checkpoint: Checkpoint) -> Checkpoint:
    """The same model in the architecture that stock classes have; raises ValueError as `hull`."""
    wide = in_hull(checkpoint)
    if wide.config == checkpoint.config:
        return checkpoint

    def fill(x, struct):
        missing = [(0, big - small) for big, small in zip(struct.shape, np.shape(x), strict=True)]
        return np.pad(np.asarray(x), missing)

    return wide.with_params(jax.tree.map(fill, checkpoint.params, param_structs(wide.model)))


def cut(wide: Checkpoint, arch: Arch | LayerwiseArch, *, source: str) -> Checkpoint:
    """The model with its true sizes; raises ValueError where it has more than zeros beyond them."""
    if arch == wide.config.arch:
        return wide
    narrow = replace(wide, config=replace(wide.config, arch=arch))
    keep = lambda x, struct: np.ascontiguousarray(x[tuple(map(slice, struct.shape))])
    narrow = narrow.with_params(jax.tree.map(keep, wide.params, param_structs(narrow.model)))
    if not jax.tree.all(jax.tree.map(np.array_equal, pad(narrow).params, wide.params)):
        raise ValueError(f"{source} holds more than the sizes that its config.json says: {arch}")
    return narrow

# SPDX-License-Identifier: Apache-2.0
"""Milliseconds that the parts of a parent take on this device."""

import numpy as np

from bort_jax.arch import Arch, LayerwiseArch
from bort_jax.stages.extract.latency import forward_seconds
from bort_jax.stages.extract.parent.choices import LayerLatency, Sizes

STACK = 3  # layers of one size that are timed together


def layer_latency(arch: Arch, sizes: Sizes, *, vocab_size: int, seq_len: int) -> LayerLatency:
    """Timed on stacks of equal layers, heads apart from units; smaller ones never take longer."""
    heads = [(a, arch.intermediate) for a in sizes.heads]
    units = [(arch.heads, i) for i in sizes.units]
    stacks = [(option, STACK) for option in (*heads, *units[:-1])]
    whole = (arch.heads, arch.intermediate)
    shapes = [
        LayerwiseArch(arch.hidden, arch.head_size, (option,) * depth)
        for option, depth in ((whole, 1), *stacks)
    ]
    one, *times = 1e3 * forward_seconds(shapes, vocab_size=vocab_size, seq_len=seq_len)
    layer = max(0.0, (times[len(heads) - 1] - one) / (STACK - 1))
    rest = max(0.0, one - layer)
    each = (np.array(times) - rest) / STACK
    of_heads = np.maximum.accumulate(each[: len(heads)])
    of_units = np.maximum.accumulate(np.append(each[len(heads) :], of_heads[-1]))
    return LayerLatency(rest, tuple(of_heads.tolist()), tuple((of_units - of_units[-1]).tolist()))

# SPDX-License-Identifier: Apache-2.0
"""The costs of one layer whose heads have a size of their own: A·k may be less than H."""

import numpy as np
from jaxtyping import Int

from bort_jax.arch import LayerwiseArch, SearchSpace
from bort_jax.cost.bert import embedding_params, layer_counts

Option = tuple[int, int]  # heads, intermediate; (0, 0): the layer is skipped


def layer_cost(option: Option, *, hidden: int, head_size: int, seq_len: int) -> tuple[int, int]:
    """Parameters and multiply-adds of one layer, exact; both are 0 for a layer that is skipped."""
    heads, intermediate = option
    if option == (0, 0):
        return 0, 0
    params, macs = layer_counts(seq_len)
    sizes = (hidden, heads * head_size, intermediate)
    return params(sizes), macs(sizes)


def layer_options(space: SearchSpace, *, hidden: int, head_size: int) -> list[Option]:
    """Every layer that a hidden size allows, the skipped one first.

    Raises:
      ValueError: no number of heads fits.
    """
    heads = [a for a in sorted(set(space.heads)) if a * head_size <= hidden]
    if not heads:
        raise ValueError(
            f"no number of heads fits: {min(space.heads)} heads of {head_size} are wider than "
            f"hidden {hidden}"
        )
    return [(0, 0)] + [(a, i) for a in heads for i in sorted(set(space.intermediate))]


def layerwise_cost(
    arch: LayerwiseArch, *, vocab_size: int, positions: int, seq_len: int
) -> tuple[int, int]:
    """p and i of a whole encoder, embeddings included."""
    sizes = dict(hidden=arch.hidden, head_size=arch.head_size, seq_len=seq_len)
    layers: Int[np.ndarray, "l 2"] = np.array([layer_cost(x, **sizes) for x in arch.layers])
    params, macs = (int(x) for x in layers.sum(axis=0))
    embeddings = embedding_params(arch.hidden, vocab_size=vocab_size, positions=positions)
    return embeddings + params, macs

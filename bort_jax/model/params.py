# SPDX-License-Identifier: Apache-2.0
"""Parameter trees: fresh ones, and their size."""

import math

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import flatten_dict

from bort_jax.model.bert import MaskedLM


def init_params(model: nn.Module, *, seed: int):
    """Fresh float32 parameters as a tree of numpy arrays (normal, σ = 0.02; biases 0).

    numpy, because donating a device array that came from a replicated tree would delete the
    tree with it.
    """
    return jax.tree.map(np.asarray, jax.jit(model.init)(jax.random.key(seed), *_inputs(model))["params"])


def count_params(model: nn.Module) -> int:
    """The number of trainable parameters of a Linen module, without allocating them."""
    return sum(math.prod(shape) for shape in flatten_dict(param_shapes(model)).values())


def param_shapes(model: nn.Module) -> dict:
    """The tree of parameter shapes, without allocating the parameters."""
    structs = jax.eval_shape(model.init, jax.random.key(0), *_inputs(model))["params"]
    return jax.tree.map(lambda leaf: leaf.shape, structs)


def _inputs(model: nn.Module):
    ids = np.zeros((1, 1), dtype=np.int32)
    mask = np.ones((1, 1), dtype=bool)
    return (ids, mask, ids) if isinstance(model, MaskedLM) else (ids, mask)

# SPDX-License-Identifier: Apache-2.0
"""Parameter trees: fresh ones, and their size."""

import math
from typing import cast

import flax.linen as nn
import jax
import numpy as np

from bort_jax.model.bert import Classifier, MaskedLM

SIGMA = 0.02  # of INIT in bert.py


def init_params(model: nn.Module, *, seed: int):
    """Fresh float32 parameters as a tree of numpy arrays (normal, σ = 0.02; biases 0).

    numpy, because donating a device array that came from a replicated tree would delete the
    tree with it.
    """
    return jax.tree.map(
        np.asarray, jax.jit(model.init)(jax.random.key(seed), *_inputs(model))["params"]
    )


def random_params(model: nn.Module, *, seed: int):
    """As `init_params`, the same distributions but another draw, without a compilation."""
    return random_like(param_structs(model), seed=seed)


def random_like(structs, *, seed: int):
    """Fresh parameters for a tree of shapes, or for a part of one."""
    generator = np.random.default_rng(seed)

    def draw(path, leaf):
        if path[-1].key in ("kernel", "embedding"):
            return generator.normal(0, SIGMA, leaf.shape).astype(np.float32)
        return np.full(leaf.shape, float(path[-1].key == "scale"), np.float32)

    return jax.tree_util.tree_map_with_path(draw, structs)


def forward(model: nn.Module, params, *inputs, key=None) -> jax.Array:
    """Runs a module; with a key dropout is on, and drawn from it."""
    return cast(jax.Array, _apply(model, params, *inputs, key=key, method=None))


def states_and_logits(
    model: MaskedLM | Classifier, params, *inputs, key=None
) -> tuple[jax.Array, jax.Array]:
    """As `forward`, but the last hidden states too."""
    both = _apply(model, params, *inputs, key=key, method="states_and_logits")
    return cast(tuple[jax.Array, jax.Array], both)


def _apply(model: nn.Module, params, *inputs, key, method):
    rngs = None if key is None else {"dropout": key}
    how = {"deterministic": key is None, "rngs": rngs, "method": method}
    return model.apply({"params": params}, *inputs, **how)


def count_params(model: nn.Module) -> int:
    """The number of trainable parameters of a Linen module, without allocating them."""
    return sum(math.prod(shape) for shape in flat_shapes(model).values())


def flat_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shapes by dotted name, without allocating the parameters."""
    leaves = jax.tree_util.tree_leaves_with_path(param_structs(model))
    return {".".join(entry.key for entry in path): leaf.shape for path, leaf in leaves}


def param_structs(model: nn.Module):
    """The parameter tree as shapes and types, without allocating it."""
    return jax.eval_shape(model.init, jax.random.key(0), *_inputs(model))["params"]


def _inputs(model: nn.Module):
    ids = np.zeros((1, 1), dtype=np.int32)
    mask = np.ones((1, 1), dtype=bool)
    return (ids, mask, ids) if isinstance(model, MaskedLM) else (ids, mask)

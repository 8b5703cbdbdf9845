# SPDX-License-Identifier: Apache-2.0
"""AdamW and LAMB from optax's parts, with hyperparameters that may be traced arrays."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

OPTIMIZERS = ("adamw", "lamb")
DECAYED = ("kernel", "embedding")  # not biases, not LayerNorm


class Hyper(NamedTuple):
    """Hyperparameters that may differ between members of a population."""

    learning_rate: Any
    weight_decay: Any
    warmup_steps: Any
    total_steps: Any

    @classmethod
    def of(cls, *, learning_rate, weight_decay, warmup_ratio, total_steps) -> "Hyper":
        values = (learning_rate, weight_decay, warmup_ratio * total_steps, total_steps)
        return cls(*map(np.float32, values))


def learning_rate(hyper: Hyper, step):
    """Linear warm-up to the peak, then linear decay to 0 at the last step."""
    step = jnp.asarray(step, jnp.float32)
    up = (step + 1) / jnp.maximum(hyper.warmup_steps, 1)
    down = (hyper.total_steps - step) / jnp.maximum(hyper.total_steps - hyper.warmup_steps, 1)
    return hyper.learning_rate * jnp.clip(jnp.minimum(up, down), 0, 1)


def make_optimizer(
    name: str, hyper: Hyper, *, rate, scale: Any = 1.0
) -> optax.GradientTransformation:
    """The gradient times `scale`, Adam (ε 1e-6) with decoupled decay, LAMB's trust ratio, −rate.

    The shape of its state depends on `name` alone.

    Raises:
      ValueError: `name` is not one of OPTIMIZERS.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}; got {name!r}")
    trust = [optax.scale_by_trust_ratio()] if name == "lamb" else []
    return optax.chain(
        optax.scale(scale),
        optax.scale_by_adam(eps=1e-6),
        optax.add_decayed_weights(hyper.weight_decay, mask=decay_mask),
        *trust,
        optax.scale(-rate),
    )


def begun(name: str, params):
    """The optimizer's state before the first step: zeros in numpy, which take no memory until they
    are read."""
    transform = make_optimizer(name, Hyper(*[0.0] * len(Hyper._fields)), rate=0.0)
    zeros = lambda leaf: np.zeros(leaf.shape, leaf.dtype)
    return jax.tree.map(zeros, jax.eval_shape(transform.init, params))


def clipping(norm, largest: float):
    """The scale that brings a gradient of this global norm to `largest`, where it is above."""
    return jnp.where(norm < largest, 1.0, largest / norm)


def decay_mask(params):
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key in DECAYED, params)


def limited(params, largest: float | None):
    """Every weight brought into [−largest, largest]; None: as they are.

    That the paper's compact set (arXiv 2010.08512, strong AB^nC) is this box, and that it holds for
    every trainable number, LayerNorm's scales too, is our reading.
    """
    if largest is None:
        return params
    return jax.tree.map(lambda weight: jnp.clip(weight, -largest, largest), params)

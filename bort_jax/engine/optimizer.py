# SPDX-License-Identifier: Apache-2.0
"""AdamW and LAMB from optax's parts, with hyperparameters that may be traced arrays."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

OPTIMIZERS = ("adamw", "lamb")
DECAYED = ("kernel", "embedding")  # not biases, not LayerNorm


COUNTS = (1, 2**31 - 1)
RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("seed", "seeds", "final_seeds"), (0, 2**32 - 1)),
    **dict.fromkeys(("learning_rate", "learning_rates"), (0, np.inf)),
    **dict.fromkeys(("weight_decay", "weight_decays", "clip"), (0, np.inf)),
    **dict.fromkeys(("warmup_ratio", "warmup_ratios"), (0, 1)),
    "dropout": (0, 0.999),
    **dict.fromkeys(("batch_size", "batch_sizes", "seq_len", "positions", "eval_rows"), COUNTS),
    **dict.fromkeys(("patience", "most_skipped"), (0, COUNTS[1])),
}


def check_numbers(settings: object) -> None:
    """Raises ValueError where a number of a training, known by its name, lies outside its range, or
    one of a list of them; settings need not have all."""
    for name, (low, high) in RANGES.items():
        given = getattr(settings, name, ())
        for value in given if isinstance(given, (tuple, list)) else (given,):
            if not low <= value <= high:
                raise ValueError(f"{name} must lie between {low} and {high}; got {value}")


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


def initial_opt_state(name: str, params):
    """The optimizer's state before the first step: zeros in numpy that take no memory."""
    transform = make_optimizer(name, Hyper(*[0.0] * len(Hyper._fields)), rate=0.0)
    # While tracing, a view of one number becomes no constant of the program's.
    zeros = lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)
    return jax.tree.map(zeros, jax.eval_shape(transform.init, params))


def clip_scale(norm, largest: float):
    """The scale that brings a gradient of this global norm to `largest`, where it is above."""
    return jnp.where(norm < largest, 1.0, largest / norm)


def decay_mask(params):
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key in DECAYED, params)

# SPDX-License-Identifier: Apache-2.0
"""Activation checkpointing: less memory for the time to compute activations again.

Parameters, values, dropout masks and gradients stay the same, but for the order of sums.
"""

from typing import Literal, get_args

import flax.linen as nn
import jax

Remat = Literal["none", "dots", "full"]
POLICIES = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


def check_remat(remat: str) -> None:
    """Raises ValueError where there is no such policy."""
    if remat not in get_args(Remat):
        raise ValueError(f"remat must be one of {', '.join(get_args(Remat))}; got {remat!r}")


def with_remat(layer: type[nn.Module], remat: Remat) -> type[nn.Module]:
    """A layer, called with `(x, mask, deterministic)`, that keeps less for its backward pass.

    Args:
      remat: what is computed again: `none`; `dots`: all but the products with weights; `full`:
        the whole layer, of which only the inputs are kept.

    Raises:
      ValueError: there is no such policy.
    """
    check_remat(remat)
    if remat == "none":
        return layer
    return nn.remat(layer, policy=POLICIES[remat], static_argnums=(3,))  # deterministic

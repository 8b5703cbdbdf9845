# SPDX-License-Identifier: Apache-2.0
"""Dropout in which a word of random bits serves two units, and whose gradient is written once.

Source: our reading of inverted dropout, as in flax; the mask is drawn otherwise, so that on two
CPU cores a pretraining step of Bort spends half the time on random bits.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

LEVELS = 2**16  # of a half word: a rate is kept to 1 part in 65,536


class Dropout(nn.Module):
    """Puts a share `rate` of the units to 0 and divides the others by 1 − rate."""

    rate: float

    @nn.compact
    def __call__(self, x: Float[Array, "..."], *, deterministic: bool) -> Float[Array, "..."]:
        if deterministic or self.rate == 0:
            return x
        return _scaled(x, kept(self.make_rng("dropout"), x.shape, rate=self.rate), self.rate)


def kept(key, shape: tuple[int, ...], *, rate: float) -> Bool[Array, "..."]:
    """Which units stay: independent, each with probability 1 − `rate`."""
    units = math.prod(shape)
    words = jax.random.bits(key, (-(-units // 2),), "uint32")
    halves = jax.lax.bitcast_convert_type(words, jnp.uint16).reshape(-1)
    return (halves[:units] >= round(rate * LEVELS)).reshape(shape)


@jax.custom_vjp
def _scaled(x, keep, rate):
    return jnp.where(keep, x / (1 - rate), 0)


def _forward(x, keep, rate):
    return _scaled(x, keep, rate), (keep, rate)


def _backward(saved, g):
    keep, rate = saved
    # Without the barrier XLA on CPU computes the product anew inside each transposition.
    return jax.lax.optimization_barrier(jnp.where(keep, g / (1 - rate), 0)), None, None


_scaled.defvjp(_forward, _backward)

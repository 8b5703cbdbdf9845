# SPDX-License-Identifier: Apache-2.0
"""LayerNorm with its gradient written out.

Source: Ba et al. (arXiv 1607.06450, section 3). Parameters are named as flax's own; its gradient,
left to differentiation, takes several times as long on CPU, for it writes what lies between.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class LayerNorm(nn.Module):
    """Brings the last axis to mean 0 and variance 1, then to `scale` and `bias`.

    Mean and variance are computed in float32, the variance from differences to the mean: from the
    mean of squares it would lose digits to cancellation.
    """

    epsilon: float
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "*rows h"]) -> Float[Array, "*rows h"]:
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        return layer_norm(x.astype(self.dtype), scale, bias, self.epsilon)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(x, scale, bias, epsilon: float):
    """(x − mean) / √(variance + ε) · scale + bias, over the last axis, in the type of x."""
    return _forward(x, scale, bias, epsilon)[0]


def _forward(x, scale, bias, epsilon):
    wide = x.astype(jnp.float32)
    mean = wide.mean(-1, keepdims=True)
    centred = wide - mean
    inverse = jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + epsilon)
    return (centred * inverse * scale + bias).astype(x.dtype), (x, mean, inverse, scale)


def _backward(epsilon, saved, g):
    x, mean, inverse, scale = saved
    g = g.astype(jnp.float32)
    unit = (x.astype(jnp.float32) - mean) * inverse
    scaled = g * scale
    along = scaled.mean(-1, keepdims=True) + unit * (scaled * unit).mean(-1, keepdims=True)
    rows = tuple(range(x.ndim - 1))
    return ((scaled - along) * inverse).astype(x.dtype), (g * unit).sum(rows), g.sum(rows)


layer_norm.defvjp(_forward, _backward)

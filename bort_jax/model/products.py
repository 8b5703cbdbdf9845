# SPDX-License-Identifier: Apache-2.0
"""Products of matrices with operands in bfloat16 and sums in float32, as CPUs are fast at them.

A CPU with units for matrices (AMX) multiplies bfloat16 several times as fast as float32. XLA, in
jaxlib 0.10, uses them only where the result is float32 and no operand is a transposed view (0.11
minds less), and else computes in float32. So what a gradient needs transposed is written to memory
first.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

BLOCK = 16  # columns of a matrix that are transposed together


@jax.custom_vjp
def narrow_matmul(x: Float[Array, "m k"], w: Float[Array, "k n"]) -> Float[Array, "m n"]:
    """x · w in float32, of x and w rounded to bfloat16; its gradients are such products too."""
    return _product(x, w)


@jax.custom_vjp
def narrow_matmul_t(x: Float[Array, "m k"], w: Float[Array, "n k"]) -> Float[Array, "m n"]:
    """x · wᵀ, as `narrow_matmul`."""
    return _product(x, transposed(_narrow(w)))


def transposed(x: Float[Array, "m n"]) -> Float[Array, "n m"]:
    """xᵀ, in a form that XLA does not take for a view of x."""
    rows, columns = x.shape
    wide = math.gcd(columns, BLOCK)
    return x.reshape(rows, -1, wide).transpose(1, 2, 0).reshape(columns, rows)


def _product(x, w):
    return jnp.dot(_narrow(x), _narrow(w), preferred_element_type=jnp.float32)


def _narrow(x):
    return x.astype(jnp.bfloat16)


def _forward(x, w):
    return narrow_matmul(x, w), (_narrow(x), _narrow(w))


def _gradients(saved, g):
    (x, w), g = saved, _narrow(g)
    return _product(g, transposed(w)), _product(transposed(x), g)


def _forward_t(x, w):
    return narrow_matmul_t(x, w), (_narrow(x), _narrow(w))


def _gradients_t(saved, g):
    (x, w), g = saved, _narrow(g)
    return _product(g, w), _product(transposed(g), x)


narrow_matmul.defvjp(_forward, _gradients)
narrow_matmul_t.defvjp(_forward_t, _gradients_t)

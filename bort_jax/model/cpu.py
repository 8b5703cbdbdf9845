# SPDX-License-Identifier: Apache-2.0
"""Layers' parts in forms that XLA runs faster on CPUs; other devices have flax's own.

`BertConfig` chooses, by `device_kind`. A part stands here only while a training step is at least
3 % slower without it:

| here | instead of | seconds of a step without it / with it |
|---|---|---|
| `dot_general` | that of `lax`, over two axes at once | 1.08 |
| `Dropout` | `nn.Dropout`: a word of random bits a unit | 1.04 |
| `narrow_matmul` | a product of bfloat16, as XLA takes it | 2.2 to 3.9, one product with AMX |

The first two: `python tools/bench_step.py --batches 8 --dropout 0.1 --stock dot_general Dropout
--clock cpu --without-torch --repeats 5`, Bort in float32 on two cores of an AMD EPYC (AVX2), CPU
seconds, since other programs ran: 3.41 a step (3.15 to 3.99), 3.67 (3.62 to 3.89) and 3.55 (3.41 to
3.95). The last: docs/measurements/speed.md, an Intel Xeon. Written-out gradients of LayerNorm, of
the cross-entropy, of the decoder's bias and of dropout brought 0.8 % together, and went.
"""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

LEVELS = 2**16  # of a half word: a dropout rate is kept to 1 part in 65,536
BLOCK = 16  # columns of a matrix that are transposed together


class Dropout(nn.Module):
    """Puts a share `rate` of the units to 0 and divides the others by 1 − rate.

    Source: our reading of inverted dropout, as in flax; but one word of random bits serves two
    units.
    """

    rate: float

    @nn.compact
    def __call__(self, x: Float[Array, "*shape"], *, deterministic: bool) -> Float[Array, "*shape"]:
        if deterministic or self.rate == 0:
            return x
        keep = dropout_mask(self.make_rng("dropout"), x.shape, rate=self.rate)
        return jnp.where(keep, x / (1 - self.rate), 0)


def dropout_mask(key, shape: tuple[int, ...], *, rate: float) -> Bool[Array, "*shape"]:
    """True for the units that stay: each by itself, with probability 1 − `rate`."""
    units = math.prod(shape)
    words = jax.random.bits(key, (-(-units // 2),), "uint32")
    halves = jax.lax.bitcast_convert_type(words, jnp.uint16).reshape(-1)
    return (halves[:units] >= round(rate * LEVELS)).reshape(shape)


def dot_general(x, kernel, dimension_numbers, precision=None, *, matmul: Callable = jnp.dot):
    """`lax.dot_general` of a dense layer as one product of two matrices: rows are one axis, and so
    are the heads of attention with their size.

    The gradients are products of matrices then too. Of more axes XLA on CPU writes transposed
    copies first, of x, of the output's gradient and of the kernel's.
    """
    inner = len(dimension_numbers[0][0])
    rows, features = x.shape[:-inner], kernel.shape[inner:]
    size = math.prod(kernel.shape[:inner])
    flat = matmul(x.reshape(-1, size), kernel.reshape(size, -1))
    return flat.reshape(*rows, *features)


# Products with operands in bfloat16 and sums in float32. A CPU with units for matrices (AMX)
# multiplies bfloat16 several times as fast as float32. XLA, in jaxlib 0.10, uses them only where
# the result is float32 and no operand is a transposed view (0.11 minds less), and else computes in
# float32. So what a gradient needs transposed is written to memory first.


@jax.custom_vjp
def narrow_matmul(x: Float[Array, "m k"], w: Float[Array, "k n"]) -> Float[Array, "m n"]:
    """x · w in float32, of x and w rounded to bfloat16; its gradients are such products too."""
    return _product(x, w)


@jax.custom_vjp
def narrow_matmul_t(x: Float[Array, "m k"], w: Float[Array, "n k"]) -> Float[Array, "m n"]:
    """x · wᵀ, as `narrow_matmul`."""
    return _product(x, transpose(_narrow(w)))


def transpose(x: Float[Array, "m n"]) -> Float[Array, "n m"]:
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
    return _product(g, transpose(w)), _product(transpose(x), g)


def _forward_t(x, w):
    return narrow_matmul_t(x, w), (_narrow(x), _narrow(w))


def _gradients_t(saved, g):
    (x, w), g = saved, _narrow(g)
    return _product(g, w), _product(transpose(g), x)


narrow_matmul.defvjp(_forward, _gradients)
narrow_matmul_t.defvjp(_forward_t, _gradients_t)

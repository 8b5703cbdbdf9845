# SPDX-License-Identifier: Apache-2.0
"""The parts for CPUs compute what flax's own do; products in bfloat16 are of rounded operands."""

import re
from dataclasses import replace
from functools import partial

import flax.linen as nn
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from bort_jax.arch import Arch
from bort_jax.model import BertConfig, MaskedLM, forward, random_params
from bort_jax.model.cpu import (
    Dropout,
    dot_general,
    dropout_mask,
    narrow_matmul,
    narrow_matmul_t,
    transpose,
)

SHAPES = [(1, 7, 2), (48, 31, 17), (3, 64, 257)]
MORE_SHAPES = [(1, 1, 1), (5, 1, 3), (33, 16, 2), (64, 96, 80)]
CONFIG = BertConfig(Arch(1, 2, 32, 64), vocab_size=50, positions=16, dropout=0.0)


def test_dropout_mask_keeps_its_share():
    mask = dropout_mask(jax.random.key(0), (333, 333), rate=0.1)
    # Five standard deviations of the share of 110,889 independent units.
    assert abs(mask.mean() - 0.9) < 5 * (0.09 / mask.size) ** 0.5
    first, second = mask.reshape(-1)[:-1:2], mask.reshape(-1)[1::2]
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.03  # the halves of a word are independent


@pytest.mark.parametrize("layer", [Dropout(0.25), nn.Dropout(0.25)])
def test_dropout_scales_units_and_their_gradients_alike(layer):
    x = jax.random.normal(jax.random.key(1), (7, 9))
    rngs = {"dropout": jax.random.key(2)}
    run = lambda x: layer.apply({}, x, deterministic=False, rngs=rngs)
    y, gradient = jax.jit(lambda x: (run(x), jax.grad(lambda x: run(x).sum())(x)))(x)
    scale = np.where(np.asarray(y) == 0, 0, 1 / 0.75)
    assert 0 < (scale == 0).sum() < scale.size
    np.testing.assert_allclose(y, x * scale, rtol=1e-6)
    np.testing.assert_allclose(gradient, scale, rtol=1e-6)
    assert np.array_equal(layer.apply({}, x, deterministic=True), x)


def drawn(*shapes):
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def with_gradients(product, x, w, g):
    value, gradients = jax.vjp(product, x, w)
    return value, *gradients(g)


@pytest.mark.parametrize(
    "x, kernel, axes",
    [((2, 3, 8), (8, 2, 5), ((2,), (0,))), ((2, 3, 2, 5), (2, 5, 8), ((2, 3), (0, 1)))],
)
def test_dot_general_is_that_of_jax(x, kernel, axes):
    """As dense layers call it: to heads, and from heads."""
    x, kernel = drawn(x, kernel)
    dimensions = (axes, ((), ()))
    g = jnp.cos(jax.lax.dot_general(x, kernel, dimensions))
    ours, theirs = (
        jax.jit(partial(with_gradients, partial(fn, dimension_numbers=dimensions)))(x, kernel, g)
        for fn in (dot_general, jax.lax.dot_general)
    )
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def rounded(x):
    return np.asarray(jnp.asarray(x).astype(jnp.bfloat16).astype(jnp.float32))


def farthest(found, expected) -> float:
    """The largest difference, where 1e-5 of a value is none."""
    pairs = zip(found, expected, strict=True)
    return max(np.max(np.abs(one - other) - 1e-5 * np.abs(other)) for one, other in pairs)


@pytest.mark.parametrize(
    "m, k, n", SHAPES + [pytest.param(*shape, marks=pytest.mark.slow) for shape in MORE_SHAPES]
)
def test_narrow_matmul_and_its_gradients_are_of_rounded_operands(m, k, n):
    """To the order of float32 sums; products of unrounded operands are a hundred times as far."""
    given = drawn((m, k), (k, n), (m, n))
    x, w, g = map(rounded, given)
    found = jax.jit(partial(with_gradients, narrow_matmul))(*given)
    assert {array.dtype.name for array in found} == {"float32"}
    assert farthest(found, (x @ w, g @ w.T, x.T @ g)) < 1e-4
    given = drawn((m, k), (n, k), (m, n))
    x, w, g = map(rounded, given)
    found = jax.jit(partial(with_gradients, narrow_matmul_t))(*given)
    assert farthest(found, (x @ w.T, g @ w, g.T @ x)) < 1e-4


@pytest.mark.parametrize("product, other", [(narrow_matmul, (64, 96)), (narrow_matmul_t, (96, 64))])
def test_narrow_matmul_has_no_transposed_view_for_an_operand(product, other):
    """Of those XLA makes products of float32."""
    given = drawn((80, 64), other, (80, 96))
    program = jax.jit(partial(with_gradients, product)).lower(*given).compile()
    dots = re.findall(
        r" dot\(.*contracting_dims=\{(\d)\}.*contracting_dims=\{(\d)\}", program.as_text()
    )
    assert dots == [("1", "0")] * 3


@pytest.mark.parametrize("m, n", [(1, 1), (7, 48), (33, 30), (70, 17)])
def test_transposed(m, n):
    x = np.arange(m * n, dtype=np.float32).reshape(m, n)
    np.testing.assert_array_equal(transpose(x), x.T)


def test_narrow_matmul_maps_over_models():
    x, w = drawn((3, 8, 16), (3, 16, 4))
    alone = [narrow_matmul(*pair) for pair in zip(x, w, strict=True)]
    np.testing.assert_allclose(jax.vmap(narrow_matmul)(x, w), np.stack(alone), rtol=1e-6)


def test_a_model_in_bfloat16_is_near_itself_in_float32():
    params = random_params(MaskedLM(CONFIG), seed=0)
    ids = np.arange(24).reshape(2, 12)

    def gradient(dtype):
        model = MaskedLM(replace(CONFIG, dtype=dtype))
        loss = lambda params: (forward(model, params, ids, ids >= 0, ids[:, :3] % 12) ** 2).sum()
        return jax.flatten_util.ravel_pytree(jax.jit(jax.grad(loss))(params))[0]

    wide, narrow = gradient("float32"), gradient("bfloat16")
    off = jnp.linalg.norm(wide - narrow) / jnp.linalg.norm(wide)
    assert 1e-5 < off < 2e-2

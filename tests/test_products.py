# SPDX-License-Identifier: Apache-2.0
"""Products in bfloat16 are those of the rounded operands, and so are their gradients."""

import re
from dataclasses import replace
from functools import partial

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bort_jax.arch import Arch
from bort_jax.model import BertConfig, MaskedLM, drawn_params, forward
from bort_jax.model.products import narrow_matmul, narrow_matmul_t, transposed

SHAPES = [(1, 1, 1), (1, 7, 2), (5, 1, 3), (33, 16, 2), (48, 31, 17), (64, 96, 80), (3, 64, 257)]
CONFIG = BertConfig(Arch(2, 2, 32, 64), vocab_size=50, positions=16, dropout=0.0)


def rounded(x):
    return np.asarray(jnp.asarray(x).astype(jnp.bfloat16).astype(jnp.float32))


def drawn(*shapes):
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def with_gradients(product, x, w, g):
    value, gradients = jax.vjp(product, x, w)
    return value, *gradients(g)


def all_near(found, expected) -> bool:
    """To the order of float32 sums; products of unrounded operands are a hundred times as far."""
    return all(map(partial(np.allclose, rtol=1e-5, atol=1e-4), found, expected))


@pytest.mark.parametrize("m, k, n", SHAPES)
def test_a_product_and_its_gradients_are_of_rounded_operands(m, k, n):
    given = drawn((m, k), (k, n), (m, n))
    found = jax.jit(lambda *given: with_gradients(narrow_matmul, *given))(*given)
    x, w, g = map(rounded, given)
    assert {array.dtype.name for array in found} == {"float32"}
    assert all_near(found, (x @ w, g @ w.T, x.T @ g))


@pytest.mark.parametrize("m, k, n", SHAPES)
def test_so_are_those_with_a_transposed_operand(m, k, n):
    given = drawn((m, k), (n, k), (m, n))
    found = jax.jit(lambda *given: with_gradients(narrow_matmul_t, *given))(*given)
    x, w, g = map(rounded, given)
    assert {array.dtype.name for array in found} == {"float32"}
    assert all_near(found, (x @ w.T, g @ w, g.T @ x))


@pytest.mark.parametrize("product, other", [(narrow_matmul, (64, 96)), (narrow_matmul_t, (96, 64))])
def test_no_operand_is_a_transposed_view(product, other):
    """Of those XLA makes products of float32."""
    given = drawn((80, 64), other, (80, 96))
    program = jax.jit(lambda *given: with_gradients(product, *given)).lower(*given).compile()
    dots = re.findall(
        r" dot\(.*contracting_dims=\{(\d)\}.*contracting_dims=\{(\d)\}", program.as_text()
    )
    assert dots == [("1", "0")] * 3


@given(st.integers(1, 70), st.integers(1, 70))
def test_transposed(m, n):
    x = np.arange(m * n).reshape(m, n)
    np.testing.assert_array_equal(transposed(x), x.T)


def test_models_side_by_side_are_models_alone():
    x, w = drawn((3, 8, 16), (3, 16, 4))
    alone = [narrow_matmul(*pair) for pair in zip(x, w, strict=True)]
    np.testing.assert_allclose(jax.vmap(narrow_matmul)(x, w), np.stack(alone), rtol=1e-6)


def test_a_model_in_bfloat16_is_near_itself_in_float32():
    params = drawn_params(MaskedLM(CONFIG), seed=0)
    ids = np.arange(24).reshape(2, 12)

    def gradient(dtype):
        model = MaskedLM(replace(CONFIG, dtype=dtype))
        loss = lambda params: (forward(model, params, ids, ids >= 0, ids[:, :3] % 12) ** 2).sum()
        return jax.flatten_util.ravel_pytree(jax.jit(jax.grad(loss))(params))[0]

    wide, narrow = gradient("float32"), gradient("bfloat16")
    off = jnp.linalg.norm(wide - narrow) / jnp.linalg.norm(wide)
    assert 1e-5 < off < 2e-2

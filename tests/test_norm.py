# SPDX-License-Identifier: Apache-2.0
"""LayerNorm and the surprise at a label: values and written-out gradients against flax and optax,
which differentiate theirs."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bort_jax.model.losses import surprise
from bort_jax.model.norm import LayerNorm

# Few, since every shape compiles anew.
SHAPES = st.sampled_from([(1, 1, 2), (2, 3, 7), (4, 5, 40)])


def values_and_gradients(fn, *args):
    """fn(*args), and its gradients along a fixed direction."""
    values, pull = jax.vjp(fn, *args)
    along = jnp.cos(jnp.arange(values.size, dtype=values.dtype)).reshape(values.shape)
    return values, *pull(along)


def assert_close(ours, theirs, *, tolerance: float):
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        np.testing.assert_allclose(
            np.asarray(a, np.float32), np.asarray(b, np.float32), atol=tolerance, rtol=tolerance
        )


@given(shape=SHAPES, seed=st.integers(0, 99), far=st.sampled_from([0.0, 30.0]))
def test_layer_norm_is_flax_s(shape, seed, far):
    rng = np.random.default_rng(seed)
    x = jnp.asarray(far + rng.normal(size=shape), jnp.float32)
    params = {
        name: jnp.asarray(rng.normal(size=shape[-1:]), jnp.float32) for name in ("scale", "bias")
    }
    modules = LayerNorm(1e-5), nn.LayerNorm(1e-5, use_fast_variance=False)
    of = lambda module: lambda x, p: module.apply({"params": p}, x)
    ours, theirs = (jax.tree.leaves(values_and_gradients(of(m), x, params)) for m in modules)
    assert_close(
        ours, theirs, tolerance=2e-4
    )  # the gradient is divided by the deviation of few values


def test_layer_norm_keeps_the_type_of_its_activations_and_computes_in_float32():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 256)), jnp.bfloat16)
    params = {"scale": jnp.ones(256), "bias": jnp.zeros(256)}
    found = values_and_gradients(
        lambda x, p: LayerNorm(1e-5, "bfloat16").apply({"params": p}, x), x, params
    )
    assert found[0].dtype == found[1].dtype == jnp.bfloat16
    assert found[2]["scale"].dtype == jnp.float32
    exact = values_and_gradients(
        lambda x, p: LayerNorm(1e-5).apply({"params": p}, x), x.astype(jnp.float32), params
    )
    np.testing.assert_allclose(found[0].astype(jnp.float32), exact[0], atol=2e-2)


@given(shape=SHAPES, seed=st.integers(0, 99), size=st.sampled_from([1.0, 100.0]))
def test_the_surprise_at_a_label_is_optax_s(shape, seed, size):
    rng = np.random.default_rng(seed)
    logits = jnp.asarray(size * rng.normal(size=shape), jnp.float32)
    labels = jnp.asarray(rng.integers(0, shape[-1], shape[:-1]))
    reference = optax.softmax_cross_entropy_with_integer_labels
    ours, theirs = (
        values_and_gradients(lambda logits, fn=fn: fn(logits, labels), logits)
        for fn in (surprise, reference)
    )
    assert_close(ours, theirs, tolerance=2e-5)


@pytest.mark.parametrize(
    "fn",
    [
        surprise,
        lambda x, y: LayerNorm(1e-5).apply(
            {"params": {"scale": jnp.ones(7), "bias": y * jnp.ones(7)}}, x
        ),
    ],
)
def test_they_map_over_a_population(fn):
    rng = np.random.default_rng(0)
    x, y = (
        jnp.asarray(rng.normal(size=(3, 2, 7)), jnp.float32),
        jnp.asarray([[0, 6], [1, 2], [3, 3]]),
    )
    y = y if fn is surprise else jnp.asarray([1.0, 2.0, 3.0])
    gradient = jax.grad(lambda x, y: fn(x, y).sum())
    together = jax.vmap(gradient)(x, y)
    for k in range(3):
        np.testing.assert_allclose(together[k], gradient(x[k], y[k]), atol=1e-6)

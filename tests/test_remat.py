# SPDX-License-Identifier: Apache-2.0
"""With every policy of activation checkpointing the model is the same."""

from functools import cache

import jax
import jax.extend.core
import numpy as np
import pytest

from bort_jax.arch import Arch, LayerwiseArch
from bort_jax.model import BertConfig, MaskedLM, forward, masked_lm, random_params
from bort_jax.stages.pretrain.config import PretrainConfig, check

VOCAB = 30
BATCH, LENGTH, MASKED = 2, 7, 3
UNEVEN = LayerwiseArch(8, 4, ((0, 0), (2, 5)))


def loss_and_gradients(config: BertConfig, remat: str):
    """A function of the parameters and a dropout key."""
    generator = np.random.default_rng(0)
    ids = generator.integers(0, VOCAB, (BATCH, LENGTH))
    mask = np.arange(LENGTH) < np.array([[LENGTH], [LENGTH - 2]])
    positions = generator.integers(0, LENGTH, (BATCH, MASKED))
    labels = generator.integers(0, VOCAB, (BATCH, MASKED))

    def loss(params, key):
        logits = forward(MaskedLM(config, remat), params, ids, mask, positions, key=key)
        return masked_lm(logits, labels, np.ones((BATCH, MASKED), np.float32))["mlm"]

    return jax.jit(jax.value_and_grad(loss))


@cache
def results(dtype: str, remat: str):
    config = BertConfig(UNEVEN, VOCAB, positions=LENGTH, dropout=0.3, dtype=dtype)
    # Larger than fresh parameters, so that every layer changes the loss.
    params = jax.tree.map(lambda x: 5 * x, random_params(MaskedLM(config), seed=0))
    return loss_and_gradients(config, remat)(params, jax.random.key(3))


@pytest.mark.parametrize("remat", ["dots", "full"])
@pytest.mark.parametrize(
    "dtype, near", [("float32", 1e-6), pytest.param("bfloat16", 2e-2, marks=pytest.mark.slow)]
)
def test_with_remat_keeps_values_gradients_and_dropout_masks(dtype, near, remat):
    found, expected = results(dtype, remat), results(dtype, "none")
    largest = max(abs(leaf).max() for leaf in jax.tree.leaves(expected))
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=near, atol=near * largest),
        found,
        expected,
    )


def eqns(jaxpr):
    """All equations, those inside others included."""
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in jax.extend.core.jaxprs_in_params(eqn.params):
            yield from eqns(inner)


def products(remat: str) -> int:
    config = BertConfig(Arch(3, 2, 8, 12), VOCAB, positions=LENGTH)
    params = random_params(MaskedLM(config), seed=0)
    program = loss_and_gradients(config, remat).trace(params, jax.random.key(0)).jaxpr.jaxpr
    return sum(eqn.primitive.name == "dot_general" for eqn in eqns(program))


def test_with_remat_computes_again_what_was_not_kept():
    none, dots, full = map(products, ("none", "dots", "full"))
    # A layer has two products without weights, both in attention, and six with.
    assert none < dots < full
    assert dots - none <= 2 * 3 < full - none <= 8 * 3


def test_check_remat_refuses_an_unknown_policy():
    with pytest.raises(ValueError, match="remat must be one of none, dots, full; got 'some'"):
        check(PretrainConfig("data", "out", remat="some"))

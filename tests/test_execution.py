# SPDX-License-Identifier: Apache-2.0
"""However the layers are run, the model is the same."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bort_jax.arch import Arch, LayerwiseArch
from bort_jax.model import BertConfig, Execution, MaskedLM, drawn_params, forward, masked_lm
from bort_jax.stages.pretrain.config import PretrainConfig, check

VOCAB = 30
BATCH, LENGTH, MASKED = 2, 7, 3


@st.composite
def architectures(draw):
    """Uniform ones, and layerwise ones with runs of equal layers and skipped ones."""
    heads, head_size = draw(st.integers(1, 3)), draw(st.sampled_from([2, 4]))
    if draw(st.booleans()):
        return Arch(draw(st.integers(1, 3)), heads, heads * head_size, draw(st.integers(1, 9)))
    options = [(0, 0), (1, 5), (2, 5), (2, 8)]
    layers = draw(st.lists(st.sampled_from(options), min_size=1, max_size=4).filter(any_kept))
    return LayerwiseArch(8, head_size, tuple(layers))


def any_kept(layers):
    return any(layer != (0, 0) for layer in layers)


def losses(config: BertConfig, execution: Execution):
    """A function of the parameters and a dropout key, and its gradient."""
    generator = np.random.default_rng(0)
    ids = generator.integers(0, VOCAB, (BATCH, LENGTH))
    mask = np.arange(LENGTH) < np.array([[LENGTH], [LENGTH - 2]])
    positions = generator.integers(0, LENGTH, (BATCH, MASKED))
    labels = generator.integers(0, VOCAB, (BATCH, MASKED))

    def loss(params, key):
        logits = forward(MaskedLM(config, execution), params, ids, mask, positions, key=key)
        return masked_lm(logits, labels, np.ones((BATCH, MASKED)))["mlm"]

    return jax.jit(jax.value_and_grad(loss))


@settings(max_examples=5)
@given(
    arch=architectures(),
    layers=st.sampled_from(["loop", "scan"]),
    remat=st.sampled_from(["none", "dots", "full"]),
    dropout=st.sampled_from([0.0, 0.3]),
    dtype=st.sampled_from(["float32", "bfloat16"]),
)
def test_values_gradients_and_masks_do_not_depend_on_the_execution(
    arch, layers, remat, dropout, dtype
):
    config = BertConfig(arch, VOCAB, positions=LENGTH, dropout=dropout, dtype=dtype)
    # Larger than fresh parameters, so that every layer changes the loss.
    params = jax.tree.map(lambda x: 5 * x, drawn_params(MaskedLM(config), seed=0))
    key = jax.random.key(3) if dropout else None
    expected = losses(config, Execution())(params, key)
    found = losses(config, Execution(layers, remat))(params, key)
    near = 1e-6 if dtype == "float32" else 2e-2
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
        for inner in jax.core.jaxprs_in_params(eqn.params):
            yield from eqns(inner)


def program(execution: Execution, depth: int):
    config = BertConfig(Arch(depth, 2, 8, 12), VOCAB, positions=LENGTH)
    params = drawn_params(MaskedLM(config), seed=0)
    loss = losses(config, execution)
    return loss.trace(params, jax.random.key(0)).jaxpr.jaxpr


def products(execution: Execution, depth: int = 3) -> int:
    return sum(eqn.primitive.name == "dot_general" for eqn in eqns(program(execution, depth)))


def test_a_scanned_program_does_not_grow_with_depth():
    scan = Execution(layers="scan")
    assert products(scan, 2) == products(scan, 5) < products(Execution(), 5)


def test_what_is_computed_again_is_what_was_not_kept():
    none, dots, full = (products(Execution(remat=remat)) for remat in ("none", "dots", "full"))
    # A layer has two products without weights, both in attention, and six with.
    assert none < dots < full
    assert dots - none <= 2 * 3 < full - none <= 8 * 3


@pytest.mark.parametrize("wrong", [{"layers": "scann"}, {"remat": "some"}])
def test_an_unknown_execution_is_refused_by_name(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"{name} must be one of .*{value!r}"):
        check(PretrainConfig("data", "out", **wrong))

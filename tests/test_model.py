# SPDX-License-Identifier: Apache-2.0
"""Laws of the model and of its losses."""

from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import few
from hypothesis import given
from hypothesis import strategies as st

from bort_jax.arch import Arch, LayerwiseArch
from bort_jax.model import (
    BertConfig,
    Classifier,
    Encoder,
    MaskedLM,
    classification,
    distillation,
    forward,
    init_params,
    masked_lm,
)
from bort_jax.model.bert import with_bias
from bort_jax.model.dropout import Dropout, kept

CONFIG = BertConfig(Arch(2, 2, 16, 24), vocab_size=40, positions=32)


@dataclass(frozen=True)
class LaterConfig(BertConfig):
    added: float = 0.5


def test_key_of_a_config_stays_when_a_field_is_added():
    given = (CONFIG.arch, CONFIG.vocab_size)
    assert LaterConfig(*given, positions=32).key() == CONFIG.key()
    assert LaterConfig(*given, positions=32, added=0.6).key() != CONFIG.key()


@pytest.mark.parametrize(
    "change",
    [
        {"arch": Arch(2, 2, 16, 25)},
        {"arch": LayerwiseArch(16, 8, ((2, 24), (2, 24)))},
        {"vocab_size": 41},
        {"positions": 33},
        {"dropout": 0.2},
        {"separator": 3},
    ],
)
def test_key_of_a_config_changes_with_every_value(change):
    assert replace(CONFIG, **change).key() != CONFIG.key()


@pytest.fixture(scope="module")
def encoder_params():
    return init_params(Encoder(CONFIG), seed=0)


encoder_states = jax.jit(partial(forward, Encoder(CONFIG)))


@few
@given(
    length=st.sampled_from([1, 2, 7, 10]),
    padding=st.sampled_from([1, 3, 22]),
    filler=st.integers(0, 39),
)
def test_padding_never_changes_states(encoder_params, length, padding, filler):
    ids = np.arange(length)[None] % 40
    padded = np.concatenate([ids, np.full((1, padding), filler)], axis=1)
    mask = np.arange(length + padding)[None] < length
    states = encoder_states(encoder_params, ids, mask[:, :length])
    longer = encoder_states(encoder_params, padded, mask)
    np.testing.assert_allclose(longer[:, :length], states, atol=2e-6)


def test_positions_are_gathered_before_the_vocabulary(rng):
    model = MaskedLM(CONFIG)
    params = {"params": init_params(model, seed=0)}
    ids, mask = rng.integers(0, 40, (3, 8)), np.ones((3, 8), bool)
    everywhere = np.tile(np.arange(8), (3, 1))
    some = np.array([[1, 5], [0, 7], [3, 3]])
    full = model.apply(params, ids, mask, everywhere)
    picked = model.apply(params, ids, mask, some)
    assert picked.shape == (3, 2, 40)
    np.testing.assert_allclose(picked, np.take_along_axis(full, some[:, :, None], 1), atol=1e-6)


def test_the_decoder_is_tied_to_the_embeddings(rng):
    model = MaskedLM(CONFIG)
    params = init_params(model, seed=0)
    ids, mask, positions = np.array([[1, 2, 3]]), np.ones((1, 3), bool), np.array([[1]])
    before = model.apply({"params": params}, ids, mask, positions)
    table = params["encoder"]["embeddings"]["word"]["embedding"].copy()
    table[30] += rng.normal(size=16)  # a token that is not in the input
    params["encoder"]["embeddings"]["word"]["embedding"] = table
    after = model.apply({"params": params}, ids, mask, positions)
    changed = np.flatnonzero(np.abs(after - before)[0, 0] > 1e-6)
    assert changed.tolist() == [30]


def test_bfloat16_keeps_float32_parameters_and_logits():
    model = Classifier(replace(CONFIG, dtype="bfloat16"), 2)
    params = init_params(model, seed=0)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("float32")}
    logits = model.apply({"params": params}, np.ones((1, 4), int), np.ones((1, 4), bool))
    assert logits.dtype == jnp.float32


@pytest.mark.parametrize("kind, activations", [("cpu", "float32"), ("cudnn", "bfloat16")])
def test_only_cpus_have_float32_between_products_of_bfloat16(monkeypatch, kind, activations):
    monkeypatch.setattr("bort_jax.model.bert.device_kind", lambda: kind)
    assert replace(CONFIG, dtype="bfloat16").activations == activations
    assert CONFIG.activations == "float32"


def test_dropout_needs_a_key_and_changes_the_output(encoder_params):
    ids, mask = np.ones((1, 4), int), np.ones((1, 4), bool)
    run = lambda seed: Encoder(CONFIG).apply(
        {"params": encoder_params},
        ids,
        mask,
        deterministic=False,
        rngs={"dropout": jax.random.key(seed)},
    )
    assert not np.allclose(run(0), run(1))
    np.testing.assert_array_equal(run(0), run(0))


def random_logits(rng, shape=(3, 4, 7)):
    return rng.normal(size=shape).astype(np.float32) * 3


def test_masked_loss_is_the_loss_on_the_subset(rng):
    logits, labels = random_logits(rng), rng.integers(0, 7, (3, 4))
    weights = rng.integers(0, 2, (3, 4)).astype(np.float32)
    chosen = weights > 0
    sums = masked_lm(logits, labels, weights)
    subset = optax.softmax_cross_entropy_with_integer_labels(logits[chosen], labels[chosen])
    np.testing.assert_allclose(sums["mlm"], subset.sum(), rtol=1e-5)
    assert sums["count"] == chosen.sum()
    assert sums["correct"] == (logits[chosen].argmax(-1) == labels[chosen]).sum()


@pytest.mark.parametrize("filler", [-100, 7, 10**6])
def test_labels_without_weight_may_be_anything(rng, filler):
    logits, labels = random_logits(rng), rng.integers(0, 7, (3, 4))
    weights = np.ones((3, 4), np.float32)
    weights[0] = 0
    expected = masked_lm(logits, labels, weights)
    labels[0] = filler
    found = masked_lm(logits, labels, weights)
    assert all(found[name] == expected[name] for name in expected)
    gradient = jax.grad(lambda x: masked_lm(x, labels, weights)["mlm"])(jnp.array(logits))
    assert np.isfinite(gradient).all() and (gradient[0] == 0).all()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_a_teacher_teaches_itself_nothing(rng, temperature):
    logits, weights = random_logits(rng), np.ones((3, 4), np.float32)
    assert abs(distillation(logits, logits, weights, temperature=temperature)) < 1e-5
    gradient = jax.grad(lambda x: distillation(x, logits, weights, temperature=temperature))(logits)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


def test_distillation_by_hand():
    """Teacher (¾, ¼), student (½, ½), T = 1: KL = ¾ ln 3/2 + ¼ ln 1/2, one of two positions."""
    teacher = np.log(np.array([[[0.75, 0.25], [0.9, 0.1]]], np.float32))
    student = np.zeros((1, 2, 2), np.float32)
    expected = 0.75 * np.log(1.5) + 0.25 * np.log(0.5)
    found = distillation(student, teacher, np.array([[1.0, 0.0]]), temperature=1.0)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_no_gradient_reaches_the_teacher(rng):
    teacher, student = random_logits(rng), random_logits(rng)
    weights = np.ones((3, 4), np.float32)
    loss = lambda t: distillation(student, t, weights, temperature=2.0)
    assert (jax.grad(loss)(jnp.array(teacher)) == 0).all()


def test_classification_counts_only_weighted_rows(rng):
    logits, labels = random_logits(rng, (4, 3)), np.array([0, 1, 2, 0])
    sums = classification(logits, labels, np.array([1.0, 1.0, 0.0, 0.0]))
    half = classification(logits[:2], labels[:2], np.ones(2))
    assert all(np.allclose(sums[name], half[name]) for name in sums)


def test_dropout_keeps_its_share_and_the_mean():
    kept_units = kept(jax.random.key(0), (333, 333), rate=0.1)
    # Five standard deviations of the share of 110,889 independent units.
    assert abs(kept_units.mean() - 0.9) < 5 * (0.09 / kept_units.size) ** 0.5
    first, second = kept_units.reshape(-1)[:-1:2], kept_units.reshape(-1)[1::2]
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.03  # the halves of a word are independent


def test_dropout_puts_out_and_scales_units_and_their_gradients_alike():
    x = jax.random.normal(jax.random.key(1), (7, 9))
    run = lambda x: Dropout(0.25).apply(
        {}, x, deterministic=False, rngs={"dropout": jax.random.key(2)}
    )
    y, back = jax.vjp(run, x)
    scale = np.where(np.asarray(y) == 0, 0, 1 / 0.75)
    assert 0 < (scale == 0).sum() < scale.size
    np.testing.assert_allclose(y, x * scale, rtol=1e-6)
    np.testing.assert_allclose(back(jnp.ones_like(x))[0], scale, rtol=1e-6)
    assert np.array_equal(Dropout(0.25).apply({}, x, deterministic=True), x)


def test_the_gradient_of_a_bias_is_the_sum():
    logits, g = (jax.random.normal(jax.random.key(k), (3, 5, 11)) for k in (0, 1))
    y, back = jax.vjp(with_bias, logits, jnp.arange(11.0))
    np.testing.assert_array_equal(y, logits + jnp.arange(11.0))
    to_logits, to_bias = back(g)
    np.testing.assert_array_equal(to_logits, g)
    np.testing.assert_allclose(to_bias, g.sum((0, 1)), rtol=1e-5, atol=1e-5)


def test_the_gradient_of_the_loss_is_softmax_less_label():
    logits = jax.random.normal(jax.random.key(0), (2, 3, 7))
    labels, weights = np.array([[0, 6, 3], [1, -100, 2]]), np.array([[1, 1, 1], [1, 0, 1.0]])
    gradient = jax.grad(lambda x: masked_lm(x, labels, weights)["mlm"])(logits)
    expected = (jax.nn.softmax(logits) - jax.nn.one_hot(labels, 7)) * weights[..., None]
    np.testing.assert_allclose(gradient, expected, atol=1e-6)

# SPDX-License-Identifier: Apache-2.0
"""Laws of the model and of its losses."""

from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jaxtyping import TypeCheckError

from bort_jax.arch import Arch, LayerwiseArch
from bort_jax.model import (
    BertConfig,
    Classifier,
    Encoder,
    MaskedLM,
    classification,
    distillation,
    forward,
    masked_lm,
    param_structs,
    random_params,
    soft_classification,
)

CONFIG = BertConfig(Arch(2, 2, 16, 24), vocab_size=40, positions=32)


@pytest.fixture(autouse=True)
def strict_types():
    """No sum of two types by accident; optax and flax in bfloat16 have some of their own."""
    with jax.numpy_dtype_promotion("strict"):
        yield


def test_the_model_is_tested_under_strict_ranks_and_types():
    with pytest.raises(ValueError, match="rank_promotion"):
        jnp.ones((2, 3)) + jnp.ones(3)
    with pytest.raises(ValueError, match="promotion"):
        jnp.ones(3) + jnp.ones(3, jnp.int32)


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
    return random_params(Encoder(CONFIG), seed=0)


encoder_states = jax.jit(partial(forward, Encoder(CONFIG)))
logits_at = jax.jit(partial(forward, MaskedLM(CONFIG)))


@pytest.mark.parametrize("length", [1, 7])
def test_padding_never_changes_states(encoder_params, length):
    ids = np.arange(length)[None] % 40
    states = encoder_states(encoder_params, ids, np.ones((1, length), bool))
    for filler in (0, 3, 39):
        padded = np.concatenate([ids, np.full((1, 20 - length), filler)], axis=1)
        longer = encoder_states(encoder_params, padded, np.arange(20)[None] < length)
        np.testing.assert_allclose(longer[:, :length], states, atol=2e-6)


def test_masked_lm_gathers_positions_before_the_vocabulary(rng):
    params = random_params(MaskedLM(CONFIG), seed=0)
    ids, mask = rng.integers(0, 40, (3, 8)), np.ones((3, 8), bool)
    some = np.array([[1, 5], [0, 7], [3, 3]])
    full = logits_at(params, ids, mask, np.tile(np.arange(8), (3, 1)))
    picked = logits_at(params, ids, mask, some)
    assert picked.shape == (3, 2, 40)
    np.testing.assert_allclose(picked, np.take_along_axis(full, some[:, :, None], 1), atol=1e-6)


def test_masked_lm_ties_the_decoder_to_the_embeddings(rng):
    params = random_params(MaskedLM(CONFIG), seed=0)
    inputs = rng.integers(0, 29, (3, 8)), np.ones((3, 8), bool), np.array([[1, 5]] * 3)
    before = np.asarray(logits_at(params, *inputs))  # computed before its inputs change
    table = params["encoder"]["embeddings"]["word"]["embedding"]
    table[30] += rng.normal(size=16)  # a token that is not in the input
    after = logits_at(params, *inputs)
    assert set(np.flatnonzero(np.abs(after - before).max((0, 1)) > 1e-6)) == {30}


def test_bfloat16_keeps_float32_parameters_and_logits():
    model = Classifier(replace(CONFIG, dtype="bfloat16"), 2)
    structs = param_structs(model)
    assert {leaf.dtype for leaf in jax.tree.leaves(structs)} == {np.dtype("float32")}
    run = partial(forward, model)
    logits = jax.eval_shape(run, structs, np.ones((1, 4), int), np.ones((1, 4), bool))
    assert logits.dtype == jnp.float32


@pytest.mark.parametrize("kind, activations", [("cpu", "float32"), ("cudnn", "bfloat16")])
def test_only_cpus_have_float32_between_products_of_bfloat16(monkeypatch, kind, activations):
    monkeypatch.setattr("bort_jax.model.bert.device_kind", lambda: kind)
    assert replace(CONFIG, dtype="bfloat16").activations == activations
    assert CONFIG.activations == "float32"


def test_forward_drops_units_by_its_key_alone(encoder_params):
    run = jax.jit(
        lambda seed: forward(
            Encoder(CONFIG),
            encoder_params,
            np.ones((1, 4), int),
            np.ones((1, 4), bool),
            key=jax.random.key(seed),
        )
    )
    assert not np.allclose(run(0), run(1))
    np.testing.assert_array_equal(run(0), run(0))


def random_logits(rng, shape=(3, 4, 7)):
    return rng.normal(size=shape).astype(np.float32) * 3


@jax.jit
def masked_lm_and_gradient(logits, labels, weights):
    loss = lambda logits: masked_lm(logits, labels, weights)["mlm"]
    return masked_lm(logits, labels, weights), jax.grad(loss)(logits)


def test_masked_lm_is_the_loss_on_the_subset(rng):
    logits, labels = random_logits(rng), rng.integers(0, 7, (3, 4))
    weights = rng.integers(0, 2, (3, 4)).astype(np.float32)
    chosen = weights > 0
    sums, gradient = masked_lm_and_gradient(logits, labels, weights)
    subset = optax.softmax_cross_entropy_with_integer_labels(logits[chosen], labels[chosen])
    np.testing.assert_allclose(sums["mlm"], subset.sum(), rtol=1e-5)
    assert float(sums["count"]) == chosen.sum()
    assert float(sums["correct"]) == (logits[chosen].argmax(-1) == labels[chosen]).sum()
    expected = (jax.nn.softmax(logits) - jax.nn.one_hot(labels, 7)) * weights[..., None]
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


@pytest.mark.parametrize("filler", [-100, 7, 10**6])
def test_masked_lm_ignores_labels_without_weight(rng, filler):
    logits, labels = random_logits(rng), rng.integers(0, 7, (3, 4))
    weights = np.ones((3, 4), np.float32)
    weights[0] = 0
    expected, _ = masked_lm_and_gradient(logits, labels, weights)
    labels[0] = filler
    found, gradient = masked_lm_and_gradient(logits, labels, weights)
    assert found == expected
    assert np.isfinite(gradient).all() and (gradient[0] == 0).all()


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_distillation_from_itself_teaches_nothing(rng, temperature):
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


def test_distillation_has_no_gradient_in_the_teacher(rng):
    teacher, student = random_logits(rng), random_logits(rng)
    weights = np.ones((3, 4), np.float32)
    loss = lambda t: distillation(student, t, weights, temperature=2.0)
    assert (jax.grad(loss)(jnp.array(teacher)) == 0).all()


def test_soft_classification_of_certain_labels_is_classification_bit_for_bit(rng):
    logits = rng.normal(0, 9, (32, 3)).astype(np.float32)
    labels, weights = rng.integers(0, 3, 32), (np.arange(32) % 3 / 2).astype(np.float32)
    one_hot = np.eye(3, dtype=np.float32)[labels]
    hard = lambda x: classification(x, labels, weights)["loss"]
    soft = lambda x: soft_classification(x, one_hot, weights)["loss"]
    for of in (jax.value_and_grad, lambda f: jax.jit(jax.value_and_grad(f))):
        jax.tree.map(np.testing.assert_array_equal, of(soft)(logits), of(hard)(logits))
    assert (
        soft_classification(logits, one_hot, weights)["correct"]
        == classification(logits, labels, weights)["correct"]
    )


def test_soft_classification_is_the_cross_entropy(rng):
    logits = rng.normal(size=(5, 3)).astype(np.float32)
    targets = rng.dirichlet(np.ones(3), 5).astype(np.float32)
    sums = soft_classification(logits, targets, np.array([1, 1, 2, 0, 1], np.float32))
    each = -(targets * np.asarray(jax.nn.log_softmax(logits))).sum(axis=1)
    np.testing.assert_allclose(sums["loss"], each @ [1, 1, 2, 0, 1], rtol=1e-5)


def test_classification_counts_only_weighted_rows(rng):
    logits, labels = random_logits(rng, (4, 3)), np.array([0, 1, 2, 0])
    sums = classification(logits, labels, np.array([1.0, 1.0, 0.0, 0.0]))
    half = classification(logits[:2], labels[:2], np.ones(2))
    assert all(np.allclose(sums[name], half[name]) for name in sums)


def test_arrays_of_other_shapes_than_annotated_are_refused_in_the_tests():
    """By the hook that conftest installs: two rows of logits, three labels."""
    with pytest.raises(TypeCheckError):
        classification(np.zeros((2, 4), np.float32), np.zeros(3, np.int32), np.ones(2, np.float32))

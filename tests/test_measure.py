# SPDX-License-Identifier: Apache-2.0
"""What e is, and how candidates are trained for it: alone, or as parts of one network."""

import math

import jax
import numpy as np
import pytest

from bort_jax.arch import Arch, LayerwiseArch, SearchSpace
from bort_jax.cost import bert_network, total
from bort_jax.cost.layerwise import layer_cost, layer_options, layerwise_cost
from bort_jax.data.masking import masked_batch
from bort_jax.model import BertConfig, MaskedLM, forward
from bort_jax.model.elastic import ElasticLM, Shape, slice_params
from bort_jax.train.elastic_error import elastic_error, elastic_logits
from bort_jax.train.layer_errors import layer_errors, shape_errors, shape_of, train_elastic
from bort_jax.train.measure import measured, unigram_loss
from bort_jax.train.trained_error import trained_error

SPACE = SearchSpace((1, 2), (1, 2, 4), (16, 32), (8, 24), vocab_size=300, positions=32)
TRAINING = dict(steps=12, batch_size=8, seq_len=32, learning_rates=(3e-3,), eval_rows=16)


@pytest.fixture(scope="module")
def batch(corpus):
    return masked_batch(corpus.heldout, 0, seed=0, batch_size=4, seq_len=32)


@pytest.fixture(scope="module")
def elastic(corpus):
    model = ElasticLM.over(SPACE.archs(), vocab_size=corpus.tokenizer.vocab_size, positions=32)
    params = model.init(seed=0)
    # Far from the initial values, where a wrong mask would hardly be seen.
    generator = np.random.default_rng(0)
    noise = lambda x: (x + generator.normal(0, 0.1, x.shape)).astype(np.float32)
    return model, jax.tree.map(noise, params)


def small_logits(arch, params, batch, vocab_size):
    model = MaskedLM(BertConfig(arch, vocab_size, positions=32, dropout=0.0))
    return forward(model, params, batch["ids"], batch["mask"], batch["positions"])


@pytest.mark.parametrize("arch", SPACE.archs(), ids=str)
def test_the_masked_network_is_the_sliced_one(arch, elastic, batch, corpus):
    model, params = elastic
    shape = Shape.of(arch, depth=model.config.arch.depth)
    masked = elastic_logits(model, params, shape, batch)
    sliced = small_logits(arch, slice_params(params, arch), batch, corpus.tokenizer.vocab_size)
    scale = float(np.abs(sliced).max())
    np.testing.assert_allclose(np.asarray(masked) / scale, np.asarray(sliced) / scale, atol=1e-6)


def test_gradients_stay_inside_the_slice(elastic, batch):
    model, params = elastic
    arch = Arch(1, 2, 16, 8)
    shape = Shape.of(arch, depth=2)
    loss = lambda params: elastic_logits(model, params, shape, batch).std()
    grads = jax.grad(loss)(params)
    inside = jax.tree.leaves(slice_params(jax.tree.map(np.asarray, grads), arch))
    total_inside = sum(float(np.abs(g).sum()) for g in inside)
    everywhere = sum(float(np.abs(g).sum()) for g in jax.tree.leaves(grads))
    assert total_inside == pytest.approx(everywhere, rel=1e-5) and total_inside > 0


def test_a_layer_without_heads_or_width_of_its_own_is_passed_over(elastic, batch):
    model, params = elastic
    full = LayerwiseArch(32, 8, ((4, 24), (0, 0)))
    uniform = Shape.of(Arch(1, 4, 32, 24), depth=2)
    masked = elastic_logits(model, params, shape_of(full), batch)
    np.testing.assert_allclose(masked, elastic_logits(model, params, uniform, batch), atol=1e-5)
    fewer = elastic_logits(model, params, shape_of(LayerwiseArch(32, 8, ((1, 24), (0, 0)))), batch)
    assert np.abs(np.asarray(fewer) - np.asarray(masked)).max() > 1e-3


@pytest.mark.parametrize("errors", ["trained", "elastic"])
def test_errors_are_positive_and_the_same_for_the_same_seed(errors, corpus):
    build = {
        "trained": lambda: trained_error(corpus, **TRAINING),
        "elastic": lambda: elastic_error(corpus, SPACE, **TRAINING),
    }[errors]
    archs = [Arch(1, 2, 16, 8), Arch(2, 2, 32, 24)]
    first, again = build()(archs), build()(archs[::-1])
    assert list(first) == list(again)[::-1]
    assert all(0 < e <= 1 for e in first) and first[0] != first[1]


def test_a_rate_that_breaks_training_is_left_to_the_others(corpus):
    """Θ with a rate that ends in NaN: the best of the rest; only such rates: NaN."""
    broken = TRAINING | {"learning_rates": (float("nan"),)}
    arch = [Arch(1, 1, 16, 8)]
    assert math.isnan(trained_error(corpus, **broken)(arch)[0])
    both = TRAINING | {"learning_rates": (float("nan"), 3e-3)}
    assert trained_error(corpus, **both)(arch) == trained_error(corpus, **TRAINING)(arch)


def test_clipped_weights_learn_less(corpus):
    free, clipped = (
        trained_error(corpus, **TRAINING, measure="perplexity", clip_weights=c)(
            [Arch(1, 1, 16, 8)]
        )[0]
        for c in (None, 1e-3)
    )
    assert clipped > free


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"measure": "accuracy"}, "measure must be one of error, perplexity, distillation"),
        ({"measure": "distillation"}, "a teacher belongs"),
        ({"learning_rates": ()}, "learning_rates is empty"),
        ({"clip_weights": 0.0}, "clip_weights must be positive"),
    ],
)
def test_what_cannot_be_measured_is_refused(change, message, corpus):
    for build in (trained_error, lambda corpus, **a: elastic_error(corpus, SPACE, **a)):
        with pytest.raises(ValueError, match=message):
            build(corpus, **(TRAINING | change))


def test_the_four_measures_by_hand():
    sums = {"mlm": 30.0, "correct": 4.0, "count": 10.0, "divergence": 5.0}
    found = {
        m: measured(m, sums, unigram=2.0) for m in ("error", "perplexity", "distillation", "excess")
    }
    assert found["error"] == pytest.approx(0.6) and found["distillation"] == 0.5
    assert found["perplexity"] == pytest.approx(math.exp(3))
    assert found["excess"] == pytest.approx(math.exp(1))
    assert measured("error", sums | {"correct": 10.0}) == 1e-6
    assert math.isnan(measured("error", sums | {"mlm": math.nan}))


def test_unigram_loss_is_the_entropy_of_frequencies_on_the_batch(corpus, batch):
    counts = np.bincount(corpus.train.tokens, minlength=corpus.tokenizer.vocab_size) + 1
    there = batch["labels"][batch["weights"] > 0]
    expected = np.mean([-math.log(counts[token] / counts.sum()) for token in there])
    assert unigram_loss(corpus, batch) == pytest.approx(expected)
    assert 0 < expected < np.log(corpus.tokenizer.vocab_size)


def test_distillation_is_measured_against_the_teacher(corpus, tiny):
    """A candidate's distance from a teacher of its own size and seed is not 0, and finite."""
    arguments = TRAINING | {"measure": "distillation", "teacher": tiny}
    (error,) = trained_error(corpus, **arguments)([Arch(1, 1, 16, 8)])
    assert 0 < error < 1


def test_layer_costs_add_up_to_the_uniform_network():
    arch = Arch(3, 4, 32, 24)
    same = LayerwiseArch(32, 8, ((4, 24),) * 3)
    exact = total(bert_network(vocab_size=300, positions=32, seq_len=16), arch)
    assert layerwise_cost(same, vocab_size=300, positions=32, seq_len=16) == (
        exact["params"],
        exact["steps"],
    )
    assert layer_cost((0, 0), hidden=32, head_size=8, seq_len=16) == (0, 0)
    assert str(same._replace(layers=((4, 24), (0, 0)))) == "H32-K8[A4-I24 skip]"


def test_layer_options_fit_into_the_hidden_size():
    assert layer_options(SPACE, hidden=16, head_size=8) == [
        (0, 0),
        (1, 8),
        (1, 24),
        (2, 8),
        (2, 24),
    ]
    with pytest.raises(ValueError, match="no number of heads fits"):
        layer_options(SPACE, hidden=16, head_size=32)


def test_layer_errors_are_those_of_networks_with_one_layer_changed(corpus):
    options = {32: layer_options(SPACE, hidden=32, head_size=8)}
    elastic = train_elastic(
        corpus, options, depth=2, head_size=8, steps=6, batch_size=8, seq_len=32,
        learning_rate=3e-3, measure="perplexity", eval_rows=16,
    )  # fmt: skip
    base, added = layer_errors(elastic, 32, options[32])
    assert added.shape == (2, len(options[32])) and (added >= 0).all()
    assert added[0, -1] == 0 and added[1, -1] == 0  # the largest option changes nothing
    changed = LayerwiseArch(32, 8, ((1, 8), max(options[32])))
    error = shape_errors(elastic, [changed])[0]
    assert added[0, options[32].index((1, 8))] == pytest.approx(max(error - base, 0), abs=1e-3)

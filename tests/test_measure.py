# SPDX-License-Identifier: Apache-2.0
"""What e is, and what each layer of a network adds to it."""

import math
from typing import get_args

import numpy as np
import pytest

from bort_jax.arch import Arch, LayerwiseArch, SearchSpace
from bort_jax.cost import bert_network, total
from bort_jax.cost.layerwise import layer_cost, layer_options, layerwise_cost
from bort_jax.data.masking import masked_batch
from bort_jax.stages.extract.layer_errors import (
    LayerSpace,
    layer_errors,
    shape_errors,
    train_elastic,
)
from bort_jax.stages.extract.measure import Measure, measure_from_sums
from bort_jax.stages.extract.recipe import Recipe, unigram_loss

SPACE = SearchSpace((1, 2), (1, 2, 4), (16, 32), (8, 24), vocab_size=300, positions=32)


@pytest.fixture(scope="module")
def batch(corpus):
    return masked_batch(corpus.heldout, 0, seed=0, batch_size=4, seq_len=32)


def test_measure_from_sums_by_hand():
    sums = {"mlm": 30.0, "correct": 4.0, "count": 10.0, "divergence": 5.0}
    found = {name: measure_from_sums(name, sums, unigram=2.0) for name in get_args(Measure)}
    expected = {
        "error": 0.6,
        "perplexity": math.exp(3),
        "distillation": 0.5,
        "excess": math.exp(1),
    }
    assert found == pytest.approx(expected)
    assert measure_from_sums("error", sums | {"correct": 10.0}) == 1e-6
    assert math.isnan(measure_from_sums("error", sums | {"mlm": math.nan}))


def test_unigram_loss_is_the_entropy_of_frequencies_on_the_batch(corpus, batch):
    counts = np.bincount(corpus.train.tokens, minlength=corpus.tokenizer.vocab_size) + 1
    there = batch["labels"][batch["weights"] > 0]
    expected = np.mean([-math.log(counts[token] / counts.sum()) for token in there])
    assert unigram_loss(corpus, batch) == pytest.approx(expected)
    assert 0 < expected < np.log(corpus.tokenizer.vocab_size)


def test_layer_costs_add_up_to_the_uniform_network():
    arch = Arch(3, 4, 32, 24)
    same = LayerwiseArch(32, 8, ((4, 24),) * 3)
    exact = total(bert_network(vocab_size=300, positions=32, seq_len=16), arch)
    assert layerwise_cost(same, vocab_size=300, positions=32, seq_len=16) == (
        exact["params"],
        exact["macs"],
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
    space = SearchSpace((2,), (1, 2, 4), (32,), (8, 24), corpus.tokenizer.vocab_size, 32)
    layers = LayerSpace.of(space, head_size=8)
    recipe = Recipe(
        steps=6, batch_size=8, seq_len=32, learning_rates=(3e-3,), measure="perplexity",
        eval_rows=16,
    )  # fmt: skip
    elastic, options = train_elastic(corpus, layers, recipe), layers.options[32]
    base, added = layer_errors(elastic, 32)
    assert added.shape == (2, len(options)) and (added >= 0).all()
    assert added[0, -1] == 0 and added[1, -1] == 0  # the largest option changes nothing
    changed = LayerwiseArch(32, 8, ((1, 8), max(options)))
    error = shape_errors(elastic, [changed])[0]
    assert added[0, options.index((1, 8))] == pytest.approx(max(error - base, 0), abs=1e-3)


def test_train_elastic_refuses_what_it_would_ignore(corpus):
    space = SearchSpace((2,), (1,), (32,), (8,), corpus.tokenizer.vocab_size, 32)
    recipe = Recipe(steps=1, batch_size=8, seq_len=32, learning_rates=(1e-3, 1e-2))
    with pytest.raises(ValueError, match="one rate, no teacher and no limit"):
        train_elastic(corpus, LayerSpace.of(space, head_size=8), recipe)

# SPDX-License-Identifier: Apache-2.0
"""Error functions: the elastic network is the sliced one, and training is the plain loop's."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bort_jax.arch import Arch, LayerwiseArch, SearchSpace
from bort_jax.data.masking import masked_batch
from bort_jax.engine.loop import fit
from bort_jax.engine.parallel import parallel_step
from bort_jax.engine.step import new_state
from bort_jax.model import BertConfig, MaskedLM, init_params, param_structs, random_params
from bort_jax.model.elastic import ElasticLM, Shape
from bort_jax.stages.extract.candidate import SEGMENT, candidate_errors
from bort_jax.stages.extract.errors import elastic_error, trained_error
from bort_jax.stages.extract.layer_errors import shape_of
from bort_jax.stages.extract.recipe import Recipe, heldout_batch, unigram_loss
from bort_jax.stages.predict.mlm_scores import mlm_scores
from bort_jax.stages.pretrain.objectives import masked_lm_loss

VOCAB, POSITIONS = 40, 12
SPACE = SearchSpace(depth=(1, 2, 3), heads=(1, 2, 3), hidden=(12, 24), intermediate=(5, 8))
MODEL = ElasticLM.over(SPACE.archs(), vocab_size=VOCAB, positions=POSITIONS)


def small(arch: Arch | LayerwiseArch) -> MaskedLM:
    return MaskedLM(BertConfig(arch, VOCAB, positions=POSITIONS, dropout=0.0))


def slice_params(params, arch: Arch | LayerwiseArch):
    """The part of an elastic network's parameters that is `arch`'s, as `MaskedLM` has them."""
    encoder = params["encoder"]
    layers = [(1, 1)] * arch.depth if isinstance(arch, Arch) else arch.layers
    kept = [n for n, layer in enumerate(layers) if layer != (0, 0)]
    layer = lambda n: jax.tree.map(lambda leaf: leaf[n], encoder["layers"])
    own = {f"layer_{at}": layer(n) for at, n in enumerate(kept)}
    whole = params | {"encoder": {"embeddings": encoder["embeddings"], **own}}
    vocab_size = len(params["head"]["bias"])
    positions = len(encoder["embeddings"]["position"]["embedding"])
    structs = param_structs(MaskedLM(BertConfig(arch, vocab_size, positions=positions)))
    return jax.tree_util.tree_map_with_path(first_of, structs, whole)


def first_of(path, struct, leaf):
    """The first of each axis; heads and their size are one axis of the elastic network's."""
    shape = struct.shape
    if len(shape) > leaf.ndim:
        output = path[-2].key == "out"
        shape = (-1, shape[2]) if output else (*shape[:-2], -1)
        shape = np.empty(struct.shape, bool).reshape(shape).shape
    return leaf[tuple(map(slice, shape))].reshape(struct.shape)


@pytest.fixture(scope="module")
def inputs():
    """Ids, a mask with padding, and positions."""
    generator = np.random.default_rng(1)
    ids = generator.integers(0, VOCAB, (3, 10)).astype(np.int32)
    mask = np.arange(10) < np.array([[10], [7], [3]])
    return ids, mask, np.array([[0, 2], [1, 5], [0, 2]], dtype=np.int32)


@pytest.fixture(scope="module")
def params():
    """All numbers far from their initial values, so that none that leaks in goes unseen."""
    generator = np.random.default_rng(2)
    draw = lambda leaf: generator.normal(0, 0.3, leaf.shape).astype(np.float32)
    return jax.tree.map(draw, MODEL.init(seed=0))


elastic_apply = jax.jit(MODEL.__call__)
elastic_gradient = jax.jit(
    jax.grad(lambda params, shape, noise, *inputs: (MODEL(params, shape, *inputs) * noise).sum())
)


ARCHS = [Arch(1, 2, 12, 5), Arch(2, 3, 12, 8), Arch(3, 3, 24, 8), Arch(2, 1, 24, 5)]


def quick_first(archs, count):
    """The rest is slow: each is compiled."""
    return archs[:count] + [pytest.param(a, marks=pytest.mark.slow) for a in archs[count:]]


@pytest.mark.parametrize("arch", quick_first(ARCHS, 2), ids=str)
def test_the_elastic_network_is_the_sliced_one(params, inputs, arch):
    logits = elastic_apply(params, MODEL.shape(arch), *inputs)
    wanted = jax.jit(small(arch).apply)({"params": slice_params(params, arch)}, *inputs)
    np.testing.assert_allclose(logits, wanted, atol=1e-6 * np.abs(wanted).max())


def test_a_layerwise_part_is_the_layerwise_network(params, inputs):
    arch = LayerwiseArch(12, 6, ((2, 5), (0, 0), (1, 8)))
    logits = elastic_apply(params, shape_of(arch), *inputs)
    wanted = jax.jit(small(arch).apply)({"params": slice_params(params, arch)}, *inputs)
    np.testing.assert_allclose(logits, wanted, atol=1e-6 * np.abs(wanted).max())


@pytest.mark.parametrize("arch", quick_first([Arch(1, 2, 12, 5), Arch(2, 3, 24, 5)], 1), ids=str)
def test_the_gradient_is_the_sliced_one_and_lands_only_inside(params, inputs, arch):
    noise = np.random.default_rng(3).normal(size=(3, 2, VOCAB)).astype(np.float32)
    model = small(arch)
    gradient = elastic_gradient(params, MODEL.shape(arch), noise, *inputs)
    sliced_sum = lambda p: (model.apply({"params": p}, *inputs) * noise).sum()
    wanted = jax.jit(jax.grad(sliced_sum))(slice_params(params, arch))
    compare = lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5 * max(1, np.abs(b).max()))
    jax.tree.map(compare, slice_params(gradient, arch), wanted)
    count = lambda tree: sum(np.count_nonzero(leaf) for leaf in jax.tree.leaves(tree))
    assert count(gradient) == count(slice_params(gradient, arch))


def test_slices_of_fresh_parameters_are_fresh_parameters():
    arch = Arch(2, 2, 12, 5)
    sliced, fresh = slice_params(MODEL.init(seed=0), arch), init_params(small(arch), seed=0)
    assert jax.tree.map(np.shape, sliced) == jax.tree.map(np.shape, fresh)
    wide = MaskedLM(BertConfig(Arch(1, 2, 64, 64), 500))
    drawn, wanted = random_params(wide, seed=0), init_params(wide, seed=0)
    same = lambda a, b: (a.std(), a.mean()) == pytest.approx((b.std(), b.mean()), abs=2e-3)
    assert all(jax.tree.leaves(jax.tree.map(same, drawn, wanted)))


def changed(params, *path, at):
    """The parameters with the numbers at `at` of one stacked kernel put to 0."""
    copy = jax.tree.map(np.copy, params)
    leaf = copy["encoder"]["layers"]
    for key in path:
        leaf = leaf[key]
    leaf[at] = 0
    return copy


def test_layers_of_their_own_sizes(params, inputs):
    """Fewer heads: their output is 0; a smaller I: its output is 0; no layer: passed by."""
    full = Shape.of(Arch(3, 3, 24, 8), depth=3)
    wanted = changed(params, "attention", "out", "kernel", at=(1, slice(8, None)))
    wanted = changed(wanted, "feed_forward", "down", "kernel", at=(2, slice(5, None)))
    shape = full._replace(heads=np.array([3, 1, 3]), intermediate=np.array([8, 8, 5]))
    logits = elastic_apply(params, shape, *inputs)
    np.testing.assert_allclose(logits, elastic_apply(wanted, full, *inputs), atol=2e-5)
    assert np.abs(logits - elastic_apply(params, full, *inputs)).max() > 1e-2
    skipped = full._replace(keep=np.array([True, False, True]))
    without = jax.tree.map(lambda leaf: leaf[[0, 2, 1]], params["encoder"]["layers"])
    without = params | {"encoder": params["encoder"] | {"layers": without}}
    np.testing.assert_allclose(
        elastic_apply(params, skipped, *inputs),
        elastic_apply(without, MODEL.shape(Arch(2, 3, 24, 8)), *inputs),
        atol=2e-5,
    )


def test_an_architecture_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="D4-A1-H12-I8 is no part of D3-A3-H24-I8"):
        MODEL.shape(Arch(4, 1, 12, 8))
    with pytest.raises(ValueError, match="multiple of 2"):
        MODEL.shape(Arch(1, 2, 10, 8))  # heads of 5


# Training.

SMALL = SearchSpace(depth=(1, 2), heads=(1, 2), hidden=(8, 16), intermediate=(24,))


def recipe(**changes) -> Recipe:
    options = dict(steps=12, batch_size=8, seq_len=24, eval_rows=20, learning_rates=(1e-2,))
    return Recipe(**(options | {"measure": "perplexity"} | changes))


def plain_perplexities(corpus, model, starts: list, wanted: Recipe) -> list[float]:
    """What the loop of pretraining makes of the same batches, from each of the starts."""
    step = parallel_step(masked_lm_loss(model), optimizer="adamw", clip=1.0)
    score = mlm_scores(model, corpus.heldout, rows=wanted.eval_rows, seq_len=24)
    found = []
    for params in starts:
        state = new_state(params, wanted.hyper(1e-2), optimizer="adamw")
        sizes = dict(seed=0, batch_size=8, seq_len=24)
        batches = (masked_batch(corpus.train, i, **sizes) for i in range(wanted.steps))
        state = fit(state, batches, step_fn=lambda s, b: step(s, (), b, jax.random.key(0)))
        found.append(score(state.params).perplexity)
    return found


def test_trained_and_elastic_error_are_the_plain_loop(corpus):
    """Over several segments; the elastic candidate starts from its slice of the one draw."""
    arch, wanted = Arch(1, 2, 8, 24), recipe(steps=SEGMENT + 3)
    vocab_size = corpus.tokenizer.vocab_size
    model = MaskedLM(BertConfig(arch, vocab_size, positions=24, dropout=0.0))
    space = replace(SMALL, depth=(1,))
    largest = ElasticLM.over(space.archs(), vocab_size=vocab_size, positions=24)
    starts = [random_params(model, seed=0), slice_params(largest.init(seed=0), arch)]
    plain = plain_perplexities(corpus, model, starts, wanted)
    trained = trained_error(corpus, wanted)([arch])[0]
    elastic = elastic_error(corpus, space, wanted)([arch])[0]
    assert [trained, elastic] == pytest.approx(plain, rel=1e-3)


def test_elastic_error_gives_each_of_a_list_its_own(corpus):
    archs = SMALL.archs()[:5]
    error_fn = elastic_error(corpus, SMALL, recipe(steps=6))
    errors = error_fn(archs)
    assert error_fn(archs[::-1]) == errors[::-1] and error_fn([]) == []
    assert error_fn(archs[3:4]) == errors[3:4]
    assert len(set(errors)) == 5


@pytest.mark.slow
def test_trained_error_falls_with_training_and_keeps_the_best_rate(corpus):
    def error(steps, *rates):
        wanted = recipe(steps=steps, learning_rates=rates, eval_rows=64, measure="error")
        return trained_error(corpus, wanted)([Arch(1, 2, 16, 24)])[0]

    best = error(60, 1e-2)
    assert 0 < best < error(1, 1e-2) <= 1
    assert error(60, 1e-9, 1e-2, math.nan) == best
    assert math.isnan(error(1, math.nan))


# Candidates that are no networks: a row of logits that stands for every position.


def row_error(corpus, row, logits_fn=None, **changes) -> float:
    """The error of one candidate whose only weights are `row`, [v]."""
    ignore = lambda params, _, batch: params["kernel"][None, None] + 0 * batch["weights"][..., None]
    wanted = recipe(**({"steps": 1, "learning_rates": (0.0,)} | changes))
    errors = candidate_errors(logits_fn or ignore, corpus, wanted, devices=jax.devices()[:1])
    return errors({"kernel": np.asarray(row, np.float32)}, [()], "untrained")[0]


def test_candidate_errors_are_the_measures_by_hand(corpus, tiny):
    """Weights stay as they are at a rate of 0."""
    heldout = heldout_batch(corpus, recipe())
    row = np.random.default_rng(0).normal(size=corpus.tokenizer.vocab_size)
    log_q = jax.nn.log_softmax(row)
    there = heldout["weights"] > 0
    loss = -np.mean(log_q[heldout["labels"][there]])
    excess = math.exp(loss - unigram_loss(corpus, heldout))
    assert row_error(corpus, row, measure="excess") == pytest.approx(excess, rel=1e-4)
    teacher = replace(tiny, params=jax.tree.map(lambda x: x * 3, tiny.params))
    inputs = (heldout[name] for name in ("ids", "mask", "positions"))
    logits = jax.jit(teacher.model.apply)({"params": teacher.params}, *inputs)
    log_p = jax.nn.log_softmax(logits)[there]
    divergence = float((np.exp(log_p) * (log_p - log_q[None])).sum(-1).mean())
    distilled = dict(measure="distillation", teacher=teacher)
    assert row_error(corpus, row, **distilled) == pytest.approx(divergence, rel=1e-3)
    itself = lambda params, _, batch: (
        params["kernel"][None, None] + batch.get("teacher", 0 * logits[:8])
    )
    assert row_error(corpus, 0 * row, itself, **distilled) == pytest.approx(1e-6, abs=1e-5)


def test_candidate_errors_of_a_unigram_model_have_an_excess_of_one(corpus):
    counts = np.bincount(corpus.train.tokens, minlength=corpus.tokenizer.vocab_size) + 1
    frequencies = np.log(counts / counts.sum())
    assert row_error(corpus, frequencies, measure="excess") == pytest.approx(1)


def test_candidate_errors_clip_the_weights_after_every_step(corpus, limit=0.02):
    """A row within the limit is no better than uniform by more than the limit allows."""
    free, clipped = (
        row_error(corpus, np.zeros(corpus.tokenizer.vocab_size), steps=20, learning_rates=(0.1,),
                  clip_weights=c)
        for c in (None, limit)
    )  # fmt: skip
    uniform = corpus.tokenizer.vocab_size
    assert uniform * math.exp(-2 * limit) <= clipped < uniform
    assert free < 0.9 * uniform


def test_candidate_errors_give_a_diverged_candidate_no_error(corpus):
    """Its weights stay at the last finite ones, which could be measured."""

    def logits_fn(params, _, batch):
        return jnp.sqrt(0 * params["kernel"])[None, None] + 0 * batch["weights"][..., None]

    row = np.ones(corpus.tokenizer.vocab_size)
    assert math.isnan(row_error(corpus, row, logits_fn, steps=3, learning_rates=(1e-2,)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"measure": "accuracy"}, "measure must be one of error, perplexity"),
        ({"measure": "distillation"}, "teacher"),
        ({"learning_rates": ()}, "learning_rates is empty"),
        ({"clip_weights": 0.0}, "clip_weights must be positive"),
    ],
)
def test_recipe_refuses_what_cannot_be_measured(changes, message):
    with pytest.raises(ValueError, match=message):
        recipe(**changes)


def test_error_functions_refuse_a_teacher_that_cannot_read_the_rows(corpus, tiny):
    wanted = recipe(seq_len=40, measure="distillation", teacher=tiny)
    for build in (trained_error, lambda *inputs: elastic_error(inputs[0], SMALL, inputs[1])):
        with pytest.raises(ValueError, match="32 positions; the text has .* in rows of 40"):
            build(corpus, wanted)

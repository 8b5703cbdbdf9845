# SPDX-License-Identifier: Apache-2.0
"""The loop's laws: devices, resuming, overfitting, damaged checkpoints, full disks."""

from dataclasses import replace

import jax
import numpy as np
import optax
import pytest
from helpers import pretrain_config, trees_equal

from bort_jax.arch import Arch
from bort_jax.data.masking import masked_batch
from bort_jax.engine.optimizer import (
    Hyper,
    check_numbers,
    decay_mask,
    learning_rate,
    make_optimizer,
)
from bort_jax.engine.parallel import parallel_map, parallel_step, shard
from bort_jax.engine.step import new_state
from bort_jax.interop import Checkpoint, load, save
from bort_jax.model import BertConfig, MaskedLM, count_params, masked_lm, random_params
from bort_jax.stages.finetune.tuner import FineTuner, Theta
from bort_jax.stages.predict.forward import resampler
from bort_jax.stages.predict.mlm_scores import mlm_scores
from bort_jax.stages.pretrain.objectives import masked_lm_loss
from bort_jax.stages.pretrain.run import pretrain, setup_of
from bort_jax.stages.pretrain.starting import load_start, spaced_layers
from bort_jax.tasks import Points

HYPER = Hyper.of(learning_rate=1e-2, weight_decay=0.01, warmup_ratio=0.1, total_steps=20)


def mlm_model(corpus, **changes):
    config = BertConfig(Arch(1, 2, 16, 24), corpus.tokenizer.vocab_size, positions=24, dropout=0.0)
    return MaskedLM(replace(config, **changes))


def uneven_batch(corpus):
    """Eight rows of which the devices hold 3.75, 1.5, 0 and 0.25 of the weight."""
    batch = masked_batch(corpus.train, 0, seed=0, batch_size=8, seq_len=24)
    counts = np.array([3, 3, 2, 1, 0, 0, 1, 0])
    batch["weights"] = (np.arange(batch["weights"].shape[1]) < counts[:, None]).astype(np.float32)
    return batch


@pytest.mark.parametrize("optimizer", ["adamw", pytest.param("lamb", marks=pytest.mark.slow)])
def test_several_devices_equal_one_with_unequal_token_counts(corpus, optimizer):
    assert jax.local_device_count() > 1
    model, batch = mlm_model(corpus), uneven_batch(corpus)
    params = random_params(model, seed=0)
    state = new_state(params, HYPER, optimizer=optimizer)
    step = parallel_step(masked_lm_loss(model), optimizer=optimizer, clip=1.0)
    several, metrics = step(state, (), batch, jax.random.key(0))

    def mean_loss(params):
        sums = masked_lm_loss(model)(params, (), batch, jax.random.key(0))
        return sums["loss"] / sums["count"]

    @jax.jit
    def whole_step(params):
        loss, gradient = jax.value_and_grad(mean_loss)(params)
        update = make_optimizer(optimizer, HYPER, rate=learning_rate(HYPER, 0))
        transform = optax.chain(optax.clip_by_global_norm(1.0), update)
        updates, _ = transform.update(gradient, transform.init(params), params)
        return optax.apply_updates(params, updates), loss, optax.global_norm(gradient)

    one, loss, norm = whole_step(params)
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
    assert norm > 1  # so that clipping is seen
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), several.params, one)


def test_devices_drop_different_units():
    """A loss that is its own dropout mask: the devices must not agree."""

    def loss_fn(params, frozen, batch, key):
        draw = jax.random.uniform(key)
        return {"loss": params["w"] * 0, "count": 1.0, "draw": draw, "square": draw**2}

    step = parallel_step(loss_fn, optimizer="adamw", clip=1.0)
    state = new_state({"w": np.float32(0)}, HYPER, optimizer="adamw")
    state, metrics = step(state, (), {"x": np.zeros(4)}, jax.random.key(0))
    assert float(metrics["square"]) - float(metrics["draw"]) ** 2 > 1e-3
    _, later = step(state, (), {"x": np.zeros(4)}, jax.random.key(0))
    assert float(later["draw"]) != float(metrics["draw"])


def test_a_batch_the_devices_cannot_share_is_refused():
    with pytest.raises(ValueError, match="7 cannot be shared by 2 devices"):
        shard({"x": np.zeros(7)})


def test_a_step_compiles_once():
    traced = []

    def loss_fn(params, frozen, batch, key):
        traced.append(1)
        return {"loss": (params["w"] - batch["x"]).sum(), "count": jax.numpy.float32(4)}

    step = parallel_step(loss_fn, optimizer="adamw", clip=1.0)
    state = new_state({"w": np.float32(0)}, HYPER, optimizer="adamw")
    for _ in range(3):
        state, _ = step(state, (), {"x": np.zeros(4, np.float32)}, jax.random.key(0))
    assert len(traced) == 1


def test_parallel_map_keeps_the_order():
    x = np.arange(8.0, dtype=np.float32)
    mapped = parallel_map(lambda factor, x: factor * x)(np.float32(3), x)
    assert np.array_equal(mapped, 3 * x)


def test_schedule_rises_then_falls_to_zero():
    hyper = Hyper.of(learning_rate=1.0, weight_decay=0, warmup_ratio=0.2, total_steps=10)
    rates = [float(learning_rate(hyper, step)) for step in range(11)]
    assert rates == pytest.approx([0.5, 1.0, 1.0, *[k / 8 for k in range(7, -1, -1)]])


def test_decay_spares_biases_and_layer_norm(tiny):
    mask = decay_mask(tiny.params)
    spared = {path[-1].key for path, d in jax.tree_util.tree_leaves_with_path(mask) if not d}
    decayed = {path[-1].key for path, d in jax.tree_util.tree_leaves_with_path(mask) if d}
    assert spared == {"bias", "scale"} and decayed == {"kernel", "embedding"}


def test_an_unknown_optimizer_lists_the_known():
    with pytest.raises(ValueError, match="one of adamw, lamb; got 'sgd'"):
        make_optimizer("sgd", HYPER, rate=0.0)


def test_eight_examples_can_be_overfitted(small, rng):
    points = Points(
        rng.integers(5, 250, (8, 12)).astype(np.int32), np.arange(8, dtype=np.int32) % 2
    )
    points.x[:, 0] = 0
    tuner = FineTuner.of(small, ("a", "b"), steps=80, dropout=0.0)
    params = tuner.fit(Theta(0, 1e-2, 0.0, 0.1, 8), points)
    assert tuner.accuracy(params, points) == 1.0


def test_a_short_last_batch_counts_only_real_rows(small, rng):
    """With batches of 4, five points give the gradient of the fifth alone in the second step."""
    x = rng.integers(5, 250, (5, 6)).astype(np.int32)
    points = Points(x, np.array([0, 1, 0, 1, 1], np.int32))
    from bort_jax.stages.finetune.tuner import labelled_batches

    batches = labelled_batches(points, Theta(0, 1e-3, 0.0, 0.1, 4))
    first, second = next(batches), next(batches)
    assert first["weights"].sum() == 4 and second["weights"].tolist() == [1, 0, 0, 0]
    seen = {row.tobytes() for row in [*first["ids"], second["ids"][0]]}
    assert seen == {row.tobytes() for row in x}


def test_a_teacher_of_another_vocabulary_is_refused(corpus, tmp_path):
    other = BertConfig(Arch(1, 1, 8, 8), 77, positions=24)
    save(Checkpoint(other, random_params(MaskedLM(other), seed=0)), tmp_path / "teacher")
    corpus.tokenizer.save(tmp_path / "tokenizer")
    wrong = pretrain_config(
        corpus,
        tmp_path / "out",
        teacher=str(tmp_path / "teacher"),
        tokenizer=str(tmp_path / "tokenizer"),
    )
    with pytest.raises(ValueError, match="the teacher has 77 tokens, the student"):
        pretrain(wrong)


def test_setup_of_starts_from_another_run_s_model(corpus, tiny_run, tmp_path):
    start = str(tiny_run / "model")
    found = setup_of(pretrain_config(corpus, tmp_path, init_from=start))
    assert trees_equal(found.params, load(start).params)


def test_setup_of_puts_a_fresh_head_on_an_encoder_alone(corpus, tmp_path, small):
    save(replace(small, params={"encoder": small.params["encoder"]}, headless=True), tmp_path)
    sizes = {"arch": str(small.config.arch), "positions": small.config.positions}
    found = setup_of(pretrain_config(corpus, tmp_path / "out", init_from=str(tmp_path), **sizes))
    assert trees_equal(found.params["encoder"], small.params["encoder"])
    assert found.params.keys() == small.params.keys()


def test_load_start_takes_evenly_spaced_layers(corpus, tmp_path):
    assert [spaced_layers(6, wanted) for wanted in (1, 2, 3, 4, 6)] == [
        [0], [0, 3], [0, 2, 4], [0, 1, 3, 4], [0, 1, 2, 3, 4, 5],
    ]  # fmt: skip
    config = BertConfig(Arch(4, 2, 16, 24), corpus.tokenizer.vocab_size, positions=24)
    deep = random_params(MaskedLM(config), seed=0)
    save(Checkpoint(config, deep, tokenizer=corpus.tokenizer), tmp_path)
    start = load_start(str(tmp_path), Arch(2, 2, 16, 24), positions=24).params
    assert trees_equal(start["head"], deep["head"])
    assert trees_equal(start["encoder"]["embeddings"], deep["encoder"]["embeddings"])
    assert len(start["encoder"]) == 3
    for k, n in enumerate((0, 2)):
        assert trees_equal(start["encoder"][f"layer_{k}"], deep["encoder"][f"layer_{n}"])


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"arch": "D3-A2-H16-I24"}, "asked for D3-A2-H16-I24 with"),
        ({"arch": "D1-A2-H16-I32"}, "asked for D1-A2-H16-I32 with"),
        ({"positions": 30}, "with 30"),
    ],
)
def test_a_start_of_other_sizes_is_refused(corpus, tmp_path, tiny, changes, message):
    save(tiny, tmp_path / "start")
    sizes = {"arch": str(tiny.config.arch), "positions": tiny.config.positions}
    start = {"init_from": str(tmp_path / "start")}
    with pytest.raises(ValueError, match=message):
        pretrain(pretrain_config(corpus, tmp_path / "out", **sizes | start | changes))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"seq_len": 25}, "25 is longer than the 24 positions"),
        ({"dtype": "float16"}, "float32, bfloat16; got 'float16'"),
        ({"batch_size": 7}, "7 is not a multiple of 2 devices"),
        ({"batch_size": 6, "accumulation_steps": 2}, "6 is not a multiple of 2 devices × 2 micro"),
        ({"hours": 0.0}, "hours must be more than 0"),
        ({"log_every": 0}, "log_every must be at least 1; got 0"),
        ({"arch": "D1-A3-H16-I24"}, "heads must divide hidden"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(corpus, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        pretrain(pretrain_config(corpus, tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()


def test_scores_do_not_depend_on_how_rows_are_batched(corpus, small):
    whole = mlm_scores(small.model, corpus.heldout, rows=7, seq_len=16)(small.params)
    batch = masked_batch(corpus.heldout, 0, seed=0, batch_size=7, seq_len=16)
    run = jax.jit(small.model.apply)
    logits = run({"params": small.params}, batch["ids"], batch["mask"], batch["positions"])
    sums = masked_lm(logits, batch["labels"], batch["weights"])
    assert whole.loss == pytest.approx(float(sums["mlm"] / sums["count"]), rel=1e-5)
    assert whole.perplexity == pytest.approx(np.exp(whole.loss))


def test_resampling_never_keeps_a_token_nor_draws_a_special_one(small, rng):
    special = small.tokenizer.special
    x = rng.integers(5, 280, (9, 16)).astype(np.int32)
    positions = rng.integers(0, 16, (9, 5))
    resample = resampler(small.model, small.params, special)
    tokens = resample(x, positions, 0)
    assert (tokens != np.take_along_axis(x, positions, 1)).all()
    assert not np.isin(tokens, special).any()
    assert np.array_equal(tokens, resample(x, positions, 0))
    assert not np.array_equal(tokens, resample(x, positions, 1))


def test_counting_does_not_allocate():
    big = MaskedLM(BertConfig(Arch(40, 64, 8192, 32768), 50265))
    assert count_params(big) > 3e10


@pytest.mark.parametrize(
    "theta, message",
    [
        (Theta(-1, 1e-3, 0.01, 0.1, 2), "seed must lie between 0 and 4294967295; got -1"),
        (Theta(0, 1e-3, 0.01, 5.0, 2), "warmup_ratio must lie between 0 and 1; got 5"),
        (Theta(0, float("nan"), 0.01, 0.1, 2), "learning_rate must lie between 0 and inf; got nan"),
        (Theta(0, 1e-3, 0.01, 0.1, 0), "batch_size must lie between 1 and 2147483647; got 0"),
    ],
)
def test_check_numbers_names_what_is_out_of_its_range(theta, message):
    with pytest.raises(ValueError, match=message):
        check_numbers(theta)

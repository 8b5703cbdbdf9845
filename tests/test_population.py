# SPDX-License-Identifier: Apache-2.0
"""Populations: each member is what it would be alone; groups fit the memory; stopping; decay."""

from itertools import islice

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bort_jax.engine.optimizer import Hyper
from bort_jax.model import classification
from bort_jax.stages.finetune.early_stopping import EarlyStopping, Tuned
from bort_jax.stages.finetune.group_size import (
    LARGEST_GROUP,
    largest_group,
    members_at_once,
    round_up,
)
from bort_jax.stages.finetune.groups import (
    SEGMENT,
    GroupShape,
    GroupTrainer,
    TuningJob,
    segments,
)
from bort_jax.stages.finetune.population import Member, Population, layer_factors, tree_bytes
from bort_jax.stages.finetune.tuner import (
    FineTuner,
    FinetuneRecipe,
    Theta,
    labelled_batches,
    trim_columns,
)
from bort_jax.stages.predict.outputs import scores_of
from bort_jax.tasks import Examples, Points, Task, headline

STEPS = 5
# Everything that may differ between members does.
THETAS = [
    Theta(0, 1e-2, 0.0, 0.1, 4),
    Theta(0, 3e-3, 100.0, 0.5, 4),
    Theta(2, 1e-3, 0.01, 0.9, 4),
    Theta(3, 1e-2, 0.0, 0.1, 4),
    Theta(0, 1e-2, 0.0, 0.9, 4),
]


@pytest.fixture(scope="module")
def points():
    rng = np.random.default_rng(0)
    x = rng.integers(5, 250, (11, 12)).astype(np.int32)
    return Points(x, np.arange(11, dtype=np.int32) % 2)


def tuner_of(tiny, **recipe):
    return FineTuner.of(tiny, ("a", "b"), **({"steps": STEPS} | recipe))


def assert_close(one, two, atol=2e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol), one, two)


def differ(one, two):
    return max(jax.tree.leaves(jax.tree.map(lambda a, b: np.abs(a - b).max(), one, two)))


def test_members_of_a_real_model_are_what_they_would_be_alone(small, points):
    """BERT, with dropout."""
    tuner = tuner_of(small, at_once=8)
    tuner.trainer.devices = 1
    alone = [tuner.fit(theta, points) for theta in THETAS]
    together = list(tuner.fit_all(THETAS, points))
    for one, other in zip(together, alone, strict=True):
        assert_close(one, other)
    assert differ(alone[0], alone[3]) > 1e-3  # another seed makes another model
    assert differ(alone[0], alone[4]) > 1e-3  # and so does another warm-up


def test_labelled_batches_have_the_soft_labels_of_their_rows(points):
    soft = np.random.default_rng(0).dirichlet(np.ones(2), 11).astype(np.float32)
    batches = labelled_batches(points._replace(targets=soft), THETAS[0])
    for batch, bare in zip(islice(batches, 5), labelled_batches(points, THETAS[0])):
        rows = [np.flatnonzero((points.x == ids).all(axis=1))[0] for ids in batch["ids"]]
        np.testing.assert_array_equal(batch.pop("targets"), soft[rows])
        jax.tree.map(np.testing.assert_array_equal, batch, bare)


# A network that compiles in no time: a table of "embeddings", a line, and dropout of its own.


def toy_outputs(params, ids, key=None):
    x = params["encoder"]["table"]["embedding"][ids].mean(axis=-2)
    if key is not None:
        x = jnp.where(jax.random.bernoulli(key, 0.8, x.shape), x / 0.8, 0)
    answers = x @ params["output"]["kernel"]
    return answers + jnp.broadcast_to(params["output"]["bias"], answers.shape)


def toy_loss(params, batch, key):
    return classification(toy_outputs(params, batch["ids"], key), batch["labels"], batch["weights"])


def toy_choice_loss(params, batch, key):
    logits = toy_outputs(params, batch["ids"], key)[..., 0]
    return classification(logits, batch["labels"], batch["weights"])


def toy_trainer(at_once=1, loss=toy_loss, devices=2, **rest) -> GroupTrainer:
    encoder = {"table": {"embedding": np.linspace(-1, 1, 1000, dtype=np.float32).reshape(250, 4)}}
    trainer = GroupTrainer(Population.of(loss, toy_outputs, **rest), encoder, at_once=at_once)
    trainer.devices = devices
    return trainer


def toy_job(theta, points, steps=STEPS, width=2) -> TuningJob:
    hyper = Hyper.of(
        learning_rate=theta.learning_rate,
        weight_decay=theta.weight_decay,
        warmup_ratio=theta.warmup_ratio,
        total_steps=steps,
    )
    kernel = np.random.default_rng(theta.seed).normal(size=(4, width)).astype(np.float32)
    head = {"output": {"kernel": kernel, "bias": np.zeros(width, np.float32)}}
    key = np.asarray(jax.random.key_data(jax.random.key(theta.seed)))
    return TuningJob(
        lambda: Member(hyper, key, head), lambda: labelled_batches(points, theta), steps
    )


def all_of(trainer, jobs):
    tuned = []
    while len(tuned) < len(jobs):
        tuned += trainer.first(jobs[len(tuned) :])
    return tuned


@pytest.fixture(scope="module")
def jobs(points):
    return [toy_job(theta, points) for theta in THETAS]


@pytest.fixture(scope="module")
def alone(jobs):
    trainer = toy_trainer()
    return [trainer.first([job])[0] for job in jobs]


@pytest.mark.parametrize("at_once", [1, 8])
@pytest.mark.parametrize("devices", [1, 2])
def test_members_are_what_they_would_be_alone(at_once, devices, jobs, alone):
    together = all_of(toy_trainer(at_once, devices=devices), jobs)
    for one, other in zip(together, alone, strict=True):
        assert_close(one.params, other.params, atol=1e-6)
    assert differ(alone[0].params, alone[1].params) > 1e-3


def test_models_come_one_by_one_in_the_order_of_theta(tiny, points, monkeypatch):
    """Two batch sizes in turns; nothing is trained before it is asked for, and nothing twice."""
    tuner, trained = tuner_of(tiny), []
    thetas = [Theta(k, 1e-2, 0.0, 0.1, (4, 4, 3)[k % 3]) for k in range(9)]
    seeds = lambda jobs: [int(job.member().key[-1]) for job in jobs]

    def first(jobs, *, stopping):
        sizes = {next(job.batches())["labels"].shape for job in jobs}
        assert len(sizes) == 1
        done = seeds(jobs)[:2]
        trained.append(done)
        return [Tuned(seed, STEPS) for seed in done]

    monkeypatch.setattr(tuner.trainer, "first", first)
    models = tuner.fit_all(thetas, points)
    assert trained == []
    assert next(models) == 0 and trained == [[0, 1]]
    assert list(models) == list(range(1, 9))
    assert trained == [[0, 1], [2, 5], [3, 4], [6, 7], [8]]


@given(total=st.integers(1, 200), every=st.integers(1, 60))
def test_segments_stop_at_each_evaluation_and_at_the_end(total, every):
    found = list(segments(total, every=every))
    ends = [done for done, _ in found]
    assert sum(n for _, n in found) == total == ends[-1]
    assert all(1 <= n <= SEGMENT for _, n in found)
    assert set(range(every, total + 1, every)) <= set(ends)


# Runs that diverge


def no_numbers(params) -> bool:
    return all(np.isnan(leaf).all() for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("at_once", [1, 8])
def test_group_trainer_has_no_numbers_for_a_member_that_diverged(at_once, points):
    """Too high a rate makes the weights, and then every loss, infinite."""
    thetas = [THETAS[0], THETAS[0]._replace(learning_rate=1e38)]
    fine, lost = all_of(toy_trainer(at_once), [toy_job(theta, points) for theta in thetas])
    assert not np.isnan(jax.tree.leaves(fine.params)[0]).any() and no_numbers(lost.params)


def test_early_stopping_gives_a_member_whose_steps_are_skipped_no_score(points):
    """Its parameters stay finite, and could be scored."""
    loss_fn = lambda *inputs: toy_loss(*inputs) | {"loss": jnp.float32(jnp.inf)}
    seen = []
    score_fn = lambda outputs: seen.append(outputs) or float(outputs.mean())
    stopping = EarlyStopping(points.x, score_fn, every=2, patience=2)
    trainer = toy_trainer(loss=loss_fn)
    (tuned,) = trainer.first([toy_job(THETAS[0], points)], stopping=stopping)
    assert np.isnan(seen).all() and no_numbers(tuned.params)


# Memory


@given(most=st.integers(1, 100), each=st.integers(1, 50), limit=st.integers(0, 2000))
def test_the_group_is_halved_until_it_fits(most, each, limit):
    group = largest_group(lambda members: each * members, limit=limit, most=most)
    assert 1 <= group <= most and (group == 1 or each * group <= limit)
    assert group == most or each * most > limit and each * (2 * group) > limit


def test_groups_have_few_sizes_and_few_idle_places():
    sizes = [round_up(group) for group in range(1, 65)]
    assert set(sizes) == {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64}
    for group, size in enumerate(sizes, start=1):
        assert group <= size and 3 * (size - group) <= size


def test_members_at_once_is_one_on_a_cpu_with_dropout_or_wide_layers(monkeypatch):
    wanted = {(0.1, 128): 1, (0.0, 384): 1, (0.0, 128): LARGEST_GROUP}
    found = {(rate, hidden): members_at_once(rate, hidden=hidden) for rate, hidden in wanted}
    assert found == wanted
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert members_at_once(0.1, hidden=384) == LARGEST_GROUP


def test_group_shape_has_as_many_members_as_the_memory_holds(points, monkeypatch):
    trainer = toy_trainer(64)
    jobs = [toy_job(Theta(k, 0, 0, 0, 4), points) for k in range(16)]
    assert trainer.group_shape(jobs) == GroupShape(8)  # eight on each of two devices
    assert trainer.group_shape(jobs[:9]) == GroupShape(6)  # and five of which have a place in six
    needs, bytes_of = [], trainer.population.train.bytes
    monkeypatch.setattr(
        trainer.population.train, "bytes", lambda *args: needs.append(bytes_of(*args)) or needs[-1]
    )
    trainer.memory = 10**5
    assert trainer.group_shape(jobs).members < 8
    eight, *_, last = needs
    assert last <= 10**5 < eight  # members take memory of their own


def test_group_shape_has_two_small_members_side_by_side(jobs):
    trainer = toy_trainer(devices=1)
    assert trainer.group_shape(jobs) == GroupShape(1, beside=2)
    trainer.small = tree_bytes(trainer.encoder)
    assert trainer.group_shape(jobs) == GroupShape(1)


def test_a_device_that_runs_out_of_memory_gets_fewer_members(jobs, alone):
    trainer, sizes, word = toy_trainer(4, devices=1), [], ["RESOURCE_EXHAUSTED: out of memory"]
    train = trainer.population.train

    class Scarce:
        bytes = train.bytes

        def __call__(self, trainees, members, batches, n):
            sizes.append(members.key.shape[1])
            if sizes[-1] > 1:
                raise jax.errors.JaxRuntimeError(word[0])
            return train(trainees, members, batches, n)

    trainer.population = trainer.population._replace(train=Scarce())
    for one, other in zip(all_of(trainer, jobs[:4]), alone, strict=False):
        assert_close(one.params, other.params, atol=1e-6)
    assert sizes == [4, 2, 1, 1, 1, 1]  # the trainer remembers how many the device holds
    trainer.at_once, word[0] = 4, "INTERNAL: something else"
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        trainer.first(jobs)


# Early stopping


def test_each_member_stops_by_itself_and_keeps_its_best(points):
    scores = {0: [0.5, 0.6, 0.4, 0.6, 0.9], 1: [0.1, 0.2, 0.3, 0.2, 0.4]}
    seen = []

    def score_fn(outputs):
        member, evaluation = len(seen) % 2, len(seen) // 2
        seen.append(outputs)
        return scores[member][evaluation]

    stopping = EarlyStopping(points.x, score_fn, every=2, patience=2)
    jobs = [toy_job(Theta(k, 1e-2, 0.0, 0.1, 4), points, steps=10) for k in range(2)]
    first, second = toy_trainer(2, devices=1).first(jobs, stopping=stopping)
    # The first one's late 0.9 comes after its end; the second has no two in a row.
    assert (first.steps, second.steps) == (4, 10) and len(seen) == 10
    for tuned, outputs in ((first, seen[2]), (second, seen[9])):
        assert outputs.shape == (11, 2)
        np.testing.assert_allclose(toy_outputs(tuned.params, points.x), outputs, atol=1e-5)


def test_a_group_ends_with_its_last_member(points):
    seen = []

    def score_fn(outputs):
        seen.append(outputs)
        return np.nan

    stopping = EarlyStopping(points.x, score_fn, every=2, patience=1)
    job = toy_job(Theta(0, 1e-2, 0.0, 0.1, 4), points, steps=10)
    (tuned,) = toy_trainer().first([job], stopping=stopping)
    assert tuned.steps == 2 and len(seen) == 2  # no score at all is no improvement


@pytest.mark.parametrize("choices", [2, 4])
def test_early_stopping_scores_every_choice(choices, rng):
    """Of COPA's two choices and of RACE's four: a row of tokens each."""
    task = Task(labels=tuple("ABCD"[:choices]), head="choice")
    x = rng.integers(5, 250, (6, choices, 12)).astype(np.int32)
    examples = Examples(((),) * 6, np.arange(6) % choices)
    seen = []

    def score_fn(outputs):
        seen.append(outputs)
        return headline(scores_of(outputs, task, examples=examples))

    job = toy_job(Theta(0, 1e-2, 0.0, 0.1, 4), Points(x, examples.labels), width=1)
    stopping = EarlyStopping(x, score_fn, every=2, patience=5)
    (tuned,) = toy_trainer(loss=toy_choice_loss).first([job], stopping=stopping)
    outputs = toy_outputs(tuned.params, x)
    assert {part.shape for part in seen} == {(6 * choices, 1)}
    assert any(np.allclose(part, outputs.reshape(-1, 1), atol=1e-5) for part in seen)


# Options


def test_layer_factors_by_hand(tiny):
    factors = layer_factors(tiny.params | {"output": {"bias": 0}}, 0.5)
    assert factors["output"] == {"bias": 1.0}
    assert set(jax.tree.leaves(factors["encoder"]["layer_1"])) == {0.5}
    assert set(jax.tree.leaves(factors["encoder"]["layer_0"])) == {0.25}
    assert set(jax.tree.leaves(factors["encoder"]["embeddings"])) == {0.125}


def test_layerwise_decay_scales_the_first_step(points):
    """The toy's table is what lies below all layers, of which it has none: decay¹."""
    job = toy_job(Theta(0, 1e-2, 0.0, 0.0, 4), points, steps=1)
    start = toy_trainer().encoder["table"]["embedding"]
    moved = {}
    for decay in (1.0, 0.5):
        params = toy_trainer(layer_decay=decay).first([job])[0].params
        moved[decay] = params["encoder"]["table"]["embedding"] - start, params["output"]
    assert np.abs(moved[1.0][0]).max() > 1e-3
    np.testing.assert_allclose(moved[0.5][0], 0.5 * moved[1.0][0], atol=1e-7)
    assert_close(moved[0.5][1], moved[1.0][1], atol=1e-7)


def test_classes_weigh_the_same(tiny):
    points = Points(np.full((4, 3), 7, np.int32), np.array([0, 0, 0, 1], np.int32))
    weights = tuner_of(tiny, class_weights=True).class_weights(points)
    np.testing.assert_allclose(weights, [4 / 6, 2])
    assert tuner_of(tiny).class_weights(points) is None
    batch = next(labelled_batches(points, Theta(0, 1e-3, 0, 0, 4), weights=weights))
    of_class = lambda k: batch["weights"][batch["labels"] == k].sum()
    assert of_class(0) == of_class(1) == 2


def test_columns_of_padding_are_not_trained_on():
    x = np.full((3, 40), 1)
    x[1, :17] = 9
    assert trim_columns(x, 1).shape == (3, 32) and (trim_columns(x, 1) == x[:, :32]).all()
    assert trim_columns(x.reshape(3, 1, 40), 1).shape == (3, 1, 32)
    assert trim_columns(x[:1], 1).shape == (1, 16)
    assert trim_columns(x[:, :20], 1).shape == (3, 20)


@pytest.mark.parametrize(
    "recipe, message",
    [
        ({}, "give steps or epochs; got 0 and 0"),
        ({"steps": 3, "epochs": 1.0}, "give steps or epochs; got 3 and 1"),
        ({"steps": 3, "layer_decay": 0.0}, r"layer_decay must lie in \(0, 1\]; got 0"),
        ({"steps": 3, "dropout": 2.0}, "dropout must lie between 0 and 0.999; got 2"),
    ],
)
def test_settings_out_of_range_are_refused(recipe, message):
    with pytest.raises(ValueError, match=message):
        FinetuneRecipe(**recipe)


def test_epochs_are_steps_of_the_data_at_hand():
    recipe = FinetuneRecipe(epochs=2.5)
    assert recipe.total_steps(Theta(0, 0, 0, 0, 4), rows=11) == 8  # 2.5 · 3, to the nearest even
    assert FinetuneRecipe(steps=7).total_steps(Theta(0, 0, 0, 0, 4), rows=11) == 7

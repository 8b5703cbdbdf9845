# SPDX-License-Identifier: Apache-2.0
"""Populations: each member is what it would be alone; groups fit the memory; stopping; decay."""

import json

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bort_jax.data.tasks import Points
from bort_jax.train import tuning as tuning_module
from bort_jax.train.finetune import FineTuner, Recipe, Theta, labelled_batches, trimmed
from bort_jax.train.parallel import MAPPINGS
from bort_jax.train.plan import Planner, largest_group
from bort_jax.train.population import layer_factors
from bort_jax.train.tuning import Group, Stopping, segments

STEPS = 5
# Everything that may differ between members does, and two batch sizes stand in turns.
THETAS = [
    Theta(0, 1e-2, 0.0, 0.1, 4),
    Theta(1, 1e-2, 10.0, 0.5, 3),
    Theta(0, 3e-3, 100.0, 0.5, 4),
    Theta(2, 1e-3, 0.01, 0.9, 4),
    Theta(0, 1e-2, 10.0, 0.5, 3),
    Theta(3, 1e-2, 0.0, 0.1, 4),
    Theta(0, 1e-2, 0.0, 0.0, 4),
]


@pytest.fixture(scope="module")
def points():
    rng = np.random.default_rng(0)
    x = rng.integers(5, 250, (11, 12)).astype(np.int32)
    return Points(x, np.arange(11, dtype=np.int32) % 2)


def tuner_of(tiny, mapping, **recipe):
    return FineTuner.of(tiny, ("a", "b"), mapping=mapping, **({"steps": STEPS} | recipe))


@pytest.fixture(scope="module")
def alone(tiny, points):
    """Each θ trained by itself, with dropout."""
    tuner = tuner_of(tiny, "loop")
    return [tuner.fit(theta, points) for theta in THETAS]


def assert_close(one, two, atol=2e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol), one, two)


def differ(one, two):
    return max(jax.tree.leaves(jax.tree.map(lambda a, b: np.abs(a - b).max(), one, two)))


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_members_are_what_they_would_be_alone(mapping, tiny, points, alone, monkeypatch):
    """With dropout on, on two devices, in the order of Θ."""
    monkeypatch.setattr(tuning_module, "devices_for", lambda jobs: min(jobs, 2))
    together = list(tuner_of(tiny, mapping).fit_all(THETAS, points))
    assert len(together) == len(alone)
    for one, other in zip(together, alone, strict=True):
        assert_close(one, other)
    assert differ(alone[0], alone[5]) > 1e-3  # another seed alone makes another model
    assert differ(alone[0], alone[6]) > 1e-3  # and so does another warm-up


def test_models_come_one_by_one(tiny, points, monkeypatch):
    """Nothing is trained before it is asked for."""
    tuner, calls = tuner_of(tiny, "loop"), []
    first = tuner.tuning.first

    def counted(jobs, **rest):
        tuned = first(jobs, **rest)
        calls.append(len(tuned))
        return tuned

    monkeypatch.setattr(tuner.tuning, "first", counted)
    models = tuner.fit_all([Theta(k, 1e-2, 0.0, 0.1, 4) for k in range(9)], points)
    assert calls == []
    next(models)
    assert calls == [8] and sum(1 for _ in models) == 8 and sum(calls) == 9


@given(total=st.integers(1, 200), size=st.integers(1, 40), every=st.integers(1, 60))
def test_segments_stop_at_each_evaluation_and_at_the_end(total, size, every):
    found = list(segments(total, size=size, every=every))
    ends = [done for done, _ in found]
    assert sum(n for _, n in found) == total == ends[-1]
    assert all(1 <= n <= size for _, n in found)
    assert set(range(every, total + 1, every)) <= set(ends)


# Memory


@given(most=st.integers(1, 100), each=st.integers(1, 50), limit=st.integers(0, 2000))
def test_the_group_is_halved_until_it_fits(most, each, limit):
    group = largest_group(lambda members: each * members, limit=limit, most=most)
    assert 1 <= group <= most and (group == 1 or each * group <= limit)
    assert group == most or each * most > limit and each * (2 * group) > limit


def test_the_compiler_says_how_many_members_fit(tiny, points, monkeypatch):
    tuner = tuner_of(tiny, "vmap")
    jobs = [tuner.job(Theta(k, 1e-2, 0.0, 0.1, 4), points) for k in range(16)]
    tuning = tuner.tuning
    assert tuning.group_for(jobs) == Group("vmap", 4)  # four on each of four devices
    asked = []
    monkeypatch.setattr(
        tuning_module,
        "largest_group",
        lambda needed, *, limit, most: asked.extend(map(needed, (1, 2, 4))) or 1,
    )
    tuning.group_for(jobs)
    one, two, four = asked
    assert one < two < four  # members take memory of their own
    monkeypatch.setattr(tuning_module, "largest_group", largest_group)
    monkeypatch.setattr(tuning_module, "memory_limit", lambda: two)
    assert tuning.group_for(jobs) == Group("vmap", 2)
    monkeypatch.setattr(tuning_module, "memory_limit", lambda: one // 2)
    assert tuning.group_for(jobs) == Group("vmap", 1)


def test_a_device_that_runs_out_of_memory_gets_fewer_members(tiny, points, alone, monkeypatch):
    monkeypatch.setattr(tuning_module, "devices_for", lambda jobs: 1)
    tuner, sizes = tuner_of(tiny, "vmap"), []
    program = tuner.tuning.programs("vmap")
    train, word = program.train, ["RESOURCE_EXHAUSTED: out of memory"]

    def scarce(trainees, members, batches, n):
        sizes.append(members.key.shape[1])
        if sizes[-1] > 1:
            raise jax.errors.JaxRuntimeError(word[0])
        return train(trainees, members, batches, n)

    tuner.tuning.built["vmap"] = program._replace(train=scarce)
    thetas = [theta for theta in THETAS if theta.batch_size == 3]
    together = list(tuner.fit_all(thetas, points))
    assert sizes == [2, 1, 1]
    assert_close(together[0], alone[1])
    assert_close(together[1], alone[4])
    word[0] = "INTERNAL: something else"
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        list(tuner.fit_all(thetas, points))


# Which mapping


def test_the_fastest_mapping_is_measured_once(tmp_path):
    file, asked = tmp_path / "cache" / "populations.json", []

    def trial(mapping):
        asked.append(mapping)
        return {"loop": 0.3, "vmap": 0.1, "map": 0.2}[mapping]

    assert Planner("m", file=file).mapping("8", trial=trial, work=3) == "loop"
    assert asked == ["loop"] and not file.exists()  # too little work for a race
    assert Planner("m", file=file).mapping("8", trial=trial, work=1000) == "vmap"
    assert asked == ["loop", "loop", "vmap", "map"]
    assert Planner("m", file=file).mapping("8", trial=trial, work=3) == "vmap"
    assert len(asked) == 4  # remembered
    Planner("m", file=file).mapping("16", trial=trial, work=3)
    Planner("another", file=file).mapping("8", trial=trial, work=3)
    assert len(asked) == 6  # other sizes, another model: not the same question
    file.write_text('{"cut short')
    assert Planner("m", file=file).mapping("8", trial=trial, work=1000) == "vmap"


def test_a_race_between_mappings_runs_and_decides(tiny, points, tmp_path, monkeypatch):
    monkeypatch.setattr("bort_jax.train.plan.WORTH", 0.0)
    monkeypatch.setattr(tuning_module, "devices_for", lambda jobs: 1)
    tuner = tuner_of(tiny, None)
    tuner.tuning.planner = Planner("tiny", file=tmp_path / "populations.json")
    thetas = [theta for theta in THETAS if theta.batch_size == 3]
    assert len(list(tuner.fit_all(thetas, points))) == 2
    (seconds,) = json.loads((tmp_path / "populations.json").read_text()).values()
    assert seconds.keys() == set(MAPPINGS) and all(value > 0 for value in seconds.values())


# Early stopping


def test_each_member_stops_by_itself_and_keeps_its_best(tiny, points, monkeypatch):
    monkeypatch.setattr(tuning_module, "devices_for", lambda jobs: 1)
    scores = {0: [0.5, 0.6, 0.4, 0.6, 0.9], 1: [0.1, 0.2, 0.3, 0.2, 0.4]}
    seen = []

    def score_fn(outputs):
        member, evaluation = len(seen) % 2, len(seen) // 2
        seen.append(outputs)
        return scores[member][evaluation]

    tuner = tuner_of(tiny, "vmap", steps=10)
    stopping = Stopping(points.x, score_fn, every=2, patience=2)
    thetas = [Theta(k, 1e-2, 0.0, 0.1, 4) for k in range(2)]
    first, second = tuner.tune_all(thetas, points, stopping=stopping)
    # The first one's late 0.9 comes after its end; the second has no two in a row.
    assert (first.steps, second.steps) == (4, 10) and len(seen) == 10
    for tuned, outputs in ((first, seen[2]), (second, seen[9])):
        np.testing.assert_allclose(tuner.outputs(tuned.params, points.x), outputs, atol=1e-5)


def test_a_group_ends_with_its_last_member(tiny, points, monkeypatch):
    seen = []

    def score_fn(outputs):
        seen.append(outputs)
        return np.nan

    tuner = tuner_of(tiny, "loop", steps=10)
    stopping = Stopping(points.x, score_fn, every=2, patience=1)
    (tuned,) = tuner.tune_all([Theta(0, 1e-2, 0.0, 0.1, 4)], points, stopping=stopping)
    assert tuned.steps == 2 and len(seen) == 2  # no score at all is no improvement


# Options


def test_layer_factors_by_hand(tiny):
    factors = layer_factors(tiny.params | {"output": {"bias": 0}}, 0.5)
    assert factors["output"] == {"bias": 1.0}
    assert set(jax.tree.leaves(factors["encoder"]["layer_1"])) == {0.5}
    assert set(jax.tree.leaves(factors["encoder"]["layer_0"])) == {0.25}
    assert set(jax.tree.leaves(factors["encoder"]["embeddings"])) == {0.125}


def test_layerwise_decay_scales_the_first_step(tiny, points):
    theta = Theta(0, 1e-2, 0.0, 0.0, 4)
    recipe = {"steps": 1, "dropout": 0.0}
    plain, decayed = (
        tuner_of(tiny, "loop", **recipe, layer_decay=decay).fit(theta, points)
        for decay in (1.0, 0.5)
    )
    moved = lambda params, *path: _at(params, path) - _at(tiny.params, path)
    for path, factor in (
        (("encoder", "layer_1", "feed_forward", "up", "kernel"), 0.5),
        (("encoder", "layer_0", "attention", "value", "kernel"), 0.25),
        (("encoder", "embeddings", "position", "embedding"), 0.125),
    ):
        assert np.abs(moved(plain, *path)).max() > 1e-3
        np.testing.assert_allclose(moved(decayed, *path), factor * moved(plain, *path), atol=1e-7)
    assert_close(plain["output"], decayed["output"], atol=1e-7)


def _at(tree, path):
    return tree if not path else _at(tree[path[0]], path[1:])


def test_classes_weigh_the_same(tiny):
    points = Points(np.full((4, 3), 7, np.int32), np.array([0, 0, 0, 1], np.int32))
    weights = tuner_of(tiny, "loop", balance=True).class_weights(points)
    np.testing.assert_allclose(weights, [4 / 6, 2])
    assert tuner_of(tiny, "loop").class_weights(points) is None
    batch = next(labelled_batches(points, Theta(0, 1e-3, 0, 0, 4), weights=weights))
    of_class = lambda k: batch["weights"][batch["labels"] == k].sum()
    assert of_class(0) == of_class(1) == 2


def test_columns_of_padding_are_not_trained_on():
    x = np.full((3, 40), 1)
    x[1, :17] = 9
    assert trimmed(x, 1).shape == (3, 32) and (trimmed(x, 1) == x[:, :32]).all()
    assert trimmed(x.reshape(3, 1, 40), 1).shape == (3, 1, 32)
    assert trimmed(x[:1], 1).shape == (1, 16)
    assert trimmed(x[:, :20], 1).shape == (3, 20)


@pytest.mark.parametrize(
    "recipe, message",
    [
        ({}, "give steps or epochs; got 0 and 0"),
        ({"steps": 3, "epochs": 1.0}, "give steps or epochs; got 3 and 1"),
        ({"steps": 3, "layer_decay": 0.0}, r"layer_decay must lie in \(0, 1\]; got 0"),
    ],
)
def test_settings_out_of_range_are_refused(recipe, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**recipe)


def test_epochs_are_steps_of_the_data_at_hand():
    recipe = Recipe(epochs=2.5)
    assert recipe.total_steps(Theta(0, 0, 0, 0, 4), rows=11) == 8  # 2.5 · 3, to the nearest even
    assert Recipe(steps=7).total_steps(Theta(0, 0, 0, 0, 4), rows=11) == 7

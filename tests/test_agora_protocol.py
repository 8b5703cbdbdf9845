# SPDX-License-Identifier: Apache-2.0
"""What keeps Agora honest: Socrates examined, classes balanced, nothing held out trained on, the
test scored once; tasks cast into binary ones."""

import json
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax

from bort_jax.agora import (
    Agora,
    Dataset,
    Guard,
    Leak,
    OneVsRest,
    Thresholds,
    Uncast,
    agora,
    assess,
    at_temperature,
    balance_classes,
    cache_labels,
    drop_unsure,
    fit_temperature,
    generator,
    grid,
    hard_labels,
    most_positive,
    score_once,
    start,
)
from bort_jax.agora.diagnostics import headroom, pool_distance, pool_size, weak_classes
from bort_jax.agora.socrates import largest_counts

# Socrates


def test_assess_gives_accuracy_and_what_chance_would_give():
    said, labels = np.array([0, 0, 1, 1, 1, 0] * 10), np.array([0, 0, 1, 1, 0, 1] * 10)
    got = assess(said, labels)
    assert got.accuracy == pytest.approx(4 / 6) and got.chance == pytest.approx(0.5, abs=0.01)
    assert got.acceptable and not got.random
    assert not assess(np.array([0, 1, 1]), np.array([0, 0, 0])).acceptable


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_socrates_who_knows_nothing_is_rarely_trusted(share):
    rng = np.random.default_rng(0)
    labels = (rng.random(100) < share).astype(int)
    trusted = [
        not assess((rng.random(100) < share).astype(int), labels, seed=k).random for k in range(60)
    ]
    assert np.mean(trusted) <= 0.1  # 5 % by the law
    assert assess(np.ones(100, int), labels).random  # constant, and right on most of it


@pytest.mark.parametrize("classes", [2, 3])
def test_an_acceptable_socrates_is_trusted(classes):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, 60)
    said = np.where(rng.random(60) < 0.75, labels, rng.integers(0, classes, 60))
    assert not assess(said, labels).random


def test_socrates_is_not_judged_on_nothing():
    with pytest.raises(ValueError, match="on 0 rows: at least 2"):
        assess(np.zeros(0, int), np.zeros(0, int))


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=9), max_size=5))
def test_a_remembered_socrates_says_the_same_and_is_asked_once_for_each_point(asked):
    seen = []

    def label(x):
        seen.extend(x[:, 0].tolist())
        return np.stack([x.sum(axis=1), x[:, 0] / 4], axis=1)

    again = cache_labels(label)
    for values in asked:
        x = np.array(values, int).reshape(-1, 1)
        np.testing.assert_array_equal(again(x), np.c_[x.sum(axis=1), x[:, 0] / 4])
    assert sorted(seen) == sorted({value for values in asked for value in values})


def test_a_certain_socrates_has_no_doubts():
    answers = hard_labels(lambda x: x // 2)(np.arange(4))
    assert answers.tolist() == [[1, 0], [1, 0], [0, 1], [0, 1]]


def test_fit_temperature_undoes_what_made_a_socrates_too_sure(rng):
    true = rng.normal(size=(4000, 3))
    labels = (true + rng.gumbel(size=true.shape)).argmax(axis=1)  # drawn from softmax(true)
    sure = softmax(3 * true, axis=1)
    assert fit_temperature(sure, labels) == pytest.approx(3, rel=0.1)
    softened = at_temperature(lambda x: x, 3.0)(sure)
    np.testing.assert_allclose(softened, softmax(true, axis=1), atol=1e-4)


def test_certain_answers_have_no_temperature(rng):
    labels = rng.integers(0, 2, 9)
    certain = np.eye(2)[1 - labels]
    assert fit_temperature(certain, labels) == 1  # all wrong, and still not softened
    mixed = np.concatenate([certain, [[0.1, 0.9]]])
    np.testing.assert_array_equal(at_temperature(lambda x: x, 2.0)(mixed)[:9], certain)


@given(st.lists(st.integers(0, 2), max_size=6), st.lists(st.integers(0, 2), max_size=6))
def test_append_of_certain_answers_is_a_set_of_hard_labels(given, told):
    points = lambda y: np.arange(len(y))[:, None]
    first = Dataset(points(given), np.array(given, np.int32))
    answers = np.eye(3)[np.array(told, int)]
    hard = first.append(Dataset.of_answers(points(told), answers))
    assert hard.targets is None and hard.y.tolist() == given + told
    unsure = Dataset.of_answers(points([1]), np.array([[0.2, 0.5, 0.3]]))
    soft = hard.append(unsure)
    assert soft.y.tolist() == [*given, *told, 1] and soft.y.dtype == np.int32
    np.testing.assert_allclose(soft.targets, [*np.eye(3)[hard.y], [0.2, 0.5, 0.3]], rtol=1e-6)
    assert soft.take(slice(len(given))).y.tolist() == given


# Checks beforehand


@pytest.mark.parametrize("socrates, plain, refused", [(0.82, 0.78, ""), (0.80, 0.78, "3 points")])
def test_headroom_refuses_a_socrates_who_is_hardly_ahead(socrates, plain, refused):
    found = headroom(socrates, plain)
    assert bool(found.problem) == bool(refused) and refused in found.problem
    assert f"{100 * (socrates - plain):+.1f} points" in found.number


def test_weak_classes_names_the_one_that_socrates_never_names():
    labels = np.array([0, 0, 1, 1, 2])
    sure = 0.1 + 0.8 * np.eye(3)[labels]
    assert not weak_classes(sure, labels, ("a", "b", "c")).problem
    sure[4] = [0.2, 0.2, 0.6]  # of c he is not sure
    found = weak_classes(sure, labels, ("a", "b", "c"))
    assert "never names c " in found.problem and found.number == "a 2, b 2, c 0"
    assert not weak_classes(sure[:4], labels[:4], ("a", "b", "c")).problem  # dev has no c


def test_pool_size_refuses_a_pool_that_can_be_labelled_as_a_whole():
    assert "label all of it" in pool_size(1400, 1000).problem
    assert not pool_size(1500, 1000).problem


@pytest.mark.parametrize("seed", range(5))
def test_pool_distance_refuses_a_pool_of_another_kind_and_only_that(seed):
    rng = np.random.default_rng(seed)
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
    kind = lambda n, center: unit(rng.normal(size=(n, 16)) + 3 * np.eye(16)[center])
    dev = kind(80, 0)
    assert not pool_distance(dev, kind(80, 0)).problem
    assert "wrong pool" in pool_distance(dev, kind(80, 1)).problem


def test_pool_distance_does_not_refuse_what_few_rows_show_by_chance():
    def rows(seed):
        rng = np.random.default_rng(seed)
        x = np.eye(24)[rng.integers(2, size=10)] + np.exp(
            rng.normal(-2.5, 1.5, (10, 1))
        ) * rng.normal(size=(10, 24))
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    refused = [bool(pool_distance(rows(k), rows(k + 1000)).problem) for k in range(40)]
    assert sum(refused) <= 3  # without an interval 7 or more


# Balance

counts = st.lists(st.integers(0, 6), min_size=2, max_size=3)


@given(counts, counts, st.floats(0, 1))
def test_the_most_is_kept_that_the_limits_allow(present, offered, drift):
    classes = min(len(present), len(offered))
    present, offered = np.array(present[:classes]), np.array(offered[:classes])
    limits = np.full(classes, 1 / classes + drift)

    def allowed(kept):
        total = present.sum() + sum(kept)
        return all(k == 0 or n + k <= limit * total + 1e-9
                   for k, n, limit in zip(kept, present, limits, strict=True))  # fmt: skip

    every = [kept for kept in product(*(range(n + 1) for n in offered)) if allowed(kept)]
    best = np.max(every, axis=0)  # the law: what is most is most in every class
    assert largest_counts(present, offered, limits=limits).tolist() == best.tolist()


@given(
    labels=st.lists(st.integers(0, 2), max_size=40),
    train=st.lists(st.integers(0, 2), min_size=3, max_size=30),
    drift=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_no_class_drifts_and_the_least_confident_go(labels, train, drift, seed):
    labels, train = np.array(labels, int), np.array(train)
    confidences = np.random.default_rng(seed).random(len(labels))
    shares = np.bincount(train, minlength=3) / len(train)
    kept = balance_classes(shares, max_class_shift=drift)(train, labels, confidences)
    after = np.concatenate([train, labels[kept]])
    assert (np.bincount(after, minlength=3) / len(after) <= shares + drift + 1e-9).all()
    for k in range(3):
        stay, go = (confidences[(labels == k) & part] for part in (kept, ~kept))
        assert not len(stay) or not len(go) or stay.min() >= go.max()
    if drift == 1:
        assert kept.all()


def test_balance_by_hand():
    keep = balance_classes(np.array([0.5, 0.5]), max_class_shift=0.0)
    confidences = np.array([0.6, 0.9, 0.7, 0.8])
    kept = keep(np.array([0, 1]), np.array([1, 1, 1, 0]), confidences)
    assert kept.tolist() == [False, True, False, True]
    wide = balance_classes(
        np.array([0.5, 0.5]), max_class_shift=0.1
    )  # 4 of 6: too many; 3 of 5 is 0.6
    assert wide(np.array([0, 1]), np.array([1, 1, 1, 0]), confidences).sum() == 3


@given(
    labels=st.lists(st.integers(0, 1), max_size=30),
    least=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_only_confident_labels_reach_the_balance(labels, least, seed):
    labels, train = np.array(labels, int), np.array([0, 0, 1])
    confidences = np.random.default_rng(seed).random(len(labels))
    keep = balance_classes(np.array([0.5, 0.5]), max_class_shift=0.2)
    kept, sure = (
        drop_unsure(keep, min_confidence=least)(train, labels, confidences),
        confidences >= least,
    )
    assert not kept[~sure].any()
    assert (kept[sure] == keep(train, labels[sure], confidences[sure])).all()
    for outside in (-0.1, 1.1):
        with pytest.raises(ValueError, match="must lie in"):
            drop_unsure(keep, min_confidence=outside)


@pytest.mark.parametrize("shares, drift", [([0.5, 0.6], 0.1), ([0.5, 0.5], -0.1), ([1, 0], 2)])
def test_wrong_shares_are_refused(shares, drift):
    with pytest.raises(ValueError, match="must sum to 1|must lie in"):
        balance_classes(np.array(shares, float), max_class_shift=drift)


def test_through_the_loop_classes_keep_their_shares():
    from bort_jax.agora import Window, ball_tau, euclidean

    rng = np.random.default_rng(0)
    x, dev = rng.normal(size=(40, 2)), rng.normal(size=(80, 2))
    y = np.arange(40) % 2
    calls = Agora(
        fit_fn=lambda thetas, data: thetas,
        score_fn=lambda model, dev: rng.random(80) > 0.5,
        generate_fn=generator(
            ball_tau(0.5), samples_per_error=3, window=Window(distance_fn=euclidean)
        ),
        # Few of class 1.
        label_fn=lambda x: hard_labels(lambda x: x[:, 0] > 1)(x) + 0.4 * rng.random((len(x), 1)),
        keep_fn=balance_classes(np.array([0.5, 0.5]), max_class_shift=0.05),
    )
    states = list(agora(start(Dataset(x, y), grid(a=[1, 2, 3])), Dataset(dev, dev), calls=calls))
    for state in states:
        assert abs(state.train.y.mean() - 0.5) <= 0.05 + 1e-9
        assert state.rounds[-1].refused["unsure or surplus label"] > 0
    assert len(states[-1].train.y) > 60


# Guards

TEXTS = np.array(["a cat", "a dog", "two cats", "A  Cat", "an owl"], dtype=object)
KEYS = lambda x: [" ".join(text.lower().split()) for text in x]


def test_a_guard_names_the_row():
    guard = Guard.of(KEYS, {"validation": TEXTS[[1]], "test": TEXTS[[4, 3]]})
    assert guard.leaks(TEXTS) == [
        (0, "test row 1"), (1, "validation row 0"), (3, "test row 1"), (4, "test row 0")
    ]  # fmt: skip
    with pytest.raises(Leak, match="train row 1 is also test row 1, as are 0 more of 2"):
        guard.check(Dataset(TEXTS[[2, 0]], np.zeros(2)))
    guard.check(Dataset(TEXTS[[2]], np.zeros(1)))


def test_nothing_is_fitted_to_a_train_set_that_leaks():
    guard, fitted = Guard.of(KEYS, {"test": TEXTS[[0]]}), []
    fit = guard.wrap(lambda thetas, data: fitted.append(data) or thetas)
    fit([()], Dataset(TEXTS[[1]], np.zeros(1)))
    with pytest.raises(Leak):
        fit([()], Dataset(TEXTS[[1, 3]], np.zeros(2)))
    assert len(fitted) == 1


def test_the_loop_stops_at_a_point_that_copies_dev():
    """A τ that is not held to `forbidden` makes one; the guard is the second line."""
    from bort_jax.agora import Generated, Origin

    x = np.arange(6.0)[:, None]
    guard = Guard.of(lambda x: list(x[:, 0]), {"validation": x})
    copy = lambda mistakes, rng: Generated(
        mistakes.x, Origin(mistakes.rows, ("copy",) * len(mistakes.rows), mistakes.x[:, 0],
                           mistakes.x[:, 0]),
    )  # fmt: skip
    calls = Agora(
        fit_fn=guard.wrap(lambda thetas, data: thetas),
        score_fn=lambda model, dev: np.arange(6) > 2,
        generate_fn=copy,
        label_fn=hard_labels(lambda x: np.zeros(len(x), int)),
    )
    first = start(Dataset(x[:2] + 0.5, np.zeros(2, int)), grid(a=[1, 2, 3], b=[1, 2]))
    states = agora(first, Dataset(x, np.zeros(6, int)), calls=calls)
    next(states)
    with pytest.raises(Leak, match="train row 2 is also validation row 0, as are 2 more of 5"):
        next(states)


def test_the_test_is_scored_once(tmp_path):
    asked = []
    score = lambda: asked.append(1) or {"test": [len(asked)]}
    assert score_once(tmp_path / "scores.json", score) == score_once(
        tmp_path / "scores.json", score
    )
    assert len(asked) == 1 and json.loads((tmp_path / "scores.json").read_text()) == {"test": [1]}

    def killed():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_once(tmp_path / "other.json", killed)
    assert not (tmp_path / "other.json").exists()


# Casting


def test_one_against_the_rest():
    cast = OneVsRest(("yes", "no", "maybe"), "no")
    assert cast(np.array([0, 1, 2, 1])).tolist() == [0, 1, 0, 1]
    assert cast.labels == ("not no", "no")
    with pytest.raises(ValueError, match="'perhaps' is not one of"):
        OneVsRest(("yes", "no"), "perhaps")


@given(st.lists(st.integers(0, 4), min_size=1, max_size=30))
def test_one_against_the_rest_loses_nothing(labels):
    classes, labels = tuple("abcde"), np.array(labels)
    sure = [OneVsRest(classes, name)(labels).astype(float) for name in classes]
    assert most_positive(sure).tolist() == labels.tolist()


def test_thresholds_cut_scores_into_classes():
    cast = Thresholds((1.5, 3.0))
    assert cast(np.array([0.0, 1.4, 1.5, 2.9, 3.0, 5.0])).tolist() == [0, 0, 1, 1, 2, 2]
    assert cast.labels == ("below 1.5", "1.5 to 3", "3 or more")
    for wrong in ((), (2.0, 2.0), (3.0, 1.0)):
        with pytest.raises(ValueError, match="must rise"):
            Thresholds(wrong)
    assert Uncast(("a", "b"))(np.array([1, 0])).dtype == np.int32

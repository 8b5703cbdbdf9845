# SPDX-License-Identifier: Apache-2.0
"""Agora's verdict, how sure it is, and the kept scores that it is read from."""

import numpy as np
import pytest
from scipy import stats

from bort_jax.stages.agora.curve import CurvePoint
from bort_jax.stages.agora.outcome import check_scores
from bort_jax.stages.agora.page import margin, verdict


def compared(plain, ours, rows=2000):
    return {"plain": {"test": plain}, "agora": {"test": ours}, "test_rows": rows}


def percent(*scores):
    return [score / 100 for score in scores]


# The three runs of docs/results.md, with its scores.
RUNS = [
    (percent(55.5, 59.3, 60.2), percent(62.2, 64.4, 68.9), 7.6),
    (percent(56.6, 57.7, 60.6), percent(50.0, 62.0, 67.5), 21.1),
    (percent(56.8, 50.0, 59.5), percent(57.1, 65.7, 62.7), 11.0),
]


@pytest.mark.parametrize("plain, ours, expected", RUNS)
def test_margin_of_three_seeds_is_by_students_t(plain, ours, expected):
    assert 100 * margin(compared(plain, ours)) == pytest.approx(expected, abs=0.06)
    assert "WITHIN chance" in verdict(compared(plain, ours))


def test_margin_by_hand():
    plain, ours, rows = np.array([0.5, 0.6]), np.array([0.7, 0.7, 0.76]), 400
    a, b = 0.005 / 2, 0.0012 / 3  # squared errors of the means
    freedom = (a + b) ** 2 / (a**2 / 1 + b**2 / 2)
    seeds = stats.t.ppf(0.975, freedom) * np.sqrt(a + b)
    test = 1.96 * np.sqrt((0.55 * 0.45 + 0.72 * 0.28) / rows)
    assert margin(compared(plain, ours, rows)) == pytest.approx(np.hypot(seeds, test), rel=1e-4)


def test_margin_of_one_side_without_a_spread_is_no_warning():
    plain, ours = [0.1 + 0.2, 0.3, 0.1 + 0.2], [0.5, 0.6, 0.7]  # alike but for rounding
    spread = stats.t.ppf(0.975, 2) * 0.1 / 3**0.5
    test = 1.96 * np.sqrt((0.3 * 0.7 + 0.6 * 0.4) / 400)
    assert margin(compared(plain, ours, 400)) == pytest.approx(np.hypot(spread, test), rel=1e-4)


@pytest.mark.parametrize("scores", [[0.5], [0.5, 0.5, 0.5]])
def test_margin_without_a_spread_is_that_of_the_test(scores):
    expected = 1.96 * (2 * 0.25 / 100) ** 0.5
    assert margin(compared(scores, scores, rows=100)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    "plain, ours, said",
    [
        (0.6, 0.7, "gains 10.0 points against plain fine-tuning on test, more than chance"),
        (0.7, 0.69, "LOSES 1.0 points against plain fine-tuning on test, WITHIN chance"),
        (0.7, 0.7, "gains 0.0 points against plain fine-tuning on test, WITHIN chance"),
    ],
)
def test_verdict_says_who_lost_and_whether_by_chance(plain, ours, said):
    assert said in verdict(compared([plain, plain], [ours, ours]))


def kept_scores():
    side = {"theta": {}, "train_rows": 9, "report": [0.5], "test": [0.25]}
    return {"test_rows": 4, "plain": side, "agora": dict(side)}


@pytest.mark.parametrize(
    "key, value",
    [
        ("test_rows", 0),
        ("test_rows", None),
        ("agora", {}),
        ("agora", {**kept_scores()["agora"], "test": []}),
        ("agora", {**kept_scores()["agora"], "report": [1.5]}),
        ("agora", {**kept_scores()["agora"], "report": ["0.5"]}),
        ("agora", {**kept_scores()["agora"], "theta": None}),
        ("plain", [0.5]),
    ],
)
def test_check_scores_refuses_what_compare_never_returned(key, value):
    check_scores(kept_scores())
    with pytest.raises((KeyError, TypeError, ValueError)):
        check_scores(kept_scores() | {key: value})


@pytest.mark.parametrize("split", ["report", "test"])
def test_check_scores_takes_the_nan_of_a_diverged_seed_and_no_infinity(split):
    scores = kept_scores()
    scores["agora"][split] = [0.5, float("nan")]
    assert check_scores(scores) is None
    scores["agora"][split] = [0.5, float("inf")]
    with pytest.raises(ValueError, match="inf.* are no accuracies"):
        check_scores(scores)


@pytest.mark.parametrize("damage", [{"calls": "3"}, {"scores": []}, {"scores": [None]}, {"of": 1}])
def test_curve_point_read_refuses_what_is_none(damage):
    point = {"calls": 3, "train_rows": 12, "scores": [0.5, 1]}
    assert CurvePoint.read(point).calls == 3
    with pytest.raises((TypeError, ValueError)):
        CurvePoint.read(point | damage)

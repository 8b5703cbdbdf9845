# SPDX-License-Identifier: Apache-2.0
"""The study's arms see what they may see and ask for no more; a study that was cut off goes on."""

import json
from typing import NamedTuple

import agora_study
import numpy as np
import pytest
import small_start
from study_arms import Ground, arms_of, score, socrates_answers
from study_sets import REGIMES, Table, draw_rows
from study_students import Probe

SIZES = dict(scarce=30, dev=40, test=60)


@pytest.fixture(scope="module")
def table():
    """Rows of two classes in a plane, and others far away."""
    rng = np.random.default_rng(0)
    own, others = rng.normal(size=(400, 2)), rng.normal(size=(300, 2)) + [0, 9]
    labels = np.concatenate([own[:, 0] + 0.3 * rng.normal(size=400) > 0, np.full(300, -1)])
    texts = [f"text {k}" for k in range(700)]
    return Table((texts,), labels.astype(np.int32), 2), np.concatenate([own, others])


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("seed", [2, 3])
def test_draw_rows_has_no_row_twice_and_socrates_never_saw_what_he_labels(regime, seed, table):
    draw = draw_rows(*table, regime, seed, **SIZES)
    every = np.concatenate(draw)
    assert len(set(every)) == len(every) and len(draw.scarce) == 30
    assert (table[0].labels[np.concatenate(draw[:4])] >= 0).all()
    assert (table[0].labels[draw.pool] < 0).any() == (regime == "mixed")
    other = draw_rows(*table, regime, 5 - seed, **SIZES)  # 2 and 3 share a division
    assert set(draw.test) == set(other.test) and set(draw.dev) == set(other.dev)
    assert not set(draw.taught) & set(other.taught)
    if regime == "patch":
        spread = lambda rows: table[1][rows].var(axis=0).sum()
        assert spread(draw.scarce) < spread(draw.dev)


def test_draw_rows_refuses_an_unknown_regime(table):
    with pytest.raises(ValueError, match="representative, patch, mixed; got 'odd'"):
        draw_rows(*table, "odd", 0, **SIZES)


class Counting(NamedTuple):
    """Socrates' answers, and the rows that they were asked for."""

    answers: np.ndarray
    asked: list

    def __getitem__(self, rows):
        self.asked.extend(rows.tolist())
        return self.answers[rows]


def ground_of(table, regime="mixed"):
    rows, vectors = table
    draw, student = draw_rows(rows, vectors, regime, 0, **SIZES), Probe(vectors, 2)
    return Ground(rows, vectors, draw, student, socrates_answers(rows, draw, student))


def test_socrates_answers_for_rows_that_he_did_not_learn(table):
    ground = ground_of(table)
    assert np.isnan(ground.answers[ground.draw.taught]).all()
    known = np.concatenate([ground.draw.test, ground.draw.dev, ground.draw.pool])
    np.testing.assert_allclose(ground.answers[known].sum(axis=1), 1, atol=1e-5)
    test = ground.draw.test
    assert (ground.answers[test].argmax(axis=1) == table[0].labels[test]).mean() > 0.8


def test_arms_ask_for_as_many_rows_of_the_pool_and_only_these(table):
    ground = ground_of(table)
    counting = Counting(ground.answers, [])
    for name, make in arms_of(ground._replace(answers=counting), 24).items():
        counting.asked.clear()
        train = make()
        wanted = {"plain": 0, "train + dev": 0, "true labels": 0}.get(name, 24)
        wanted = len(ground.draw.pool) if name == "whole pool" else wanted
        assert len(set(counting.asked)) == len(counting.asked) == wanted, name
        assert set(counting.asked) <= set(ground.draw.pool.tolist())
        added = {"train + dev": 40, "true labels": 24}.get(name, wanted)
        assert len(train.y) == 30 + added, name


def test_a_probe_is_taught_by_soft_labels(table):
    ground = ground_of(table, "representative")
    train = ground.asked(ground.draw.pool)
    assert train.targets is not None
    assert score(ground, train) > 0.8


def test_report_compares_finished_draws(tmp_path, capsys):
    settings = agora_study.Settings("", "", tasks=("a/b",), regimes=("patch",), calls=(9,))
    names = {name for pair in agora_study.PAIRS for name in pair}
    for seed in range(3):
        draw = {"9": {name: 0.5 + seed / 100 + (name == "Agora") / 10 for name in names}}
        file = tmp_path / "a-b" / f"patch-{seed}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(draw))
    agora_study.report(tmp_path, settings)
    found = {"a/b": list(agora_study.scores(tmp_path, "a/b", "patch", 9))}
    rows = list(agora_study.gain_rows(found))
    assert rows[0] == ("Agora − pool at random", "+10.0 ± 0.0", "+10.0 ± 0.0")
    assert dict(agora_study.mean_rows(found))["Agora"] == "61.0"
    assert "patch, 9 calls" in capsys.readouterr().out


def test_a_small_start_has_the_larger_ones_words(tiny):
    from bort_jax import Arch

    made = small_start.small_start(tiny, Arch(1, 2, 8, 12), positions=16, seed=0)
    assert made.head == "masked_lm" and made.config.positions == 16
    theirs, ours = small_start.word_table(tiny), small_start.word_table(made)
    # The best plane of 8 dimensions keeps what the 8 largest singular values hold.
    values = np.linalg.svd(theirs - theirs.mean(axis=0), compute_uv=False) ** 2
    kept = (
        np.var(small_start.project_on_axes(theirs, 8), axis=0).sum() / np.var(theirs, axis=0).sum()
    )
    assert kept == pytest.approx(values[:8].sum() / values.sum(), rel=1e-4)
    scale = ours.std() / small_start.project_on_axes(theirs, 8).std()
    np.testing.assert_allclose(ours, scale * small_start.project_on_axes(theirs, 8), atol=1e-6)
    with pytest.raises(ValueError, match="wider"):
        small_start.small_start(tiny, Arch(1, 2, 32, 12), positions=16, seed=0)

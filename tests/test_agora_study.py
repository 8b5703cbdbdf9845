# SPDX-License-Identifier: Apache-2.0
"""The study's arms see what they may see and no more, and a study that was cut off goes on."""

import json
import shutil
from pathlib import Path
from zipfile import ZipFile

import agora_study
import numpy as np
import pytest
import small_start
from helpers import SENTENCES
from study_report import ARMS, SPLITS
from study_sets import draw_scarce
from task_rows import unlabelled, write_rows

from bort_jax.agora import Dataset
from bort_jax.interop import load, save
from bort_jax.tasks import Points

TASK = "glue/rte"


def rows_of(split: str, count: int) -> list[dict]:
    """Rows whose label is whether `moon` stands in them; no text in two splits."""
    words, rng = sorted(set(" ".join(SENTENCES).split())), np.random.default_rng(len(split))
    text = lambda k, label: " ".join([split, str(k), *rng.choice(words, 8), *["moon"] * label])
    made = [(k, text(k, k % 2), text(k, 0), k % 2) for k in range(count)]
    return [{"sentence1": a, "sentence2": b, "label": y, "idx": k} for k, a, b, y in made]


@pytest.fixture(scope="module")
def settings(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    for split, count in (("train", 90), ("validation", 30), ("test", 7)):
        hide = unlabelled if split == "test" else list
        write_rows(folder / "data" / TASK / f"{split}.parquet", hide(rows_of(split, count)))
    save(tiny, folder / "model")
    return agora_study.Settings(
        str(folder / "data"),
        timaeus=str(folder / "model"),
        socrates=str(folder / "model"),
        out=str(folder / "out"),
        tasks=(TASK,),
        seeds=2,
        first_seed=3,
        rows=20,
        seq_len=32,
        steps=2,
        batch_size=4,
        socrates_steps=2,
        samples_per_error=2,
        correct_per_error=1.0,
        replays=1,
        min_confidence=0.0,
    )


def test_no_theta_is_fitted_to_the_scarce_rows_twice():
    scarce, larger = (Dataset(np.arange(n), np.zeros(n, int)) for n in (3, 4))
    fitted = []

    def fit_fn(thetas, train):
        fitted.extend((theta, len(train.y)) for theta in thetas)
        return [f"{theta} on {len(train.y)}" for theta in thetas]

    fit = agora_study.reuse_fits(fit_fn, scarce)
    assert list(fit([1, 2], scarce)) == ["1 on 3", "2 on 3"]
    assert list(fit([2], larger)) == list(fit([2], larger)) == ["2 on 4"]
    assert list(fit([2, 3, 1], scarce)) == ["2 on 3", "3 on 3", "1 on 3"]
    assert fitted == [(1, 3), (2, 3), (2, 4), (2, 4), (3, 3)]


def test_the_scarce_rows_are_balanced_and_leave_the_rest(rng):
    labels = rng.permutation([0] * 70 + [1] * 30).astype(np.int32)
    usable = Points(np.arange(100)[:, None], labels)
    scarce, rest = draw_scarce(usable, 40, rng)
    assert np.bincount(scarce.y).tolist() == [20, 20]
    assert sorted([*scarce.x[:, 0], *rest.x[:, 0]]) == list(range(100))
    np.testing.assert_array_equal(labels[scarce.x[:, 0]], scarce.y)
    few, _ = draw_scarce(usable, 80, rng)  # a class with too few gives all it has
    assert np.bincount(few.y).tolist() == [50, 30]


def test_nothing_that_is_scored_can_be_trained_on(settings):
    tokenizer = load(settings.timaeus).required_tokenizer
    ground = agora_study.read_ground(TASK, tokenizer, settings)
    keys = ground.guard.keys_fn
    scored = {key for _, x in ground.scored.values() for key in keys(x)}
    usable, steer = set(keys(ground.usable.x)), set(keys(ground.steer.x))
    assert not usable & scored and not usable & steer and not steer & scored
    assert set(ground.scored) == {"held-out", "report-dev", "test"}
    assert not ground.scored["test"][0].has_labels


def test_plain_has_as_many_runs_as_it_is_given_and_keeps_the_best(settings):
    asked = []

    def fit(thetas, train):
        asked.extend(thetas)
        return iter(range(len(thetas)))

    calls = agora_study.Agora(fit, lambda k, dev: dev.y <= (k * 7) % 5, None, None)
    dev = Dataset(np.zeros((5, 1)), np.arange(5))
    best = agora_study.best_of(5, dev, dev, calls=calls, settings=settings)
    assert len(set(asked)) == 5
    assert best.copy.accuracy == max((k * 7 % 5 + 1) / 5 for k in range(5))
    rates = {dict(theta)["learning_rate"] for theta in asked}
    assert rates == set(settings.learning_rates)


@pytest.mark.slow
def test_run_from_end_to_end_and_after_it_was_cut_off(settings):
    agora_study.run(settings)
    out = Path(settings.out)
    socrates = out / TASK.replace("/", "-") / "socrates" / "model.safetensors"
    learned = socrates.stat().st_mtime_ns
    files = [out / TASK.replace("/", "-") / f"seed-{k}.json" for k in (3, 4)]
    first = [json.loads(file.read_text()) for file in files]
    for found in first:
        assert set(found["arms"]) == set(ARMS)
        rows = {arm: scores["rows"] for arm, scores in found["arms"].items()}
        assert rows["plain"] == 20
        assert rows["Agora"] == rows["random"] == 20 + found["budget"]
        assert rows["dev appended"] > 20
        runs = [len(r["accuracies"]) for r in found["rounds"]]
        assert found["spent"] == sum(runs) and runs.count(max(runs)) == 2  # a replay has all of Θ
        assert found["rounds"][0]["added"] > 0
        for scores in found["arms"].values():
            assert all(0 <= v <= 1 for split in SPLITS for v in scores[split].values())
    zips = sorted((out / "submissions").rglob("glue.zip"))
    assert len(zips) == 2 * len(ARMS)
    assert ZipFile(zips[0]).namelist() == ["RTE.tsv"]
    assert (out / "gains-held-out.png").stat().st_size > 5000
    files[1].unlink()
    shutil.rmtree(out / "submissions")
    agora_study.run(settings)
    assert socrates.stat().st_mtime_ns == learned  # he is read, not trained again
    assert [json.loads(file.read_text()) for file in files] == first
    assert len(list((out / "submissions").rglob("glue.zip"))) == len(zips)


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

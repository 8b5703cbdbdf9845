# SPDX-License-Identifier: Apache-2.0
"""A compression from end to end, in its smallest form: it resumes, and says what it found."""

import json
import shutil
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from task_rows import rows_of_task, write_rows

from bort_jax.interop import read, save
from bort_jax.ose import Budget
from bort_jax.stages.compress.config import (
    AgoraStage,
    Config,
    Pipeline,
    QuickstartConfig,
    SearchStage,
    TuneStage,
    ceilings,
    compress_config,
)
from bort_jax.stages.compress.inside import budget_within
from bort_jax.stages.compress.run import run, seconds, time_stage
from bort_jax.stages.compress.table import (
    AGORA,
    COUNTS,
    EXPLAINED,
    PARENT,
    PLAIN,
    REFITTED,
    STUDENT,
    Line,
    row_scores,
    verdict,
)
from bort_jax.stages.extract.parent.result import read_result
from bort_jax.tasks import Task, TaskOptions

QUICK = TuneStage(steps=4, batch_size=8, learning_rate=1e-3)


@pytest.fixture(scope="module")
def rows(text_file, tmp_path_factory):
    """Rows whose first word decides, and unlabelled texts beside them."""
    folder = tmp_path_factory.mktemp("rows")
    lines = text_file.read_text().splitlines()
    for split, (start, count) in {
        "train": (0, 40),
        "validation": (40, 40),
        "test": (80, 40),
    }.items():
        part = [
            json.dumps({"text": f"{'good' if k % 2 else 'bad'} {line}", "label": k % 2})
            for k, line in enumerate(lines[start : start + count])
        ]
        (folder / f"{split}.jsonl").write_text("\n".join(part))
    pool = [json.dumps({"text": line}) for line in lines[200:360]]
    (folder / "pool.jsonl").write_text("\n".join(pool))
    return folder


@pytest.fixture(scope="module")
def config(rows, small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compress")
    return Config(
        parent=str(save(small, folder / "parent")),
        data=str(rows),
        unlabelled=str(rows / "pool.jsonl"),
        out=str(folder / "run"),
        seq_len=16,
        share=0.8,
        vocab=small.config.vocab_size - 5,
        tune=QUICK,
        distil=QUICK,
        search=SearchStage(heads=(1,), intermediate=(8,), calibration_rows=128),
        scarce=0,
        agora=AgoraStage(
            steps=2, seeds=(0,), final_seeds=(1, 2), calls=16, allow_weak_socrates=True
        ),
    )


@pytest.fixture(scope="module")
def finished(config):
    return run(config)


def test_a_compression_ends_with_every_model_in_one_table(config, finished):
    out = Path(config.out)
    names = [model["name"] for model in finished["models"]]
    assert names == [PARENT, REFITTED, PLAIN, STUDENT, COUNTS]
    parent, student = (
        next(model for model in finished["models"] if model["name"] == name)
        for name in (PARENT, STUDENT)
    )
    assert student["macs"] < parent["macs"] and student["params"] < parent["params"]
    made = read(out / "model")
    assert made.labels == ("0", "1")
    assert made.config.vocab_size == made.required_tokenizer.vocab_size == config.vocab
    assert "<svg" in (out / "report.html").read_text()
    assert json.loads((out / "results.json").read_text())["verdict"] == finished["verdict"]


def test_a_compression_goes_on_where_it_ended(config, finished):
    out = Path(config.out)
    kept = [out / "parent" / "results.json", out / "extract" / "parent.json"]
    before = [file.stat().st_mtime_ns for file in kept]
    shutil.rmtree(out / "plain")
    for name in ("scores.json", "results.json"):
        (out / name).unlink()
    again = run(config)
    assert [file.stat().st_mtime_ns for file in kept] == before
    of_rows = lambda results: [(m["name"], m["accuracy"]) for m in results["models"]]
    assert of_rows(again) == of_rows(finished)


def test_the_table_is_what_the_scores_say(config, finished):
    file = Path(config.out) / "scores.json"
    scores = json.loads(file.read_text())
    for line in scores["lines"]:
        line["correct"] = [1, 0] * (len(line["correct"]) // 2)
    file.write_text(json.dumps(scores))
    assert {model["accuracy"] for model in run(config)["models"]} == {50.0}


@pytest.mark.slow
def test_where_labels_are_scarce_agora_has_the_last_word(config, tmp_path):
    found = run(replace(config, scarce=1000, out=str(tmp_path / "run")))
    assert AGORA in [model["name"] for model in found["models"]]
    assert STUDENT in found["gaps_of_student"]


EVERY = [PARENT, REFITTED, PLAIN, STUDENT, COUNTS]


def rewrite(rows, folder, change):
    """The rows of every file, changed."""
    for file in rows.glob("*.jsonl"):
        changed = [change(json.loads(line)) for line in file.read_text().splitlines()]
        (folder / file.name).write_text("\n".join(map(json.dumps, changed)))


@pytest.mark.slow
def test_pairs_are_compressed_too(config, rows, tmp_path):
    rewrite(rows, tmp_path, lambda row: row | {"one": row["text"], "two": row["text"][::-1]})
    more = {"data": str(tmp_path), "unlabelled": str(tmp_path / "pool.jsonl")}
    found = run(replace(config, columns=("one", "two"), out=str(tmp_path / "run"), **more))
    assert [model["name"] for model in found["models"]] == EVERY


@pytest.mark.slow
def test_scores_are_compressed_too_and_their_model_is_a_parent(config, rows, tmp_path):
    rewrite(rows, tmp_path, lambda row: row | {"label": 1.5 + 3 * row.get("label", 0)})
    scored = replace(config, data=str(tmp_path), head="regression", labels=("0", "5"))
    found = run(replace(scored, out=str(tmp_path / "run"), scarce=1000))
    assert [model["name"] for model in found["models"]] == EVERY
    assert {model["measure"] for model in found["models"]} == {EXPLAINED}
    assert read(tmp_path / "run" / "model").problem == "regression"
    again = replace(scored, parent=str(tmp_path / "run" / "parent" / "model"), vocab=None)
    run(replace(again, out=str(tmp_path / "again")))
    with pytest.raises(ValueError, match="the parent's labels are score, the task's 0, 1"):
        run(
            replace(
                again, data=config.data, head="classification", labels=(), out=str(tmp_path / "no")
            )
        )


@pytest.mark.slow
def test_choices_are_compressed_too(config, tmp_path):
    for split in ("train", "validation"):
        rows = [row | {"label": k % 2} for k, row in enumerate(32 * rows_of_task("superglue/copa"))]
        write_rows(tmp_path / "superglue" / "copa" / f"{split}.jsonl", rows)
    copa = dict(data="", task="superglue/copa", data_dir=str(tmp_path), unlabelled="")
    found = run(replace(config, out=str(tmp_path / "run"), **copa))
    assert [model["name"] for model in found["models"]] == [PARENT, REFITTED, PLAIN, STUDENT]
    assert read(tmp_path / "run" / "model").problem == "choice"


def test_row_scores_average_to_the_share_of_variance_explained():
    labels, scale = (
        np.array([1.0, 2.0, 3.0, 4.0]),
        Task(("text",), "label", ("0", "5"), head="regression"),
    )
    assert np.mean(row_scores(labels, labels, scale)) == 1
    assert np.mean(row_scores([2.5] * 4, labels, scale)) == 0
    classes = Task(("text",), "label", ("a", "b"))
    assert row_scores([0, 1], np.array([0, 0]), classes) == [1, 0]


def test_a_dry_run_writes_nothing_and_says_the_ceiling(config, tmp_path, capsys):
    asked = replace(config, out=str(tmp_path / "none"), scarce=1000, max_params=1e6)
    planned = run(replace(asked, dry_run=True))
    assert not (tmp_path / "none").exists()
    assert "the student: params ≤ 1e+06" in " ".join(" ".join(capsys.readouterr()).split())
    assert planned["bytes"] > 0 and {"extract inside it", "few labels"} <= planned["minutes"].keys()


def test_a_parent_of_other_labels_is_refused(config, finished, tmp_path):
    other = read(Path(config.out) / "parent" / "model")
    save(replace(other, labels=("yes", "no")), tmp_path / "other")
    with pytest.raises(ValueError, match="the parent's labels are yes, no, the task's 0, 1"):
        run(replace(config, parent=str(tmp_path / "other"), out=str(tmp_path / "run")))


def gpt(parent: Path) -> None:
    made = json.loads((parent / "config.json").read_text())
    (parent / "config.json").write_text(json.dumps(made | {"model_type": "gpt2"}))


@pytest.mark.parametrize(
    "damage, options, told",
    [
        (gpt, {}, "expected model_type bert or roberta"),
        (lambda parent: (parent / "tokenizer.json").unlink(), {}, "has no tokenizer"),
        (None, {"search": SearchStage(calibration_rows=500)}, "holds 160 texts, and 500 calib"),
        (None, {"seq_len": 64}, "the parent has 32 positions"),
        (None, {"labels": ("0", "1", "1")}, "labels must differ"),
        (None, {"label": "stars"}, "stars"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_trained(config, tmp_path, damage, options, told):
    parent = shutil.copytree(config.parent, tmp_path / "parent")
    if damage:
        damage(parent)
    changed = replace(config, parent=str(parent), out=str(tmp_path / "run"), **options)
    with pytest.raises(ValueError, match=told):
        run(changed)
    assert not (tmp_path / "run" / "parent").exists()


def test_compress_config_hands_every_setting_on():
    config = QuickstartConfig(seed=7, share=0.5, tune=QUICK)
    made = compress_config(config, Path("data"))
    for field in fields(Pipeline):
        if field.name != "out":
            assert getattr(made, field.name) == getattr(config, field.name)
    assert {field.name for field in fields(TaskOptions)} <= {field.name for field in fields(made)}


def line(name: str, right: float) -> Line:
    """A model that has this share of 1,000 rows right."""
    correct = (np.arange(1000) < 1000 * right).astype(int).tolist()
    return Line(name, correct, 10, 100 if name == PARENT else 25, 1.0, 40)


@pytest.mark.parametrize(
    "right, words",
    [(0.8, ("Better than counting", "Better than plain")), (0.7, ("WORSE", "NOT shown"))],
)
def test_verdict_says_what_the_numbers_say(right, words):
    found = verdict(
        [line(PARENT, 0.82), line(COUNTS, 0.75), line(PLAIN, 0.7), line(STUDENT, right)]
    )
    assert "25% of its parent's encoder" in found[0] and "points below it" in found[0]
    assert [text.startswith(word) for text, word in zip(found[1:], words, strict=True)] == [
        True
    ] * 2


def test_budget_within_is_what_was_given_or_a_share(config, finished):
    run = Path(config.out) / "extract"
    whole = read_result(run)[0].whole["macs"]
    assert budget_within(run, share=0.5, ceilings={}) == Budget({"macs": 0.5 * whole})
    given = ceilings(replace(config, max_params=9, max_latency_ms=5))
    wanted = Budget({"params": 9.0, "latency_ms": 5.0})
    assert budget_within(run, share=0.5, ceilings=given) == wanted


def test_time_stage_adds_to_the_seconds_of_an_interrupted_run(tmp_path):
    with pytest.raises(KeyboardInterrupt), time_stage("one", tmp_path):
        raise KeyboardInterrupt
    first = seconds(tmp_path)["one"]
    with time_stage("one", tmp_path):
        pass
    assert seconds(tmp_path)["one"] > first > 0

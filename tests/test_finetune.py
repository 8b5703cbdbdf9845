# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning of every task: a step, scores and a submission from five rows; one command for many
tasks; stock classes of the heads."""

import json
import os
import zipfile
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from command_line import together
from task_rows import write_data

from bort_jax.cli import main
from bort_jax.interop import hf_class, load, save
from bort_jax.model import (
    Classifier,
    head_loss,
    random_params,
    row_outputs,
)
from bort_jax.stages.finetune.config import Config, one_of_many
from bort_jax.stages.finetune.tuner import FineTuner, Theta
from bort_jax.stages.predict.outputs import scores_of
from bort_jax.tasks import TASKS, Points, decide, find_task, read_task
from bort_jax.tasks.submission import submission_lines

DATA = Path(os.environ.get("BORT_JAX_DATA", "no such folder"))
THETA = Theta(0, 1e-3, 0.01, 0.0, 2)
TRAINED = [task for task in TASKS.values() if task.rows[0]]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"), ending=".jsonl")


@pytest.fixture(scope="module")
def tuners(small):
    """One tuner, and so one compilation, for tasks of one form."""
    made = {}

    def tuner_of(task) -> FineTuner:
        form = task.head, task.outputs
        if form not in made:
            made[form] = FineTuner.of(small, task.labels, head=task.head, steps=1)
        return replace(made[form])

    return tuner_of


def one_step(task, folder, tuner) -> tuple[dict, list[str]]:
    """Scores on validation and the submission's lines, after a step on the train split."""

    def few(name):
        examples = read_task(task, folder, name)
        return examples.take(range(min(30, len(examples.texts))))

    tokenizer = tuner.start.required_tokenizer
    encode = lambda examples: examples.encode(tokenizer, seq_len=16)
    params = tuner.fit(THETA, encode(few("train")))
    dev, test = few("validation"), few("test")
    scores = scores_of(tuner.outputs(params, encode(dev).x), task, examples=dev)
    outputs = tuner.outputs(params, encode(test).x)
    return scores, submission_lines(decide(outputs, task, examples=test), task, examples=test)


@pytest.mark.parametrize("task", TRAINED, ids=lambda task: task.reference)
def test_every_task_trains_scores_and_submits_from_five_rows(task, data, tuners):
    scores, lines = one_step(task, data, tuners(task))
    assert scores.keys() == set(task.metrics) and all(map(np.isfinite, scores.values()))
    assert lines


@pytest.mark.skipif(not DATA.is_dir(), reason="BORT_JAX_DATA names no folder of real data")
@pytest.mark.parametrize(
    "reference",
    ["glue/stsb", "superglue/copa", "race/middle", "superglue/record_tiny", "superglue/multirc"],
)
def test_real_rows_train_score_and_submit(reference, tuners):
    task = find_task(reference)
    scores, lines = one_step(task, DATA, tuners(task))
    assert scores.keys() == set(task.metrics) and lines


# Losses by hand


def batch_of(labels, rows, weights):
    ids = np.full((*rows, 4), 7, np.int32)
    ids[..., 2] = np.arange(ids[..., 2].size).reshape(rows) + 10
    return {"ids": ids, "labels": np.array(labels), "weights": np.array(weights, np.float32)}


def test_regression_is_the_squared_error(small):
    model = Classifier(small.config, 1)
    params = random_params(model, seed=0)
    batch = batch_of([1.5, -2.0, np.nan], (3,), [1, 0.5, 0])
    sums = head_loss(model, "regression", pad=1)(params, batch, None)
    values = np.asarray(row_outputs(model, params, batch["ids"], pad=1))[:, 0]
    by_hand = (values[0] - 1.5) ** 2 + 0.5 * (values[1] + 2) ** 2
    np.testing.assert_allclose(sums["loss"], by_hand, rtol=1e-5)
    assert float(sums["count"]) == 1.5


def test_choice_is_the_softmax_over_the_rows_of_a_question(small):
    model = Classifier(small.config, 1)
    params = random_params(model, seed=0)
    batch = batch_of([2, 0], (2, 3), [1, 1])
    sums = head_loss(model, "choice", pad=1)(params, batch, None)
    values = np.asarray(row_outputs(model, params, batch["ids"], pad=1), np.float64)[..., 0]
    assert np.ptp(values) > 0
    chances = np.exp(values) / np.exp(values).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(sums["loss"], -np.log(chances[[0, 1], [2, 0]]).sum(), rtol=1e-5)


@pytest.mark.parametrize("head, shape", [("classification", (2,)), ("choice", (2, 3))])
def test_head_loss_takes_soft_labels(head, shape, small):
    model = Classifier(small.config, 3 if head == "classification" else 1)
    params = random_params(model, seed=0)
    batch = batch_of([2, 0], shape, [1, 1])
    loss = lambda **more: head_loss(model, head, pad=1)(params, batch | more, None)["loss"]
    certain = np.eye(3, dtype=np.float32)[[2, 0]]
    assert loss(targets=certain) == loss()
    assert loss(targets=0.7 * certain + 0.1) != loss()


def test_an_unknown_head_is_told(small):
    with pytest.raises(ValueError, match="one of classification, regression, choice; got 'rank'"):
        FineTuner.of(small, ("a",), head="rank", steps=1)


def test_a_regression_and_a_choice_are_learnt(small):
    """A token says the answer; both heads find it, on rows that they were trained on."""
    rng = np.random.default_rng(0)
    x = rng.integers(5, 250, (8, 12)).astype(np.int32)
    y = np.linspace(-1, 1, 8).astype(np.float32)
    theta = Theta(0, 1e-2, 0.0, 0.1, 8)
    tuner = FineTuner.of(small, (), head="regression", steps=80, dropout=0.0)
    predicted = tuner.predict(tuner.fit(theta, Points(x, y)), x)
    assert np.abs(predicted - y).max() < 0.25
    tuner = FineTuner.of(small, (), head="choice", steps=80, dropout=0.0)
    questions = Points(x.reshape(4, 2, 12), np.array([0, 1, 1, 0], np.int32))
    assert tuner.accuracy(tuner.fit(theta, questions), questions) == 1.0


# Stock classes


@pytest.mark.parametrize("family", ["bert", "roberta"])
@pytest.mark.parametrize("head", ["regression", "choice"])
def test_heads_with_one_output_read_back_and_load_in_stock_classes(small, head, family, tmp_path):
    params = random_params(Classifier(small.config, 1), seed=3)
    names = {"regression": ("score",), "choice": ("choice",)}[head]
    ours = replace(small, params=params, labels=names, problem=head, family=family)
    back = load(save(ours, tmp_path))
    assert back.problem == head and back.labels == names and back.head == ours.head
    ids = np.random.default_rng(0).integers(5, 250, (4, 12)).astype(np.int32)
    expected = np.asarray(row_outputs(back.model, back.params, ids, pad=1))
    np.testing.assert_array_equal(expected, row_outputs(ours.model, params, ids, pad=1))
    torch = pytest.importorskip("torch", reason="needs the parity extra")
    import transformers

    stock = getattr(transformers, hf_class(ours)).from_pretrained(tmp_path).eval()
    stock_ids = torch.tensor(ids.reshape(2, 2, 12) if head == "choice" else ids).long()
    with torch.no_grad():
        logits = stock(stock_ids).logits.numpy()
    np.testing.assert_allclose(logits.reshape(4, 1), expected, atol=1e-5)
    assert json.loads((tmp_path / "config.json").read_text()).get("problem_type") == (
        "regression" if head == "regression" else None
    )


# The command


@pytest.fixture(scope="module")
def model(small, tmp_path_factory):
    return save(small, tmp_path_factory.mktemp("model"))


OPTIONS = "--steps 2 --seq-len 16 --dropout 0.0 --batch-sizes [2]"


@pytest.mark.slow
def test_many_tasks_then_evaluate_and_submit(model, data, tmp_path, capsys):
    """A number and classes, with two seeds each, in one command; the zips are valid."""
    tasks = ("glue/stsb", "superglue/wic")
    main(
        f"""finetune --tasks [{",".join(tasks)}] --data-dir {data} --model {model} --seeds [0,1]
        --learning-rates [1e-3,1e-2] {OPTIONS} --out {tmp_path}/runs""".split()
    )
    results = json.loads((tmp_path / "runs/results.json").read_text())
    assert results.keys() == set(tasks)
    for found in results.values():
        assert len(found["runs"]) == 4 and [row["seeds"] for row in found["by_set"]] == [2, 2]
        best = found["by_set"][0]
        of_best = [
            run["validation"]
            for run in found["runs"]
            if run["theta"]["learning_rate"] == best["learning_rate"]
        ]
        assert best["mean"] == pytest.approx(np.mean(of_best))
        assert best["std"] == pytest.approx(np.std(of_best, ddof=1))
        assert found["best_validation"] == max(run["validation"] for run in found["runs"])
    said = " ".join(capsys.readouterr().out.split())
    assert "submit --models '[glue/stsb=" in said and (tmp_path / "runs/report.html").is_file()
    for reference in tasks:
        folder = tmp_path / "runs" / reference.replace("/", "-")
        file = data / reference / "validation.jsonl"
        main(
            f"""evaluate --task {reference} --model {folder}/model --data {file} --seq-len 16
            --out {tmp_path}/scores""".split()
        )
        scores = json.loads((tmp_path / "scores/scores.json").read_text())
        expected = results[reference]["best_validation"]
        assert np.mean(list(scores.values())) == pytest.approx(expected)
    models = ",".join(f"{t}={tmp_path}/runs/{t.replace('/', '-')}/model" for t in tasks)
    main(
        f"""submit --models [{models}] --data-dir {data} --partial --seq-len 16
        --out {tmp_path}/out""".split()
    )
    assert zipfile.ZipFile(tmp_path / "out/glue.zip").namelist() == ["STS-B.tsv"]
    assert zipfile.ZipFile(tmp_path / "out/superglue.zip").namelist() == ["WiC.jsonl"]


@pytest.mark.slow
def test_run_compares_what_it_wrote_with_stock(model, tmp_path, capsys, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.delenv("BORT_JAX_UNCOMPARED")
    for split in ("train", "validation"):
        rows = [{"text": f"the cat {k}", "label": k % 2} for k in range(4)]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    argv = ["finetune", "--model", model, "--data", tmp_path, "--out", tmp_path / "out"]
    main([str(word) for word in [*argv, "--steps", 1, "--seq-len", 16]])
    said = capsys.readouterr().out
    assert "token ids from stock transformers equal ours in 4 texts; logits from stock" in said


def test_finish_runs_does_no_run_twice(model, data, tmp_path, capsys):
    argv = f"""finetune --task glue/rte --data-dir {data} --model {model} --seeds [0,1,2,3]
        {OPTIONS} --out {tmp_path}""".split()
    main(argv)
    straight = json.loads((tmp_path / "results.json").read_text())
    records = json.loads((tmp_path / "runs.json").read_text())
    # As a kill after the second run leaves the folder.
    (tmp_path / "runs.json").write_text(json.dumps(records[:2]))
    (tmp_path / "results.json").unlink()
    capsys.readouterr()
    main(argv)
    said = capsys.readouterr().out
    assert "4 runs, 2 done" in said and "3 of 4" in said and "2 of 4" not in said
    assert json.loads((tmp_path / "results.json").read_text()) == straight
    main(argv)
    said = capsys.readouterr().out
    assert "is finished; its results" in said and "of 4" not in said


@pytest.mark.slow
def test_processes_share_the_runs_and_one_keeps_them(model, data, tmp_path):
    """Five runs over three processes, with early stopping, are those of one process."""
    argv = f"""finetune --task glue/rte --data-dir {data} --model {model} --seeds [0,1,2,3,4]
        {OPTIONS} --steps 6 --patience 1 --eval-every 2 --out""".split()
    main([*argv, str(tmp_path / "alone")])
    said, *others = together([*argv, str(tmp_path / "shared")], processes=3)
    alone, shared = (
        json.loads((tmp_path / name / "results.json").read_text()) for name in ("alone", "shared")
    )
    assert shared == alone and others == ["", ""] and "5 of 5" in said
    one, other = (load(tmp_path / name / "model").params for name in ("alone", "shared"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), one, other)


def test_early_stopping_keeps_the_best_evaluation(model, data, tmp_path):
    main(
        f"""finetune --task glue/rte --data-dir {data} --model {model} --steps 40 --seq-len 16
        --batch-sizes [2] --dropout 0.0 --learning-rates [3e-2] --patience 2 --eval-every 2
        --out {tmp_path}""".split()
    )
    (run,) = json.loads((tmp_path / "results.json").read_text())["runs"]
    assert run["steps"] % 2 == 0 and run["steps"] < 40
    assert f"{run['steps']} steps of 2 rows" in (tmp_path / "model/README.md").read_text()


def finetuned(data, model, out, *more):
    main(f"finetune --data {data} --model {model} {OPTIONS} --out {out}".split() + [*more])
    return json.loads((out / "results.json").read_text())


@pytest.fixture(scope="module")
def mostly_no(tmp_path_factory):
    """Rows of which seven in ten have the first class: what a guess of it would score."""
    folder = tmp_path_factory.mktemp("mostly_no")
    rows = [{"text": f"the cat {k}", "label": int(k >= 7)} for k in range(10)]
    for split in ("train", "validation"):
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "test.jsonl").write_text('{"text": "its label is withheld"}')
    return folder


def test_finetune_gives_a_diverged_run_no_score(model, mostly_no, tmp_path, capsys):
    rates = "--learning-rates", "[1e30,1e-3]"
    results = finetuned(mostly_no, model, tmp_path / "out", *rates)
    assert [run["validation"] is None for run in results["runs"]] == [True, False]
    assert results["best_validation"] == results["runs"][1]["validation"]
    assert "test" not in results
    assert [row["mean"] is None for row in results["by_set"]] == [False, True]
    best = load(tmp_path / "out/model").params
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(best))
    assert "diverged" in capsys.readouterr().out


def test_finetune_says_that_every_run_diverged(model, mostly_no, tmp_path, capsys):
    for patience in ([], ["--patience", "1", "--eval-every", "1"]):
        out = tmp_path / f"out{len(patience)}"
        with pytest.raises(SystemExit):
            finetuned(mostly_no, model, out, "--learning-rates", "[1e30]", *patience)
        said = " ".join(capsys.readouterr().err.split())
        assert "every run diverged, with learning rates 1e+30" in said
        assert not (out / "model").exists() and not (out / "results.json").exists()


def test_numbers_of_ones_own(model, tmp_path):
    rows = [{"text": f"the cat {k}", "label": k / 2} for k in range(6)]
    for split in ("train", "validation", "test"):
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    main(
        f"""finetune --data {tmp_path} --head regression --labels [0,5] --model {model} {OPTIONS}
        --out {tmp_path}/run""".split()
    )
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["test_metrics"].keys() == {"Pearson", "Spearman"}
    main(
        f"""evaluate --model {tmp_path}/run/model --data {tmp_path}/test.jsonl --seq-len 16
        --out {tmp_path}/scores""".split()
    )
    scores = json.loads((tmp_path / "scores/scores.json").read_text())
    assert scores == pytest.approx(results["test_metrics"])
    told = json.loads((tmp_path / "scores/predictions.jsonl").read_text().splitlines()[0])
    assert told.keys() == {"idx", "score"}


@pytest.mark.parametrize(
    "argv, message",
    [
        ("--tasks [glue/rte] --task glue/rte", "give one of --data FOLDER, --task SUITE/TASK and"),
        ("--tasks [glue/rte,glue/ax] --model x", "AX has no train split"),
        ("--tasks [glue/rte,glue/cola] --init-from y", "CoLA is not one of the tasks that start"),
        (
            "--task glue/stsb --model x --class-weights",
            "class_weights are for classes; STS-B has a regression",
        ),
        (
            "--task glue/rte --model x --seeds []",
            "every list of hyperparameters, such as seeds, must name a value",
        ),
        ("--task glue/rte --model x --patience 1 --eval-every 0", "must be at least 1; got 0"),
        ("--data x --head rank --model x", "classification, regression; got 'rank'"),
        ("--data x --head regression --labels [1] --model x", "must be the two ends of the scale"),
        ("--data x --labels [yes,yes] --model x", "labels must differ; 'yes' is there 2 times"),
        ("--data x --model x --unlabelled y", "unlabelled rows need a --teacher"),
        ("--tasks [glue/rte] --model x --teacher y", "one --teacher answers one task"),
    ],
)
def test_settings_that_do_not_go_together_are_said_first(argv, message, capsys):
    with pytest.raises(SystemExit):
        main(["finetune", *argv.split()])
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_model_that_chooses_is_scored_on_a_task(small, tmp_path, capsys):
    """Two of its rows stand for two choices; a file of one's own does not say which."""
    params = random_params(Classifier(small.config, 1), seed=0)
    save(replace(small, params=params, labels=("choice",), problem="choice"), tmp_path / "model")
    (tmp_path / "rows.jsonl").write_text('{"text": "a cat", "label": 0}')
    with pytest.raises(SystemExit):
        main(
            f"""evaluate --model {tmp_path}/model --data {tmp_path}/rows.jsonl""".split()
            + ["--seq-len", "16", "--out", str(tmp_path / "out")]
        )
    assert "needs --task" in capsys.readouterr().err


def test_some_of_many_tasks_start_from_another_model():
    config = Config(tasks=("glue/rte", "glue/cola"), model="base", init_from="mnli")
    rte, cola = (one_of_many(config, reference) for reference in config.tasks)
    assert (rte.model, rte.init_from) == ("", "mnli")
    assert (cola.model, cola.init_from) == ("base", "")

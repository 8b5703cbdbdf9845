# SPDX-License-Identifier: Apache-2.0
"""`bort-jax agora` as a user meets it."""

import csv
import json
import shutil
import sys
from dataclasses import replace
from types import SimpleNamespace
from zipfile import ZipFile

import numpy as np
import pyarrow.parquet as pq
import pytest
from command_line import refused, run, together
from task_rows import write_rows

from bort_jax import cli
from bort_jax.agora import OneVsRest, Parents, Store, Thresholds, Uncast, hard_labels, start
from bort_jax.agora.diagnostics import Finding
from bort_jax.data.row_text import row_texts
from bort_jax.data.tokenizer import Tokenizer
from bort_jax.interop import load, save
from bort_jax.model import random_params
from bort_jax.stages.agora import run as agora_run
from bort_jax.stages.agora.augment import Augmentation, distance_of
from bort_jax.stages.agora.grid import Grid
from bort_jax.stages.agora.labelled import contradictions
from bort_jax.stages.agora.labellers import Socrates
from bort_jax.stages.agora.material import Splits, read_material
from bort_jax.stages.agora.models import cast_outputs, labeller, load_models
from bort_jax.stages.finetune.tuner import FineTuner, Theta
from bort_jax.stages.predict.outputs import outputs_fn
from bort_jax.tasks import TASKS, Examples, Points, Task, TaskOptions

WORDS = "cat mat moon film ending ships storm letter week house nothing old seven bad one".split()
TAIL = ["south", "every", "where", "wrote", "saw", "kept"]


def sentences(split, n):
    """Distinct texts; the first word says the class."""
    rng = np.random.default_rng(len(split))
    for k in range(n):
        rest = " ".join([*rng.choice(WORDS, 3), TAIL[k % 6], TAIL[k // 6 % 6]])
        yield f"{('good', 'storm')[k % 2]} {rest}", k % 2


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("task")
    for split, n in (("train", 24), ("validation", 40), ("test", 16)):
        rows = [{"text": text, "label": y, "idx": k} for k, (text, y) in
                enumerate(sentences(split, n))]  # fmt: skip
        write_rows(folder / f"{split}.jsonl", rows)
    return folder


def classifier(small, *, seed=0, labels=("0", "1")):
    empty = replace(small, params=None, labels=labels)
    return replace(empty, params=random_params(empty.model, seed=seed))


def constant(small, **rest):
    """A Socrates who says the same of everything."""
    one = classifier(small, **rest)
    output = {name: np.zeros_like(values) for name, values in one.params["output"].items()}
    return replace(one, params={**one.params, "output": output})


@pytest.fixture(scope="module")
def folders(small, tmp_path_factory):
    """Timaeus and masked LM, and a Socrates who has learned the task from more rows."""
    out = tmp_path_factory.mktemp("models")
    save(small, out / "small")
    texts, labels = zip(*sentences("many rows to train", 216), strict=True)
    x = small.required_tokenizer.encode([texts], seq_len=32).ids
    tuner = FineTuner.of(small, ("0", "1"), steps=150, dropout=0.0)
    params = tuner.fit(Theta(0, 1e-2, 0.01, 0.1, 8), Points(x, np.array(labels, np.int32)))
    save(tuner.checkpoint(params, {}), out / "socrates")
    return out


@pytest.fixture(scope="module")
def argv(folders, data):
    return f"""agora --model {folders}/small --socrates {folders}/socrates
        --masked-lm {folders}/small --data {data} --steps 6 --seq-len 32
        --learning-rates [3e-3,1e-3,3e-4] --weight-decays [0.01] --warmup-ratios [0.1]
        --batch-sizes [8] --seeds [0] --final-seeds [5] --dropout 0.0
        --ignore-checks true""".split()


TAUS = ("--tau", "[mlm:2,neighbour,mix]")


def swapped(argv, option, value):
    """The words with another value of an option."""
    at = argv.index(option) + 1
    return [*argv[:at], value, *argv[at + 1 :]]


@pytest.fixture(scope="module")
def straight(argv, tmp_path_factory):
    """A finished run with three τ."""
    out = tmp_path_factory.mktemp("agora") / "run"
    cli.main([*argv, *TAUS, "--out", str(out)])
    return out


def material_of(data, small, *, seq_len=24, **settings):
    splits = Splits.read(TaskOptions(data=str(data)))
    cast = Uncast(splits.task.labels)
    return read_material(splits, cast, small.required_tokenizer, seq_len=seq_len, **settings)


def results(folder):
    return json.loads((folder / "results.json").read_text())


def lineage(folder):
    store = Store(folder / "rounds", pack=dict, unpack=dict)
    return [line for number in range(1, store.rounds() + 1) for line in store.lineage(number)]


def test_run_leaves_scores_lineage_a_model_and_a_page(straight, data):
    found, lines = results(straight), lineage(straight)
    assert found["leaked"] == 0 and len(found["rounds"]) == 3
    assert len(lines) == sum(line["added"] for line in found["rounds"]) > 0
    assert {line["tau"] for line in lines} <= {"mlm", "neighbour", "mix"}
    rows = [json.loads(line) for line in (data / "validation.jsonl").read_text().splitlines()]
    for example in found["examples"]:
        # What does not fit into a row is cut off.
        assert rows[example["dev_row"]]["text"].startswith(example["parent_text"])
        assert example["dev_id"] == str(example["dev_row"])
        assert example["text"] != example["parent_text"] and 0 < example["distance"] <= 1
    assert all(0.5 <= line["confidence"] <= 1 for line in lines)
    for line in found["rounds"]:
        assert line["gap"] == pytest.approx(line["best_steer"] - line["report"])
    assert len(found["plain"]["test"]) == 1 and found["plain"]["test_scores"][0]["accuracy"]
    assert load(straight / "model").labels == ("0", "1")
    labelled = pq.read_table(straight / "labelled.parquet").to_pylist()
    assert [one["text"] for one in labelled] == [line["text"] for line in lines]
    for one, line in zip(labelled, lines, strict=True):
        chances = [one["p_0"], one["p_1"]]
        certain = [float(line["label"] == k) for k in (0, 1)]
        assert chances == pytest.approx(line["probabilities"] or certain)
        assert one["label"] == str(line["label"])
    with (straight / "labelled.csv").open(newline="") as opened:
        assert len(list(csv.DictReader(opened))) == len(lines)
    assert found["checks"][0]["name"] == "headroom"
    text = (straight / "report.html").read_text()
    for told in ("<svg", "Generated text beside its parent", "all of them share", "median"):
        assert told in text
    assert found["examples"][0]["text"] in text


def test_evaluate_scores_the_model_of_a_run(straight, data, tmp_path, capsys):
    code, out, _ = run(capsys, "evaluate", "--model", straight / "model", "--data",
                       data / "test.jsonl", "--seq-len", 32, "--out", tmp_path)  # fmt: skip
    lines = (tmp_path / "predictions.jsonl").read_text().splitlines()
    assert code == 0 and "accuracy" in out and len(lines) == 16
    assert {"idx", "label", "probability"} == json.loads(lines[0]).keys()


def test_run_of_a_finished_folder_shows_its_results(straight, argv, capsys):
    code, out, _ = run(capsys, *argv, *TAUS, "--out", straight)
    assert code == 0 and "is finished" in out and "gap" in out


def unfinished(straight, folder, *, rounds):
    """A copy of the run as it was after so many rounds."""
    shutil.copytree(straight, folder, dirs_exist_ok=True)
    (folder / "results.json").unlink()
    (folder / "scores.json").unlink()
    (folder / "curve.json").unlink(missing_ok=True)
    for later in sorted((folder / "rounds").glob("round-*"))[rounds:]:
        shutil.rmtree(later)


def test_run_resumes_after_a_round(straight, argv, tmp_path, capsys):
    unfinished(straight, tmp_path, rounds=2)
    code, out, err = run(capsys, *argv, *TAUS, "--out", tmp_path)
    assert code == 0 and "round 3" in out and "round 2:" not in out, err
    assert results(tmp_path) == results(straight)


def test_run_scores_the_test_once(straight, argv, tmp_path, capsys):
    """It is cut off after its scores: they are read, not made again."""
    shutil.copytree(straight, tmp_path, dirs_exist_ok=True)
    (tmp_path / "results.json").unlink()
    scores = json.loads((tmp_path / "scores.json").read_text())
    scores["agora"]["test"] = [0.123]
    (tmp_path / "scores.json").write_text(json.dumps(scores))
    assert run(capsys, *argv, *TAUS, "--out", tmp_path)[0] == 0
    assert results(tmp_path)["agora"]["test"] == [0.123]
    (tmp_path / "results.json").unlink()
    (tmp_path / "scores.json").write_text(json.dumps({"curve": {}}))
    assert "scores.json is damaged: no 'test_rows'" in refused(
        capsys, *argv, *TAUS, "--out", tmp_path
    )


def pool_argv(argv, data, folder, *, rows=60):
    """Unlabelled rows, some of which stand in the task; two taken out of the window."""
    texts = [text for text, _ in sentences("a pool of texts to draw from", rows)]
    known = [json.loads((data / f"{split}.jsonl").read_text().splitlines()[0])["text"]
             for split in ("train", "validation", "test")]  # fmt: skip
    write_rows(folder / "pool.jsonl", [{"text": text} for text in [*known, *texts, texts[0], "  "]])
    return [
        *argv,
        "--pool",
        str(folder / "pool.jsonl"),
        "--calls",
        "7",
        "--max-class-shift",
        "1",
    ], set(texts)


@pytest.mark.slow
def test_run_retrieves_from_a_pool_within_a_budget(argv, data, tmp_path, capsys):
    mine, texts = pool_argv(argv, data, tmp_path)
    code, out, err = run(capsys, *mine, "--out", tmp_path / "run")
    assert code == 0 and "Socrates asked about 7 in all" in out, err
    assert "1 of 65 rows hold no text to use; the first: " in out
    lines = lineage(tmp_path / "run")
    assert len(lines) == 7 and {line["tau"] for line in lines} == {"retrieve"}
    assert len({line["pool_row"] for line in lines}) == 7
    assert {line["text"] for line in lines} <= {text[: len(line["text"])] for text in texts
                                               for line in lines}  # fmt: skip
    again = results(tmp_path / "run")
    assert again["rounds"][-1]["calls"] == 7 and again["leaked"] == 0
    ours, random = again["curve"]["Agora"], again["curve"]["the pool at random"]
    assert [one["calls"] for one in ours] == [one["calls"] for one in random]
    assert ours[-1]["calls"] == 7 and ours[-1]["scores"] == again["agora"]["report"]
    assert "Accuracy by calls" in (tmp_path / "run/report.html").read_text()
    unfinished(tmp_path / "run", tmp_path / "resumed", rounds=1)
    assert run(capsys, *mine, "--out", tmp_path / "resumed")[0] == 0
    assert results(tmp_path / "resumed") == again
    drawn = json.loads((tmp_path / "resumed/curve.json").read_text())
    drawn["curve"]["Agora"][0].pop("calls")
    (tmp_path / "resumed/curve.json").write_text(json.dumps(drawn))
    (tmp_path / "resumed/results.json").unlink()
    assert "curve.json is damaged" in refused(capsys, *mine, "--out", tmp_path / "resumed")


LABELLER = """
import json, sys
log = open(sys.argv[1], "a")
for line in sys.stdin:
    text = json.loads(line)["text"]
    print(text, file=log, flush=True)
    print(json.dumps({"label": str(int(text.startswith("storm")))}), flush=True)
"""


@pytest.mark.slow
def test_run_without_a_validation_split_has_its_mistakes_by_folds(argv, data, tmp_path, capsys):
    rows = tmp_path / "rows"
    rows.mkdir()
    for split in ("train", "test"):
        (rows / f"{split}.jsonl").write_text((data / f"{split}.jsonl").read_text())
    wanted = [*swapped(argv, "--data", rows), "--learning-rates", "[3e-3,1e-3]", "--out"]
    assert "no validation split: --folds 5" in refused(capsys, *wanted, tmp_path / "none")
    weak = ("--allow-weak-socrates", "true")  # a third of few rows says little about him
    code, _, err = run(capsys, *wanted, tmp_path / "run", "--folds", 2, *weak)
    assert code == 0, err
    found, lines = results(tmp_path / "run"), lineage(tmp_path / "run")
    given = len((rows / "train.jsonl").read_text().splitlines())
    assert 0 < found["plain"]["train_rows"] < given  # a part is kept aside
    assert lines and {line["dev_row"] for line in lines} <= set(range(given))
    assert "cross-validation" in (tmp_path / "run" / "report.html").read_text()
    told = refused(capsys, *argv, "--folds", 2, "--out", tmp_path / "both")
    assert "has a validation split" in told


def test_run_asks_a_command_within_a_budget(argv, data, tmp_path, capsys):
    (tmp_path / "label.py").write_text(LABELLER)
    mine, texts = pool_argv(argv, data, tmp_path)
    command = f"command:{sys.executable} {tmp_path}/label.py {tmp_path}/log"
    mine = swapped(swapped(mine, "--socrates", command), "--calls", "60")
    mine = [*swapped(mine, "--learning-rates", "[3e-3,1e-3]"), "--curve", "false"]
    code, out, err = run(capsys, *mine, "--cost-per-call", 0.5, "--out", tmp_path / "run")
    assert code == 0 and "calls of Socrates: 60, which cost 30" in out, err
    asked = (tmp_path / "log").read_text().splitlines()
    assert len(asked) == len(set(asked)) == 60
    lines = lineage(tmp_path / "run")
    assert len(lines) == 60 - 2 * 7 and {line["confidence"] for line in lines} == {1.0}
    unfinished(tmp_path / "run", tmp_path / "resumed", rounds=1)
    assert run(capsys, *mine, "--cost-per-call", 0.5, "--out", tmp_path / "resumed")[0] == 0
    assert results(tmp_path / "resumed") == results(tmp_path / "run")
    assert len((tmp_path / "log").read_text().splitlines()) == 60  # nothing is paid twice


@pytest.mark.parametrize(
    "socrates, options, message",
    [
        ("python:no_such:thing", "", "No module named 'no_such'; expected python:MODULE:FUNCTION"),
        ("command:cat", "--calls 7", "is too little to judge Socrates by: give 16 or more"),
        ("command:cat", "", "neither a class nor 2 probabilities"),
        ("command:true", "--call-timeout 0", "call_timeout must be positive"),
    ],
)
def test_a_labeller_that_cannot_be_used_is_one_line(
    socrates, options, message, argv, tmp_path, capsys
):
    mine = swapped(argv, "--socrates", socrates)
    assert message in refused(capsys, *mine, *options.split(), "--out", tmp_path / "run")


@pytest.mark.slow
def test_two_processes_find_what_one_finds(straight, argv, tmp_path):
    """Three sets over two processes; only the first one writes and speaks."""
    unfinished(straight, tmp_path, rounds=1)  # both go on from the first round
    said, nothing = together([*argv, *TAUS, "--out", tmp_path], processes=2)
    assert results(tmp_path) == results(straight) and lineage(tmp_path) == lineage(straight)
    assert "round 2" in said and "round 1:" not in said and not nothing


def test_run_replays_from_a_round(straight, argv, tmp_path, capsys):
    tau = ("--tau", "[neighbour]")  # what follows may differ
    mine = [*argv, *tau, "--out", tmp_path, "--replay", straight, "--replay-after", 2]
    code, out, err = run(capsys, *mine)
    assert code == 0 and "from the data set of round 2" in out, err
    first, again = results(straight)["rounds"], results(tmp_path)["rounds"]
    assert again[:2] == first[:2] and again[2]["sets"] == first[2]["sets"]
    added = first[0]["added"] + first[1]["added"]
    assert lineage(tmp_path)[:added] == lineage(straight)[:added]


@pytest.mark.parametrize("full, sets", [(True, 3), (False, 2)])
def test_begin_replay_has_all_of_theta_where_that_is_wanted(
    full, sets, straight, small, data, tmp_path
):
    config = agora_run.Config(replay=str(straight), replay_after=1, replay_full_theta=full)
    rates = [(("learning_rate", rate),) for rate in (3e-3, 1e-3, 3e-4)]
    first = start(material_of(data, small, seq_len=32).train, rates)
    store = agora_run.store_of(tmp_path / "rounds")
    agora_run.begin_replay(config, store, first)
    state = store.load(first)
    assert len(state.rounds) == 1 and len(state.thetas) == sets and state.replays == 1
    with pytest.raises(ValueError, match="nowhere has no finished round"):
        agora_run.begin_replay(replace(config, replay="nowhere"), store, first)


def test_run_refuses_a_socrates_who_knows_nothing(small, argv, tmp_path, capsys):
    save(constant(small), tmp_path / "constant")
    mine = swapped(argv, "--socrates", tmp_path / "constant")
    line = refused(capsys, *mine, "--out", tmp_path / "run")
    assert "no better than chance" in line and "--allow-weak-socrates true" in line


def test_check_socrates_warns_where_a_weak_one_is_allowed(small, data, capsys):
    material = material_of(data, small)
    guess = hard_labels(lambda x: np.zeros(len(x), int))
    trust = agora_run.check_socrates(Socrates(guess), material, allow_weak=True)
    assert trust.random and "WARNING: Socrates is no better than chance" in capsys.readouterr().out


def test_judge_refuses_what_a_check_found_unless_told(capsys):
    findings = [Finding("headroom", "+9 points"), Finding("pool", "3 texts", "label all of it")]
    with pytest.raises(ValueError, match="^label all of it; --ignore-checks true goes on$"):
        agora_run.judge(findings, sets=4, ignore=False)
    agora_run.judge(findings[:1], sets=4, ignore=False)
    assert "WARNING" not in capsys.readouterr().out
    agora_run.judge(findings, sets=3, ignore=True)
    said = capsys.readouterr().out
    assert "WARNING: label all of it" in said and "WARNING: Θ has 3" in said
    assert "check, headroom: +9 points" in said


def test_contradictions_are_rows_whose_label_socrates_does_not_give(small, data):
    material = material_of(data, small)
    sure = lambda x: np.tile(np.float32([[0.2, 0.8]]), (len(x), 1))
    found = list(contradictions(sure, material))
    assert len(found) == 12 + 20  # half of train, half of validation
    rows = {
        split: (data / f"{split}.jsonl").read_text().splitlines()
        for split in ("train", "validation")
    }
    for one in found:
        row = json.loads(rows[one["split"]][one["row"]])
        assert row["label"] == 0 and row["text"].startswith(one["text"])
        assert (one["label"], one["socrates"]) == ("0", "1")
        assert one["confidence"] == pytest.approx(0.8)


def test_run_refuses_a_train_row_that_stands_in_validation(small, data, argv, tmp_path, capsys):
    for split in ("train", "validation", "test"):
        text = (data / f"{split}.jsonl").read_text()
        if split == "train":
            copied = json.loads((data / "validation.jsonl").read_text().splitlines()[7])
            copied["text"] = f"  {copied['text'].replace(' ', '   ')}"
            text += "\n" * (not text.endswith("\n")) + json.dumps(copied)
        (tmp_path / f"{split}.jsonl").write_text(text)
    line = refused(capsys, *swapped(argv, "--data", tmp_path), "--out", tmp_path / "run")
    assert "train row 24 is also validation row 7" in line and "--drop-leaks" in line
    assert len(material_of(tmp_path, small, drop_leaks=True).train.y) == 24


def test_run_refuses_a_round_of_diverged_copies(argv, tmp_path, capsys):
    mine = swapped(argv, "--learning-rates", "[1e30]")
    line = refused(capsys, *mine, "--tau", "[neighbour]", "--out", tmp_path / "run")
    assert "fine-tunings on the train rows diverged" in line and "smaller learning rates" in line


@pytest.mark.parametrize(
    "options, message",
    [
        ("--tau [neighbor]", "no τ 'neighbor'; did you mean 'neighbour'"),
        ("--pair-side 3", "pair_side must be 0, 1 or 2"),
        ("--min-distance 0.9 --max-distance 0.1", "min distance ≤ max distance"),
        ("--score-thresholds [0.5]", "has classes, no --score-thresholds"),
        ("--one-vs-rest 7", "'7' is not one of 0, 1"),
        ("--steer-fraction 1.0", "steer_fraction 1.0 leaves no rows to steer by, or none"),
        ("--max-class-shift 7", "max_class_shift must lie in [0, 1]"),
    ],
)
def test_bad_options_are_one_clear_line(options, message, argv, tmp_path, capsys):
    assert message in refused(capsys, *argv, *options.split(), "--out", tmp_path / "run")


def test_load_models_wants_a_classifier_and_a_masked_lm(folders):
    models = (f"{folders}/small", f"{folders}/socrates")
    with pytest.raises(ValueError, match="socrates must be a classifier"):
        load_models(models[0], models[0], None, seq_len=8)
    with pytest.raises(ValueError, match="masked_lm must be a masked LM"):
        load_models(*models, models[1], seq_len=8)
    assert load_models(*models, None, seq_len=8).masked_lm is None


@pytest.mark.parametrize(
    "tau, message",
    [
        (("mlm", "mlm"), "τ mlm is given twice"),
        (("mix:-1",), "weight of τ mix must be positive"),
        (("mix:x",), "weight of τ mix must be a number"),
        (("retrieve",), "τ retrieve and --pool FILE belong together"),
    ],
)
def test_augmentation_refuses_wrong_weights(tau, message):
    assert Augmentation(tau=("mlm:3", "mix")).weights == {"mlm": 3.0, "mix": 1.0}
    with pytest.raises(ValueError, match=message):
        _ = Augmentation(tau=tau).weights


def test_grid_fills_single_choices_in():
    grid = Grid(learning_rates=(1e-3, 1e-4), weight_decays=(0.1,), warmup_ratios=(0.2,),
                batch_sizes=(8,), seeds=(5,))  # fmt: skip
    sets = grid.sets()
    assert sets == [(("learning_rate", 1e-3),), (("learning_rate", 1e-4),)]
    assert grid.full(sets[1]) == Theta(5, 1e-4, 0.1, 0.2, 8)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """A small RTE: entailed where both texts begin alike; test labels are withheld."""
    folder = tmp_path_factory.mktemp("suite")
    for split, n in (("train", 24), ("validation", 40), ("test", 6)):
        rows = []
        for k, (text, y) in enumerate(sentences(split, n)):
            second = f"good {TAIL[k % 6]} {split} {k}"
            rows.append({"sentence1": text, "sentence2": second, "idx": k,
                         "label": -1 if split == "test" else y})  # fmt: skip
        write_rows(folder / "glue" / "rte" / f"{split}.jsonl", rows)
    return folder


@pytest.mark.slow
def test_run_writes_a_submission_file_where_test_labels_are_withheld(
    small, pairs, argv, tmp_path, capsys
):
    save(constant(small, labels=TASKS["glue/rte"].labels), tmp_path / "socrates")
    at = argv.index("--data")
    mine = [*argv[:at], "--task", "glue/rte", "--data-dir", pairs, *argv[at + 2 :]]
    mine = swapped(swapped(mine, "--socrates", tmp_path / "socrates"), "--learning-rates", "[1e-3]")
    code, out, err = run(
        capsys, *mine, "--allow-weak-socrates", "true", "--pair-side", 2, "--distance", "mean",
        "--max-distance", 2, "--out", tmp_path / "run",
    )  # fmt: skip
    assert code == 0, err
    found = results(tmp_path / "run")
    assert found["agora"]["test"] == [] and len(found["agora"]["report"]) == 1
    with ZipFile(tmp_path / "run" / "submission" / "glue.zip") as archive:
        assert len(archive.read("RTE.tsv").decode().splitlines()) == 7
    for example in found["examples"]:  # the first text stays as it is
        assert example["text"].split("|")[0] == example["parent_text"].split("|")[0]


@pytest.mark.slow
def test_choices_keep_their_premise(small, argv, tmp_path, capsys):
    for split, n in (("train", 16), ("validation", 24), ("test", 4)):
        rows = [
            {"premise": text, "choice1": f"good {WORDS[k % 15]} {TAIL[k // 4 % 6]}",
             "choice2": f"bad {WORDS[k % 14]} {TAIL[k % 6]}",
             "question": ("cause", "effect")[k % 2], "idx": k, "label": y}
            for k, (text, y) in enumerate(sentences(split, n))
        ]  # fmt: skip
        write_rows(tmp_path / "superglue" / "copa" / f"{split}.jsonl", rows)
    wide = replace(small, params=None, config=replace(small.config, positions=64))
    wide = replace(wide, params=random_params(wide.model, seed=0))
    save(wide, tmp_path / "wide")
    save(constant(wide), tmp_path / "socrates")
    at = argv.index("--data")
    mine = [*argv[:at], "--task", "superglue/copa", "--data-dir", tmp_path, *argv[at + 2 :]]
    for name, value in (
        ("--model", tmp_path / "wide"),
        ("--masked-lm", tmp_path / "wide"),
        ("--socrates", tmp_path / "socrates"),
        ("--seq-len", 64),
        ("--learning-rates", "[1e-3]"),
    ):
        mine = swapped(mine, name, value)
    code, out, err = run(
        capsys,
        *mine,
        "--allow-weak-socrates",
        "true",
        "--tau",
        "[neighbour]",
        "--out",
        tmp_path / "run",
    )
    assert code == 0, err
    found = results(tmp_path / "run")
    assert len(found["agora"]["test"]) == 1 and found["examples"]
    for example in found["examples"]:
        first, second = (choice.split("|")[0] for choice in example["text"].split("||"))
        assert first.strip() == second.strip()
        assert ("What was the cause?" in first) or ("What happened as a result?" in first)


def test_labeller_reads_another_tokenizer(small, folders, data, text_file):
    other = Tokenizer.train(text_file.read_text().splitlines(), vocab_size=280)
    config = replace(small.config, vocab_size=other.vocab_size)
    socrates = classifier(replace(small, config=config, tokenizer=other), seed=3)
    material = material_of(data, small)
    x = material.report.points.x
    (texts,) = zip(*row_texts(x, small.required_tokenizer), strict=True)
    examples = Examples.of([texts], np.zeros(len(texts), np.int32))
    chances = labeller(socrates, material)(x)
    outputs = outputs_fn(socrates, material.task, seq_len=32)(examples)
    shifted = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    np.testing.assert_allclose(chances, shifted / shifted.sum(axis=1, keepdims=True), rtol=1e-5)


def test_cast_outputs_are_probabilities_of_the_cast_classes():
    logits = np.log(np.array([[0.2, 0.7, 0.1], [0.4, 0.3, 0.3]]))
    task = Task(labels=("a", "b", "c"))
    of = lambda cast, task=task: SimpleNamespace(cast=cast, task=task)
    chances = cast_outputs(logits, of(Uncast(task.labels)))
    assert chances == pytest.approx(np.exp(logits)) and chances.dtype == np.float32
    chances = cast_outputs(logits, of(OneVsRest(task.labels, "b")))
    assert chances == pytest.approx(np.array([[0.3, 0.7], [0.7, 0.3]]))
    scores = Task(labels=("0", "5"), head="regression")
    chances = cast_outputs(np.array([[1.0], [2.0], [4.5]]), of(Thresholds((2.0, 4.0)), scores))
    assert chances.argmax(axis=1).tolist() == [0, 1, 2]
    expected = [0.2 + 0.8 / 3, 1 / 3, 0.1 + 0.9 / 3]
    assert chances.max(axis=1) == pytest.approx(np.array(expected), abs=1e-3)
    assert chances.sum(axis=1) == pytest.approx(np.ones(3))


@pytest.mark.parametrize("kind", ["first", "mean"])
def test_distance_of_is_cosine_distance_in_the_students_encoding(kind, small, data):
    material = material_of(data, small)
    x = material.steer.points.x
    far = distance_of(kind, small)
    assert far(x, Parents(x)) == pytest.approx(np.zeros(len(x)), abs=1e-5)
    if kind == "mean":  # fresh weights attend to little: first tokens are almost alike
        assert (far(x[::-1], Parents(x))[: len(x) // 2] > 1e-4).all()
    wide = np.pad(x, ((0, 0), (0, 4)), constant_values=small.required_tokenizer.special.pad)
    np.testing.assert_allclose(far(wide[::-1], Parents(wide)), far(x[::-1], Parents(x)), atol=1e-5)

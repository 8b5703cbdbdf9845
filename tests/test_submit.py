# SPDX-License-Identifier: Apache-2.0
"""Submission files in the leaderboards' formats, and the checker on broken ones."""

import json
import os
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from task_rows import rows_of_task, unlabelled, write_data, write_rows

from bort_jax.cli import main
from bort_jax.interop import save
from bort_jax.model import Classifier, random_params
from bort_jax.stages.predict.submissions import tasks_of_zip, tasks_to_predict
from bort_jax.tasks import TASKS, Task, find_task, read_task, suite_tasks
from bort_jax.tasks.checker import (
    LARGEST_FILE,
    LARGEST_ZIP,
    SHOWN,
    check_content,
    check_file,
    check_zip,
)
from bort_jax.tasks.submission import submission_lines, write_zip

DATA = Path(os.environ.get("BORT_JAX_DATA", "no such folder"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"), ending=".jsonl")


def decisions(task: Task, examples):
    """Some decision for each example, in turn: classes, choices, scores or one of a group."""
    n = len(examples.texts)
    if task.head == "regression":
        return np.linspace(-0.5, 5.5, n)
    if task.key == "record":
        groups = [key.group for key in examples.keys]
        return np.array([group not in groups[:k] for k, group in enumerate(groups)], int)
    return np.arange(n) % len(task.labels)


def lines_of(reference: str, folder: Path) -> list[str]:
    task = find_task(reference)
    examples = read_task(task, folder, "test")
    return submission_lines(decisions(task, examples), task, examples=examples)


# The formats, written out

FORMATS = {
    "glue/cola": ["index\tprediction", "0\t0", "1\t1", "2\t0", "3\t1", "4\t0"],
    "glue/stsb": [
        "index\tprediction",
        "0\t0.000",
        "7\t1.000",
        "14\t2.500",
        "21\t4.000",
        "28\t5.000",
    ],
    "glue/qnli": [
        "index\tprediction",
        "0\tentailment",
        "7\tnot_entailment",
        "14\tentailment",
        "21\tnot_entailment",
        "28\tentailment",
    ],
    "glue/ax": [
        "index\tprediction",
        "0\tentailment",
        "7\tneutral",
        "14\tcontradiction",
        "21\tentailment",
        "28\tneutral",
    ],
    "superglue/boolq": [
        '{"idx": 0, "label": "false"}',
        '{"idx": 7, "label": "true"}',
        '{"idx": 14, "label": "false"}',
        '{"idx": 21, "label": "true"}',
        '{"idx": 28, "label": "false"}',
    ],
    "superglue/wsc": [
        '{"idx": 0, "label": "False"}',
        '{"idx": 1, "label": "True"}',
        '{"idx": 2, "label": "False"}',
        '{"idx": 3, "label": "True"}',
        '{"idx": 4, "label": "False"}',
    ],
    "superglue/wic": [  # the rows' ids fall; the file's rise
        '{"idx": 36, "label": "false"}',
        '{"idx": 37, "label": "true"}',
        '{"idx": 38, "label": "false"}',
        '{"idx": 39, "label": "true"}',
        '{"idx": 40, "label": "false"}',
    ],
    "superglue/copa": [
        '{"idx": 500, "label": 0}',
        '{"idx": 501, "label": 1}',
        '{"idx": 502, "label": 0}',
        '{"idx": 503, "label": 1}',
        '{"idx": 504, "label": 0}',
    ],
    "superglue/cb": [
        '{"idx": 0, "label": "entailment"}',
        '{"idx": 7, "label": "contradiction"}',
        '{"idx": 14, "label": "neutral"}',
        '{"idx": 21, "label": "entailment"}',
        '{"idx": 28, "label": "contradiction"}',
    ],
    "superglue/multirc": [
        '{"idx": 0, "passage": {"questions": ['
        '{"idx": 0, "answers": [{"idx": 0, "label": 0}, {"idx": 1, "label": 1}]}, '
        '{"idx": 1, "answers": [{"idx": 2, "label": 0}]}]}}',
        '{"idx": 1, "passage": {"questions": ['
        '{"idx": 1, "answers": [{"idx": 3, "label": 1}]}, '
        '{"idx": 2, "answers": [{"idx": 4, "label": 0}]}]}}',
    ],
    "superglue/record": [f'{{"idx": {k}, "label": "Ann"}}' for k in (5, 6, 7, 8, 9)],
}


@pytest.mark.parametrize("reference", FORMATS)
def test_a_file_is_written_as_its_leaderboard_wants_it(reference, data):
    assert lines_of(reference, data) == FORMATS[reference]


def test_race_is_written_as_the_companion_code_does(data):
    """The article's own record with letters for answers, articles by the names of their files."""
    records = [json.loads(line) for line in lines_of("race/middle", data)]
    assert [record["answers"] for record in records] == [["A", "B"], ["C", "D"], ["A"]]
    assert list(records[0]) == ["answers", "options", "questions", "article", "id"]
    rows = rows_of_task("race/middle")
    assert records[0]["questions"] == [row["question"] for row in rows[:2]]
    assert records[0]["options"] == [row["options"] for row in rows[:2]]
    assert (records[0]["id"], records[0]["article"]) == ("middle0.txt", rows[0]["article"])


@pytest.mark.parametrize("reference", sorted(TASKS))
def test_every_task_submits_from_five_rows(reference, data):
    examples = read_task(TASKS[reference], data, "test")
    content = "\n".join(lines_of(reference, data)) + "\n"
    assert check_content(content.encode(), TASKS[reference], examples=examples) == []


REAL = [*sorted(TASKS), "glue/sst2_sentences", "glue/qqp_tiny", "superglue/record_tiny"]


@pytest.mark.parametrize("reference", REAL)
def test_every_task_submits_from_the_real_files(reference):
    task = find_task(reference)
    try:
        examples = read_task(task, DATA, "test")
    except FileNotFoundError:
        pytest.skip(f"BORT_JAX_DATA names no folder with {reference}")
    lines = submission_lines(decisions(task, examples), task, examples=examples)
    assert check_content("\n".join(lines).encode(), task, examples=examples) == []
    assert check_content("\n".join(lines[:-1]).encode(), task, examples=examples) != []


def test_wrong_numbers_of_predictions_and_rows_without_ids_are_refused(data):
    task = TASKS["glue/rte"]
    examples = read_task(task, data, "test")
    with pytest.raises(ValueError, match="RTE: 3 predictions for 5 examples"):
        submission_lines(np.zeros(3, int), task, examples=examples)
    nameless = examples._replace(keys=tuple(key._replace(id=None) for key in examples.keys))
    with pytest.raises(ValueError, match=r"RTE: rows of the test split have no ids"):
        submission_lines(np.zeros(5, int), task, examples=nameless)


# The checker

BREAKAGES = [
    # task, line (0: past the last), its new text or None to take it away, place, what is said
    ("glue/rte", 1, "idx\tprediction", 1, "the header must be 'index\\tprediction'"),
    ("glue/rte", 2, None, 0, "no answer for 1 of 5: id 0"),
    ("glue/rte", 3, "0\tentailment", 3, "id 0 is on line 2 already"),
    ("glue/rte", 3, "8\tentailment", 3, "id 8 is not in the test split"),
    ("glue/rte", 3, "7\tneutral", 3, "label 'neutral' is not one of 'entailment', 'not_entailm"),
    ("glue/rte", 3, "7\tentailment\r", 3, "label 'entailment\\r' is not one of"),
    ("glue/rte", 3, "7,entailment", 3, "expected an index, a tab and a prediction"),
    ("glue/rte", 3, "7.0\tentailment", 3, "the index must be a whole number, got '7.0'"),
    ("glue/rte", 0, "", 7, "expected an index, a tab and a prediction, got ''"),
    ("glue/stsb", 2, "0\tnan", 2, "'nan' is not a number from 0 to 5"),
    ("glue/stsb", 2, "0\t5.1", 2, "'5.1' is not a number from 0 to 5"),
    ("glue/stsb", 2, "0\thigh", 2, "'high' is not a number from 0 to 5"),
    ("superglue/boolq", 2, '{"idx": 7, "label": true}', 2, "label 'True' is not one of 'false'"),
    ("superglue/boolq", 2, '{"idx": 7, "label": "True"}', 2, "is not one of 'false', 'true'"),
    ("superglue/wsc", 2, '{"idx": 1, "label": "true"}', 2, "is not one of 'False', 'True'"),
    ("superglue/copa", 2, '{"idx": 501, "label": "1"}', 2, "label '1' is not one of 0, 1"),
    ("superglue/copa", 2, '{"idx": 501, "label": true}', 2, "label 'True' is not one of 0, 1"),
    ("superglue/copa", 2, '{"idx": "501", "label": 1}', 2, "an idx must be a whole number"),
    ("superglue/copa", 2, '{"idx": 501}', 2, "expected the fields idx, label, got idx"),
    ("superglue/copa", 2, '{"idx": 501, "label": 1', 2, "not JSON"),
    ("superglue/copa", 2, "[" * 10**5, 2, "not JSON"),
    ("superglue/copa", 2, '{"idx": ' + "9" * 9999 + ', "label": 1}', 2, "not JSON"),
    ("superglue/copa", 2, '{"idx": 501, "label": [1]}', 2, "label '[1]' is not one of 0, 1"),
    ("superglue/multirc", 2, None, 0, "no answer for 2 of 5: paragraph 1, question 1, answer 3"),
    ("superglue/multirc", 1, '{"idx": 0, "passage": {}}', 1, "expected the fields questions"),
    (
        "superglue/multirc",
        2,
        '{"idx": 1, "passage": {"questions": [{"idx": 1, "answers": []}]}}',
        2,
        "expected a list",
    ),
    ("superglue/record", 1, '{"idx": 5, "label": "Zoe"}', 1, "'Zoe' is not one of the passage's"),
    ("superglue/record", 1, '{"idx": 5, "label": ""}', 1, "the label must be a text"),
]


@pytest.mark.parametrize("reference, line, text, place, message", BREAKAGES)
def test_each_breakage_is_told_with_its_line(reference, line, text, place, message, data):
    lines = lines_of(reference, data)
    if line == 0:
        lines.append(text)
    else:
        lines[line - 1 : line] = [] if text is None else [text]
    content = "".join(f"{line}\n" for line in lines).encode()
    examples = read_task(TASKS[reference], data, "test")
    problems = check_content(content, TASKS[reference], examples=examples)
    assert any(p.line == place and message in p.message for p in problems), problems
    assert {p.file for p in problems} == {TASKS[reference].form.file}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"answers": ["A"]}, "1 answers to 2 questions"),
        ({"answers": ["A", "E"]}, "label 'E' is not one of 'A', 'B', 'C', 'D'"),
        ({"id": "middle9.txt"}, "question 1 of middle9.txt is not in the test split"),
        ({"id": "middle0.txt"}, "question 1 of middle0.txt is on line 1 already"),
        ({"id": 3}, "the id must be a text"),
    ],
)
def test_each_breakage_of_race_is_told(change, message, data):
    task = TASKS["race/middle"]
    lines = [json.loads(line) for line in lines_of("race/middle", data)]
    lines[1] |= change
    content = "\n".join(map(json.dumps, lines)).encode()
    problems = check_content(content, task, examples=read_task(task, data, "test"))
    assert any(p.line == 2 and message in p.message for p in problems), problems


def test_a_file_that_is_not_text_or_is_empty_is_told(data):
    task, rest = TASKS["glue/rte"], "\n".join(lines_of("glue/rte", data)[1:]).encode()
    examples = read_task(task, data, "test")
    (problem,) = check_content(b"index\tprediction\n\xff" + rest, task, examples=examples)
    assert problem.line == 2 and "not UTF-8" in problem.message
    header, missing = check_content(b"", task, examples=examples)
    assert header.line == 1 and "no answer for 5 of 5" in missing.message
    many = check_content(b"index\tprediction\n" + b"x\n" * 99, task, examples=examples)
    assert len(many) == SHOWN + 1 and "and 95 more problems" in str(many[-1])


@given(content=st.binary(max_size=200), reference=st.sampled_from(sorted(TASKS)))
def test_no_bytes_bring_the_checker_down(content, reference):
    assert check_content(content, TASKS[reference], examples=None)


def test_without_a_test_split_the_official_size_counts(data):
    content = "\n".join(lines_of("glue/rte", data)).encode()
    (problem,) = check_content(content, TASKS["glue/rte"], examples=None)
    assert "5 answers, the official test split has 3,000" in str(problem)


# Zips


@pytest.fixture
def suite_zip(data, tmp_path):
    """A valid zip of SuperGLUE, its test splits by file name, and its lines by file name."""
    tasks = suite_tasks("superglue")
    lines = {task.form.file: lines_of(task.reference, data) for task in tasks}
    examples = {task.form.file: read_task(task, data, "test") for task in tasks}
    return write_zip(tmp_path / "superglue.zip", lines), examples, lines


def test_a_valid_zip_has_nothing_wrong_and_is_the_same_byte_for_byte(suite_zip, tmp_path):
    file, examples, lines = suite_zip
    assert check_zip(file, suite_tasks("superglue"), examples=examples) == []
    again = write_zip(tmp_path / "again.zip", lines)
    assert again.read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    "name, message",
    [
        ("boolq.jsonl", "'boolq.jsonl': does not belong here; did you mean 'BoolQ.jsonl'?"),
        ("../BoolQ.jsonl", "'../BoolQ.jsonl': does not belong here"),
        ("/etc/BoolQ.jsonl", "does not belong here"),
        ("out/BoolQ.jsonl", "does not belong here"),
        (None, "BoolQ.jsonl: is missing"),
    ],
)
def test_a_wrong_name_in_a_zip_is_told(name, message, suite_zip, tmp_path):
    _, examples, lines = suite_zip
    renamed = {name if n == "BoolQ.jsonl" else n: v for n, v in lines.items()}
    renamed.pop(None, None)
    file = write_zip(tmp_path / "renamed.zip", renamed)
    problems = check_zip(file, suite_tasks("superglue"), examples=examples)
    assert message in str(problems[0]), problems
    assert sorted(path.name for path in tmp_path.iterdir()) == ["renamed.zip", "superglue.zip"]


def test_a_line_of_a_file_in_a_zip_is_told(suite_zip, tmp_path):
    _, examples, lines = suite_zip
    lines["AX-b.jsonl"][3] = '{"idx": 21, "label": "neutral"}'
    file = write_zip(tmp_path / "broken.zip", lines)
    (problem,) = check_zip(file, suite_tasks("superglue"), examples=examples)
    assert str(problem).startswith("AX-b.jsonl, line 4: label 'neutral' is not one of")


def test_zips_that_are_none_too_large_or_double_are_refused(suite_zip, tmp_path):
    file, examples, _ = suite_zip
    tasks = suite_tasks("superglue")
    first_problem = lambda file: str(check_zip(file, tasks, examples=examples)[0])
    cut = tmp_path / "cut.zip"
    cut.write_bytes(file.read_bytes()[:-30])
    assert "not a zip that can be read" in first_problem(cut)
    content = bytearray(file.read_bytes())
    content[60:70] = b"\0" * 10  # in the first file's compressed bytes
    cut.write_bytes(content)
    assert "not a zip that can be read" in first_problem(cut)
    content = bytearray(file.read_bytes())
    content[content.index(b"PK\1\2") + 6] = 255  # the version that is needed to read it
    cut.write_bytes(content)
    assert "not a zip that can be read" in first_problem(cut)
    with pytest.raises(ValueError, match="cut.zip: not a zip that can be read: zip file version"):
        tasks_of_zip(cut, partial=False)
    with pytest.warns(UserWarning), zipfile.ZipFile(tmp_path / "double.zip", "w") as archive:
        archive.writestr("CB.jsonl", "")
        archive.writestr("CB.jsonl", "")
    assert first_problem(tmp_path / "double.zip") == "CB.jsonl: is in the zip twice"
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as archive:
        for k in range(65):
            archive.writestr(str(k), "")
    assert "65 files, expected 10" in first_problem(tmp_path / "many.zip")
    content, size = bytearray(file.read_bytes()), 24 + file.read_bytes().index(b"PK\x01\x02")
    for claimed, said in ((LARGEST_FILE, " bytes"), (LARGEST_ZIP, " bytes unpacked")):
        content[size : size + 4] = (claimed + 1).to_bytes(4, "little")  # of the first member
        cut.write_bytes(content)
        assert first_problem(cut).endswith(f"larger than {claimed:,}{said}")


def test_a_bomb_is_refused_before_it_is_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("CB.jsonl", "w") as member:
            for _ in range(65):
                member.write(b"\0" * 2**20)
    (problem,) = check_zip(tmp_path / "bomb.zip", suite_tasks("superglue"), examples={})
    assert str(problem) == "CB.jsonl: larger than 67,108,864 bytes"


def test_a_single_file_is_known_by_its_name(data, tmp_path):
    file = tmp_path / "RTE.tsv"
    file.write_text("\n".join(lines_of("glue/rte", data)))
    examples = {"RTE.tsv": read_task(TASKS["glue/rte"], data, "test")}
    assert check_file(file, examples=examples) == []
    file = file.rename(tmp_path / "RTEE.tsv")
    (problem,) = check_file(file, examples=examples)
    assert "is no submission file; did you mean 'RTE.tsv'" in problem.message


# The command


def test_diagnostics_are_predicted_by_the_models_they_belong_to():
    given = ["glue/mnli=a", "superglue/rte=b", "glue/sst2_sentences=c"]
    chosen = {task.reference: folder for task, folder, _ in tasks_to_predict(given)}
    assert chosen == {
        "glue/sst2": "c",
        "glue/mnli_matched": "a",
        "glue/mnli_mismatched": "a",
        "glue/ax": "a",
        "superglue/rte": "b",
        "superglue/axb": "b",
        "superglue/axg": "b",
    }
    own = {task: folder for task, folder, _ in tasks_to_predict(["glue/mnli=a", "glue/ax=d"])}
    assert own[TASKS["glue/ax"]] == "d"
    (sentences,) = [task for task, *_ in tasks_to_predict(given) if task.key == "sst2"]
    assert sentences.place.folders == ("sst2_sentences",)


@pytest.fixture(scope="module")
def models(small, tmp_path_factory):
    """Checkpoints with random heads: of two and three classes, and of one output."""
    folder = tmp_path_factory.mktemp("models")
    heads = {
        "two": TASKS["superglue/rte"].labels,
        "boolean": TASKS["superglue/multirc"].labels,
        "three": ("neutral", "contradiction", "entailment"),  # not in the task's order
        "one": ("score",),
    }
    for name, labels in heads.items():
        params = random_params(Classifier(small.config, len(labels)), seed=1)
        save(replace(small, params=params, labels=labels), folder / name)
    return folder


def command(capsys, *argv):
    code = 0
    try:
        main(["submit", *argv])
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    return code, " ".join((captured.out + captured.err).split())


def test_submit_predicts_writes_and_checks(models, data, tmp_path, capsys):
    given = [
        f"glue/mnli={models}/three",
        f"glue/stsb={models}/one",
        f"superglue/rte={models}/two",
        f"superglue/record={models}/boolean",
        f"superglue/multirc={models}/boolean",
        f"superglue/copa={models}/one",
        f"race/middle={models}/one",
        f"race/high={models}/one",
    ]
    argv = ["--models", f"[{','.join(given)}]", "--data-dir", str(data), "--seq-len", "32"]
    code, out = command(capsys, *argv, "--out", str(tmp_path))
    assert code == 1 and "there is no model for CoLA, SST-2, MRPC" in out
    assert not list(tmp_path.iterdir())
    code, out = command(capsys, *argv, "--out", str(tmp_path), "--partial")
    assert code == 0 and "the checker found nothing wrong with it" in out, out
    names = {file.name: sorted(zipfile.ZipFile(file).namelist()) for file in tmp_path.iterdir()}
    assert names == {
        "glue.zip": ["AX.tsv", "MNLI-m.tsv", "MNLI-mm.tsv", "STS-B.tsv"],
        "superglue.zip": [
            "AX-b.jsonl",
            "AX-g.jsonl",
            "COPA.jsonl",
            "MultiRC.jsonl",
            "RTE.jsonl",
            "ReCoRD.jsonl",
        ],
        "race.zip": ["RACE-H.txt", "RACE-M.txt"],
    }
    for name in names:
        partial = [] if name == "race.zip" else ["--partial"]
        where = ["--check", str(tmp_path / name), "--data-dir", str(data)]
        assert command(capsys, *where, *partial)[0] == 0
    code, out = command(capsys, "--check", str(tmp_path / "glue.zip"), "--data-dir", str(data))
    assert code == 1 and "CoLA.tsv: is missing" in out


def test_a_missing_test_split_is_said_before_anything_is_predicted(models, tmp_path, capsys):
    """AX-b and AX-g only come along with RTE's model: a partial submission may lack them."""
    write_rows(tmp_path / "superglue/rte/test.jsonl", unlabelled(rows_of_task("superglue/rte")))
    rte = f"superglue/rte={models}/two"
    argv = ["--data-dir", str(tmp_path), "--out", str(tmp_path / "out"), "--seq-len", "24"]
    code, out = command(capsys, "--models", f"[{rte}]", *argv, "--partial")
    assert code == 0 and "left out: no test split of AX-b" in out, out
    file = tmp_path / "out/superglue.zip"
    assert zipfile.ZipFile(file).namelist() == ["RTE.jsonl"]
    file.unlink()
    for models_given, partial in (
        (f"[{rte},superglue/axb={models}/two]", ["--partial"]),
        (f"[{rte}]", []),
    ):
        code, out = command(capsys, "--models", models_given, *argv, *partial)
        assert code == 1 and "no test split of AX-b in" in out and not file.exists()
        assert "superglue/RTE by" not in out


def test_submit_checks_a_file_against_a_variant(data, tmp_path, capsys):
    write_rows(tmp_path / "glue/rte_small/test.jsonl", unlabelled(rows_of_task("glue/rte")))
    file = tmp_path / "RTE.tsv"
    file.write_text("\n".join(lines_of("glue/rte", data)))
    argv = ["--check", str(file), "--data-dir", str(tmp_path)]
    assert command(capsys, *argv, "--tasks", "[glue/rte_small]")[0] == 0
    code, out = command(capsys, *argv)
    assert code == 1 and "RTE.tsv is held to the official number of rows: no test split" in out
    assert "5 answers, the official test split has 3,000" in out


@pytest.mark.parametrize(
    "argv, message",
    [
        ("", "give one of --models"),
        ("--models [glue/rte]", "wants TASK=CHECKPOINT, got 'glue/rte'"),
        ("--models [glue/rtee=x]", "did you mean 'glue/rte'"),
        ("--models [glue/rte=x,glue/rte_small=y]", "names RTE of glue twice"),
        ("--check nowhere.zip", "no file nowhere.zip"),
    ],
)
def test_bad_input_is_one_clear_line(argv, message, capsys):
    code, out = command(capsys, *argv.split())
    assert code == 1 and message in out


def test_a_model_that_is_not_the_tasks_is_refused(models, data, tmp_path, small, capsys):
    save(small, tmp_path / "masked")
    for name, message in (
        (f"{models}/two", "CB (classification) wants a head with entailment, contradiction, neut"),
        (f"{tmp_path}/masked", "a masked_lm checkpoint cannot predict CB: fine-tune it"),
    ):
        argv = ["--models", f"[superglue/cb={name}]", "--data-dir", str(data), "--partial"]
        code, out = command(capsys, *argv, "--seq-len", "24", "--out", str(tmp_path / "out"))
        assert code == 1 and message in out


def test_finetune_from_mnli_then_evaluate_and_submit(models, data, tmp_path, capsys):
    """RTE from MNLI's model, chosen by its own metric; its zip passes the checker."""
    main(
        f"""finetune --task superglue/rte --data-dir {data} --init-from {models}/three --steps 3
        --batch-sizes [4] --seq-len 24 --dropout 0.0 --out {tmp_path}/rte""".split()
    )
    results = json.loads((tmp_path / "rte/results.json").read_text())
    assert results["runs"][0]["metrics"].keys() == {"accuracy"} and "test" not in results
    assert "3 steps of 4 rows of superglue/rte" in (tmp_path / "rte/model/README.md").read_text()
    file = data / "superglue/rte/validation.jsonl"
    main(
        f"""evaluate --task superglue/rte --model {tmp_path}/rte/model --data {file} --seq-len 24
        --out {tmp_path}/scores""".split()
    )
    scores = json.loads((tmp_path / "scores/scores.json").read_text())
    assert scores == {"accuracy": results["best_validation"]}
    argv = ["--models", f"[superglue/rte={tmp_path}/rte/model]", "--data-dir", str(data)]
    code, out = command(capsys, *argv, "--out", str(tmp_path), "--partial", "--seq-len", "24")
    assert code == 0 and len(zipfile.ZipFile(tmp_path / "superglue.zip").namelist()) == 3, out


@pytest.mark.parametrize(
    "argv, message",
    [
        ("--task superglue/axg --model x", "AX-g has no train split: the model of superglue/rte"),
        ("--task glue/rte --model x --init-from y", "give one of --model and --init-from"),
        ("--task glue/cola --init-from y", "CoLA is not one of the tasks that start from another"),
        ("--model x", "give one of --data FOLDER and --task SUITE/TASK"),
    ],
)
def test_what_cannot_be_fine_tuned_is_said_first(argv, message, capsys):
    with pytest.raises(SystemExit):
        main(["finetune", *argv.split()])
    assert message in capsys.readouterr().err

# SPDX-License-Identifier: Apache-2.0
"""Label names and presets: texts as typed, one reading a file, refused before training."""

import json
from importlib import import_module

import numpy as np
import pytest
from command_line import refused

from bort_jax import cli
from bort_jax.presets import check_yaml
from bort_jax.tasks import Examples, TaskOptions, own_task, read_examples
from bort_jax.tasks.labels import check_splits


def write_rows(file, labels, column="label"):
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = ({"text": f"text {k}"} | ({column: y} if y is not ... else {}) for k, y in labels)
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


def rows_of(folder, **splits):
    for split, labels in splits.items():
        write_rows(folder / f"{split}.jsonl", list(enumerate(labels)))
    return folder


def test_read_examples_takes_no_index_where_names_are_whole_numbers(tmp_path):
    file = write_rows(tmp_path / "a.jsonl", enumerate([1, 2, 0]))
    with pytest.raises(ValueError, match=r"line 3: label 0 is not one of 1, 2, 3"):
        read_examples(file, own_task(("text",), "label", ("1", "2", "3")))


@pytest.mark.parametrize("labels", [["no", "yes", 1], [0, 1, "yes"]])
def test_read_examples_takes_names_or_indices_and_no_mixture(tmp_path, labels):
    file = write_rows(tmp_path / "a.jsonl", enumerate(labels))
    with pytest.raises(ValueError, match="line 3: label .* a file holds names or indices"):
        read_examples(file, own_task(("text",), "label", ("no", "yes")))


@pytest.mark.parametrize("names", [("a", "a"), ("a", " "), ()])
def test_own_task_refuses_names_that_no_model_holds(names):
    with pytest.raises(ValueError, match="labels must"):
        own_task(("text",), "label", names)


@pytest.mark.parametrize("scale", [("0",), ("5", "0"), ("a", "b")])
def test_own_task_refuses_a_scale_without_ends(scale):
    with pytest.raises(ValueError, match="two ends"):
        own_task(("text",), "label", scale, head="regression")


def test_labels_that_are_left_out_are_those_of_train(tmp_path, capsys):
    options = TaskOptions(data=str(rows_of(tmp_path, train=["b", "a", "b"], test=["a"])))
    assert options.record().labels == ("a", "b")
    assert options.read("test").labels.tolist() == [0]
    assert capsys.readouterr().out.count("labels, from") == 1
    numbers = TaskOptions(data=str(rows_of(tmp_path / "n", train=[10, 9, 2])))
    assert numbers.record().labels == ("2", "9", "10")
    with pytest.raises(ValueError, match="every row has the label 'x'; give --labels"):
        TaskOptions(data=str(rows_of(tmp_path / "one", train=["x", "x"]))).record()


@pytest.mark.parametrize("missing", [..., None, -1])
def test_read_labelled_leaves_a_test_split_without_labels_out(tmp_path, missing, capsys):
    folder = rows_of(tmp_path, train=["a", "b"], test=["a", missing])
    options = TaskOptions(data=str(folder), labels=("a", "b"))
    assert options.read_labelled("test") is None
    assert "1 of 2 rows of test have no label" in capsys.readouterr().out
    assert options.read_labelled("train") is not None


def test_check_splits_names_classes_that_are_not_there(capsys):
    task = own_task(("text",), "label", ("a", "b", "c"))
    some = lambda *y: Examples.of([["x"] * len(y)], np.array(y, np.int32))
    check_splits(task, {"train": some(0, 1), "validation": some(2, 2)})
    out = capsys.readouterr().out
    assert "no train row has the label c" in out
    assert "every row of validation has the label c" in out
    with pytest.raises(ValueError, match="two classes or more"):
        check_splits(own_task(("text",), "label", ("a",)), {"train": some(0)})


WORDS = ["no", "yes", "~", "007", "1_0", "3:00", "null", "on", "1e3"]


@pytest.mark.parametrize("where", ["option", "preset"])
def test_labels_are_texts_as_typed(tmp_path, where):
    module = import_module("bort_jax.commands.finetune")
    flow = f"[{','.join(WORDS)}]"
    preset = tmp_path / "a.yaml"
    preset.write_text(f"labels: {flow}\nlearning_rates: [1e-4, 2.5E-5]\nsteps: 7\n")
    argv = {"option": ["--labels", flow], "preset": ["--config", str(preset)]}[where]
    found = cli.parse("finetune", module, [*argv, "--out", "o"])
    assert list(found.labels) == WORDS
    if where == "preset":
        assert found.learning_rates == (1e-4, 2.5e-5) and found.steps == 7


BOMB = "a0: &a0 [x, x]\n" + "".join(
    f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]\n" for k in range(1, 9)
)


@pytest.mark.parametrize("text", [BOMB, "a: " + "[" * 40 + "]" * 40, "a: [1", "- " * 30_000])
def test_a_preset_beyond_reason_is_one_short_line(tmp_path, text, capsys):
    (tmp_path / "a.yaml").write_text(text)
    line = refused(capsys, "finetune", "--config", tmp_path / "a.yaml")
    assert "a.yaml" in line and len(line) < 1000


def test_check_yaml_counts_aliases_as_what_they_stand_for():
    check_yaml("a: &a [1, 2]\nb: *a\n")
    with pytest.raises(ValueError, match="aliases"):
        check_yaml(BOMB)


class Panic(BaseException):
    """As a panic of Rust reaches Python."""


@pytest.mark.parametrize(
    "error", [Panic("x" * 5000), MemoryError(), RecursionError("deep"), KeyError("a"), Exception()]
)
def test_answer_is_one_line_and_keeps_the_trace(tmp_path, capsys, error):
    with pytest.raises(SystemExit) as stop:
        cli.answer(error, str(tmp_path))
    line = capsys.readouterr().err
    assert stop.value.code == 1 and line.count("\n") == 1 and len(line) < 1000
    assert str(tmp_path / "error.txt") in line and type(error).__name__ in line
    assert type(error).__name__ in (tmp_path / "error.txt").read_text()


def test_a_preset_that_is_no_text_is_one_line(tmp_path, capsys):
    (tmp_path / "a.yaml").write_bytes(b"a: \xff\xfe")
    assert "a.yaml is not UTF-8" in refused(capsys, "finetune", "--config", tmp_path / "a.yaml")


@pytest.mark.parametrize(
    "code, mends",
    [
        ("raise ValueError('no such label')", True),
        ("raise OSError('no room')", True),
        ("int('seven')", False),
        ("import json; json.loads('{')", False),
        ("{}['a']", False),
    ],
)
def test_an_error_in_a_librarys_words_is_no_refusal(code, mends):
    with pytest.raises(Exception) as raised:
        exec(code, {"__name__": "bort_jax.somewhere"})
    assert cli.is_refusal(raised.value) == mends


def test_a_preset_that_is_a_pointer_of_git_lfs_is_told(tmp_path, capsys):
    (tmp_path / "a.yaml").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    line = refused(capsys, "finetune", "--config", tmp_path / "a.yaml")
    assert "a.yaml is a Git LFS pointer" in line

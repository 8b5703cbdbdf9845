# SPDX-License-Identifier: Apache-2.0
"""The 23 test sets: found, read, encoded, scored; metrics against scikit-learn and by hand."""

import math
import os
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as peer
from task_rows import ROWS, rows_of_task, unlabelled, write_data, write_rows

from bort_jax.cli import main
from bort_jax.stages.agora.split import split_dev
from bort_jax.tasks import TASKS, Examples, Task, TaskOptions, find_task, metrics, read_task
from bort_jax.tasks.encode import (
    Mark,
    Piece,
    cuttable,
    encode,
    join_pieces,
    mark_spans,
    share_room,
    uncut,
)
from bort_jax.tasks.race import fill_blank
from bort_jax.tasks.read import examples_of, find_file, read_examples, row_filter, rows_of
from bort_jax.tasks.scoring import METRICS, align_outputs, decide, headline, score
from bort_jax.tasks.suites import other_folders, suite_tasks
from bort_jax.tasks.survey import survey, survey_split
from bort_jax.tasks.task import label_of

DATA = Path(os.environ.get("BORT_JAX_DATA", "no such folder"))
REFERENCES = sorted(TASKS)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"), ending=".jsonl")


# Metrics

pairs = st.integers(1, 40).flatmap(
    lambda n: st.tuples(*[st.lists(st.integers(0, 2), min_size=n, max_size=n)] * 2)
)
scores = st.integers(2, 40).flatmap(
    lambda n: st.tuples(*[st.lists(st.integers(-9, 9), min_size=n, max_size=n)] * 2)
)


@given(pairs)
def test_classification_metrics_are_those_of_scikit_learn(values):
    said, labels = map(np.array, values)
    assert metrics.accuracy(said, labels) == pytest.approx(peer.accuracy_score(labels, said))
    ours = [metrics.f1(said, labels, positive=k) for k in (0, 1, 2)]
    theirs = peer.f1_score(labels, said, labels=[0, 1, 2], average=None, zero_division=0)
    assert ours == pytest.approx(list(theirs))
    macro = peer.f1_score(labels, said, average="macro", zero_division=0)
    assert metrics.macro_f1(said, labels) == pytest.approx(macro)
    if len(labels) > 1 and len({*labels, *said}) > 1:  # of one class it makes no matrix
        theirs = peer.matthews_corrcoef(labels, said)
        assert metrics.matthews(said, labels) == pytest.approx(theirs, abs=1e-12)


@given(scores)
def test_correlations_are_those_of_scipy(values):
    said, labels = (np.array(side) / 3 for side in values)
    if np.ptp(said) == 0 or np.ptp(labels) == 0:
        assert metrics.pearson(said, labels) == metrics.spearman(said, labels) == 0
    else:
        wanted = stats.pearsonr(said, labels).statistic, stats.spearmanr(said, labels).statistic
        ours = metrics.pearson(said, labels), metrics.spearman(said, labels)
        assert ours == pytest.approx(wanted, abs=1e-12)


def test_multirc_by_hand():
    """Two questions with three answers and two; one answer of the first is judged wrong."""
    groups = [(0, 0)] * 3 + [(0, 1)] * 2
    labels, said = np.array([1, 0, 1, 0, 1]), np.array([1, 1, 1, 0, 1])
    assert metrics.exact_groups(said, labels, groups=groups) == 1 / 2
    assert metrics.f1(said, labels) == pytest.approx(2 * 3 / (4 + 3))  # over all answers: F1a


def test_record_by_hand():
    assert metrics.normal("The  Ben B.!") == "ben b"
    assert metrics.exact_match("ben b", ["Ann", "The Ben B."]) == 1
    assert metrics.exact_match("Ben", ["Ben B."]) == 0
    # one of two words right, all of what was said: precision 1, recall 1/2
    assert metrics.token_f1("Ben", ["Ann", "Ben B."]) == pytest.approx(2 / 3)
    assert metrics.token_f1("ben ben", ["ben B. ben C."]) == pytest.approx(2 * 2 / (2 + 4))
    assert metrics.token_f1("Ann", ["Ben"]) == 0
    golds = [["Ann"], ["Ben B."]]
    assert metrics.over_answers(metrics.token_f1, ["Ann", "Ben"], golds) == pytest.approx(5 / 6)


def test_gender_parity_by_hand():
    assert metrics.gender_parity(np.array([0, 0, 1, 0, 1, 1]), groups=[0, 0, 1, 1, 2, 2]) == 2 / 3


# The table


def test_the_table_has_the_23_test_sets():
    sizes = Counter(task.suite for task in TASKS.values())
    assert sizes == {"glue": 11, "superglue": 10, "race": 2}
    assert len({(task.suite, task.form.file) for task in TASKS.values()}) == 23
    for task in TASKS.values():
        assert set(task.metrics) <= set(METRICS) and task.rows[2] > 0
        assert len(task.form.answers) in (0, len(task.labels))
        for other in (task.init_from, task.scored_by):
            assert not other or TASKS[other].rows[0] > 0  # it has a train split


@pytest.mark.parametrize(
    "reference, key, folder",
    [
        ("glue/sst2", "sst2", "sst2"),
        ("glue/SST-2", "sst2", "sst2"),
        ("glue/sst2_sentences", "sst2", "sst2_sentences"),
        ("glue/mnli", "mnli_matched", "mnli_matched"),
        ("glue/mnli_small", "mnli_matched", "mnli_small"),
        ("glue/mnli_mismatched_small", "mnli_mismatched", "mnli_mismatched_small"),
        ("superglue/record_tiny", "record", "record_tiny"),
        ("race/RACE-H", "high", "high"),
    ],
)
def test_a_task_is_found_by_its_names_and_its_folders(reference, key, folder):
    task = find_task(reference)
    assert task.key == key and task.place.folders[0] == folder


def test_an_unknown_task_or_suite_is_told_the_nearest():
    with pytest.raises(ValueError, match="no task 'glue/rtee'; did you mean 'glue/rte'"):
        find_task("glue/rtee")
    with pytest.raises(ValueError, match="no suite 'gleu'; did you mean 'glue'"):
        suite_tasks("gleu")


# Reading


@pytest.mark.parametrize("ending", [".parquet", ".jsonl"])
@pytest.mark.parametrize("reference", REFERENCES)
def test_every_task_reads_encodes_and_scores(reference, ending, tmp_path, corpus, rng):
    task = TASKS[reference]
    rows = rows_of_task(reference)
    write_rows(tmp_path / reference / f"validation{ending}", rows)
    write_rows(tmp_path / reference / f"test{ending}", unlabelled(rows))
    examples = read_task(task, tmp_path, "validation")
    assert examples.has_labels and not read_task(task, tmp_path, "test").has_labels
    points = examples.encode(corpus.tokenizer, seq_len=24)
    choices = len(examples.texts[0])
    n = ROWS * 3 if task.key == "record" else ROWS
    assert points.x.shape == ((n, 24) if choices == 1 else (n, choices, 24)) and len(points.y) == n
    perfect = score(right(task, examples), task, examples=examples)
    assert perfect.keys() == set(task.metrics)
    if task.key == "axg":  # the labels of our pairs differ
        perfect.pop("gender parity")
    assert list(perfect.values()) == pytest.approx([1.0] * len(perfect))
    outputs = rng.normal(size=(n * choices, task.outputs))
    assert -1 <= headline(score(decide(outputs, task, examples=examples), task, examples=examples))


def right(task: Task, examples):
    """Decisions without a mistake."""
    if task.key != "record":
        return examples.labels
    first, chosen = set(), np.zeros(len(examples.labels), int)
    for k, key in enumerate(examples.keys):
        if examples.labels[k] == 1 and key.group not in first:
            first.add(key.group)
            chosen[k] = 1
    return chosen


def test_labels_are_names_or_indices_and_only_test_may_lack_them(tmp_path):
    task = TASKS["superglue/cb"]
    rows = [{**row, "label": task.labels[row["label"]]} for row in rows_of_task(task.reference)]
    file = write_rows(tmp_path / task.reference / "train.jsonl", rows)
    assert read_task(task, tmp_path, "train").labels.tolist() == [0, 1, 2, 0, 1]
    write_rows(file, unlabelled(rows))
    with pytest.raises(ValueError, match=r"train.jsonl, line 1: label -1 is not one of entailment"):
        read_task(task, tmp_path, "train")
    record = TASKS["superglue/record"]
    write_rows(tmp_path / "x.jsonl", unlabelled(rows_of_task(record.reference)))
    with pytest.raises(ValueError, match="line 1: no label in column 'answers'"):
        read_examples(tmp_path / "x.jsonl", record)


def test_label_of_takes_minus_one_for_a_score_where_the_scale_has_it():
    rows = [{"label": value} for value in (-1, -1.0, "", None, math.nan)]
    known = lambda task: [label_of(row, task, required=False) for row in rows]
    task_of = lambda ends: Task(head="regression", labels=ends, metrics=("Pearson",))
    on_scale, off_scale = task_of(("-1", "1")), task_of(("0", "5"))
    np.testing.assert_equal(known(on_scale), [-1, -1, math.nan, math.nan, math.nan])
    np.testing.assert_equal(known(off_scale), [math.nan] * 5)
    assert known(Task()) == [-1] * 5
    label_of(rows[0], on_scale)
    examples = Examples(((),) * 2, np.array([-1, 0.5], np.float32))
    assert examples.has_labels and not Examples(((),), np.array([math.nan])).has_labels
    assert score(examples.labels, on_scale, examples=examples)


BROKEN = [
    ("glue/rte", {"sentence2": " "}, "column 'sentence2' holds no text"),
    ("glue/rte", {"label": 2}, "label 2 is not one of entailment, not_entailment"),
    ("glue/stsb", {"label": 5.5}, "label 5.5 is not a number from 0 to 5"),
    ("glue/stsb", {"label": "high"}, "label 'high' is not a number from 0 to 5"),
    ("superglue/copa", {"question": "why"}, "expected one of cause, effect"),
    ("superglue/wic", {"end1": 99}, "span 9–99 lies outside its text"),
    ("superglue/wic", {"start2": None}, "must hold numbers"),
    ("superglue/wsc", {"span2_text": "she"}, "span 'she' of column 'span2_index' is not in"),
    ("superglue/record", {"query": "It was seen."}, "has no @placeholder"),
    ("superglue/record", {"entities": []}, "column 'entities' must hold texts"),
    ("superglue/axg", {"idx": None}, "column 'idx' holds no number"),
    ("race/high", {"options": ["one", "two"]}, "must hold 4 texts"),
    ("race/high", {"answer": "E"}, "label 'E' is not one of A, B, C, D"),
]


@pytest.mark.parametrize("reference, change, message", BROKEN)
def test_a_malformed_row_names_file_and_line(reference, change, message, tmp_path):
    rows = rows_of_task(reference)
    rows[3] = {**rows[3], **change}
    file = write_rows(tmp_path / reference / "train.jsonl", rows)
    with pytest.raises(ValueError) as error:
        read_task(TASKS[reference], tmp_path, "train")
    assert f"{file}, line 4: " in str(error.value) and message in str(error.value)


def test_a_missing_column_names_the_nearest(tmp_path):
    rows = [{"sentense1" if n == "sentence1" else n: v for n, v in row.items()}
            for row in rows_of_task("glue/rte")]  # fmt: skip
    write_rows(tmp_path / "glue/rte/train.parquet", rows)
    with pytest.raises(ValueError, match="row 1: no column 'sentence1'; did you mean 'sentense1'"):
        read_task(TASKS["glue/rte"], tmp_path, "train")


@pytest.mark.parametrize(
    "line, message", [("{", "line 2: not JSON"), ("[1]", "expected an object"), ("[" * 9999, "not")]
)
def test_a_line_that_is_no_row_is_named(line, message, tmp_path):
    file = tmp_path / "train.jsonl"
    file.write_text('{"text": "a", "label": 0}\n' + line + "\n")
    with pytest.raises(ValueError, match=message):
        read_examples(file, Task())


def test_a_parquet_file_that_is_none_is_named(tmp_path):
    (tmp_path / "train.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match="train.parquet cannot be read as parquet"):
        read_examples(tmp_path / "train.parquet", Task())


def test_the_parts_of_mnli_are_told_apart_by_folder_file_or_row(tmp_path):
    one, two = (rows_of_task(f"glue/mnli_{part}") for part in ("matched", "mismatched"))
    parts = [TASKS[f"glue/mnli_{part}"] for part in ("matched", "mismatched")]
    ids = lambda task, split: [key.id for key in read_task(task, tmp_path, split).keys]
    wanted = [[row["idx"] for row in rows] for rows in (one, two)]
    write_rows(tmp_path / "glue/mnli/train.jsonl", [*one, *two])
    write_rows(tmp_path / "glue/mnli/validation.jsonl", [*one, *two])
    assert [ids(task, "validation") for task in parts] == wanted
    assert ids(parts[0], "train") == ids(parts[1], "train") == sum(wanted, [])  # one train split
    write_rows(tmp_path / "glue/mnli/validation_mismatched.jsonl", one)
    assert ids(parts[1], "validation") == wanted[0]  # a file of its own is not divided
    write_rows(tmp_path / "glue/mnli_matched/validation.jsonl", two)
    assert ids(parts[0], "validation") == wanted[1]
    assert row_filter(parts[0], tmp_path, "train") is None


def test_the_schools_of_race_are_told_apart_by_article(tmp_path):
    both = [row for k in ("middle", "high") for row in rows_of_task(f"race/{k}")]
    write_rows(tmp_path / "race/train.parquet", both)
    for level in ("middle", "high"):
        keys = read_task(TASKS[f"race/{level}"], tmp_path, "train").keys
        assert len(keys) == ROWS and all(key.id.startswith(level) for key in keys)
    write_rows(tmp_path / "race/test.parquet", both[:ROWS])
    with pytest.raises(ValueError, match="test.parquet: no rows of this task"):
        read_task(TASKS["race/high"], tmp_path, "test")


def test_a_missing_split_says_where_it_was_looked_for(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no test split of MNLI-m in .*mnli_matched or .*"):
        find_file(TASKS["glue/mnli_matched"], tmp_path, "test")
    with pytest.raises(ValueError, match="no split 'dev'; there are train, validation, test"):
        find_file(TASKS["glue/rte"], tmp_path, "dev")


def test_multirc_answers_may_be_empty_and_idx_may_be_nested(tmp_path):
    rows = rows_of_task("superglue/multirc")
    flat = [{**row, "answer": ""} for row in rows]
    names = ("paragraph", "question", "answer")
    nested = [{n: v for n, v in row.items() if not n.startswith("idx")}
              | {"idx": {n: row[f"idx_{n}"] for n in names}} for row in flat]  # fmt: skip
    task = TASKS["superglue/multirc"]
    one, two = (
        examples_of([("row", row) for row in kind], task, required=True) for kind in (flat, nested)
    )
    assert one.keys == two.keys and one.keys[4].id == (1, 2, 4) and one.keys[4].group == (1, 2)


# Texts


def test_how_each_special_task_reads():
    def text(reference, number, choice=0):
        row = rows_of_task(reference)[number]
        (item, *_) = TASKS[reference].items(row, TASKS[reference])
        return join_pieces(item.texts[choice]).replace("\x1f", " | ")

    assert text("superglue/wic", 1) == "You must *carry* lot 1. | Sound 1 *carries* well."
    wsc = "Ann told *Ben* 1 lies about himself, which #he# put in a book."
    assert text("superglue/wsc", 1) == wsc
    assert text("superglue/copa", 0, 1) == "The lamp 0 went out. What was the cause? | It broke."
    assert text("superglue/multirc", 0).endswith(" | Who sat? cat 0")
    assert text("superglue/record", 0).endswith(" | It was seen by Ann.")
    assert text("race/high", 0, 2).endswith(" | What sat three there?")
    assert text("race/high", 1, 2).endswith(" | Why did it sit? three")
    assert fill_blank("_ or _ ?", "a; b") == "_ or _ ? a; b"


def test_wsc_spans_are_found_where_the_index_is_a_word_off():
    task, row = TASKS["superglue/wsc"], {**rows_of_task("superglue/wsc")[0], "span2_index": 7}
    assert "#he#" in join_pieces(task.items(row, task)[0].texts[0])


def test_spans_may_lie_in_one_another():
    segment = mark_spans("so their mothers said", [Mark(3, 16, "*"), Mark(3, 8, "#")])
    assert [piece.text for piece in segment] == ["so", " *#their# mothers*", " said"]


@given(lengths=st.lists(st.integers(0, 30), min_size=1, max_size=5), room=st.integers(0, 80))
def test_the_longest_are_cut_first(lengths, room):
    left = share_room(lengths, room)
    assert sum(left) == min(sum(lengths), room)
    assert all(0 <= a <= b for a, b in zip(left, lengths, strict=True))
    cut = [a for a, b in zip(left, lengths, strict=True) if a < b]
    # what was cut is as long as anything else, to one token
    assert not cut or max(left) - min(cut) <= 1


WORDS = "the cat sat on mat looked at moon a good film bad ending seven ships sailed".split()
texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=20).map(" ".join)


@given(first=texts, second=texts, seq_len=st.integers(8, 60))
def test_plain_pairs_are_encoded_as_the_tokenizer_does(first, second, seq_len, corpus):
    ours = encode([(cuttable(first), cuttable(second))], corpus.tokenizer, seq_len=seq_len)
    theirs = corpus.tokenizer.encode([[first], [second]], seq_len=seq_len).ids
    assert np.array_equal(ours, theirs)
    single = encode([(cuttable(first),)], corpus.tokenizer, seq_len=seq_len)
    assert np.array_equal(single, corpus.tokenizer.encode([[first]], seq_len=seq_len).ids)


def holds(row, ids):
    """Whether the token ids stand in the row one after the other."""
    return any(list(row[k : k + len(ids)]) == ids for k in range(len(row)))


@given(before=texts, after=texts, passage=texts, seq_len=st.integers(30, 60))
def test_spans_and_questions_survive_the_cut(before, after, passage, seq_len, corpus):
    tokenizer = corpus.tokenizer
    sentence = f"{before} carry {after}"
    row = {"sentence1": sentence, "sentence2": "Sound carries.", "start2": 6, "end2": 13, "idx": 0}
    span = {"start1": len(before) + 1, "end1": len(before) + 6}
    task = TASKS["superglue/wic"]
    (item,) = task.items({**row, **span}, task)
    (ids,) = encode(item.texts, tokenizer, seq_len=seq_len)
    assert all(holds(ids, tokenizer.encode_documents([w])[0]) for w in (" *carry*", " *carries*"))
    question, answer = "who sat", "the cat"
    row = {"paragraph": passage * 3, "question": question, "answer": answer}
    task = TASKS["superglue/multirc"]
    (item,) = task.items({**row, "idx": {"paragraph": 0, "question": 0, "answer": 0}}, task)
    (ids,) = encode(item.texts, tokenizer, seq_len=seq_len)
    assert holds(ids, tokenizer.encode_documents([f"{question} {answer}"])[0])


def test_what_stands_beside_a_span_is_kept(corpus):
    tokenizer, far = corpus.tokenizer, "storm " * 30
    segment = mark_spans(f"{far}the cat sat {far}", [Mark(len(far) + 4, len(far) + 7, "*")])
    assert [piece.cut for piece in segment] == ["start", "never", "end"]
    (ids,) = encode([(segment,)], tokenizer, seq_len=16)
    assert "the *cat* sat" in tokenizer.backend.decode(list(ids))


def test_a_question_that_does_not_fit_keeps_its_answer(corpus):
    text = (
        cuttable("a passage"),
        uncut("why did the cat sit there for so long because it was warm"),
    )
    (ids,) = encode([text], corpus.tokenizer, seq_len=12)
    (asked,) = corpus.tokenizer.encode_documents([text[1][0].text])
    assert list(ids[3:-1]) == asked[-8:]
    with pytest.raises(ValueError, match="seq_len 5 is too short for 2 texts"):
        encode([text], corpus.tokenizer, seq_len=5)


def test_equal_texts_of_pieces_and_of_columns_stand_on_the_same_side(data):
    examples = read_task(TASKS["superglue/copa"], data, "train")
    twice = examples.take([*range(ROWS), *range(ROWS)])
    split = split_dev(twice)
    assert {k % ROWS for k in split.steer}.isdisjoint({k % ROWS for k in split.report})
    assert Piece("a") == Piece("a", "end")


# Outputs


def test_a_head_in_another_order_is_arranged():
    task, outputs = TASKS["superglue/cb"], np.array([[1.0, 2.0, 3.0]])
    for labels in (task.labels, ("0", "1", "2"), ("LABEL_0", "LABEL_1", "LABEL_2")):
        assert align_outputs(outputs, task, labels=labels).tolist() == [[1, 2, 3]]
    other = ("neutral", "entailment", "contradiction")
    assert align_outputs(outputs, task, labels=other).tolist() == [[2, 3, 1]]
    with pytest.raises(ValueError, match="CB .* wants a head with entailment, contradiction"):
        align_outputs(outputs[:, :2], task, labels=("no", "yes"))
    with pytest.raises(ValueError, match=r"STS-B \(regression\) wants a head with one output"):
        align_outputs(outputs, TASKS["glue/stsb"], labels=other)


def test_a_choice_is_the_largest_of_its_rows(data):
    task = TASKS["superglue/copa"]
    examples = read_task(task, data, "train")
    pairs = np.stack([np.zeros(10), np.tile([0.0, 1.0], 5)], axis=1)
    outputs = align_outputs(pairs, task, labels=("wrong", "right"))
    assert decide(outputs, task, examples=examples).tolist() == [1] * 5
    assert decide(-outputs, task, examples=examples).tolist() == [0] * 5


@pytest.mark.parametrize(
    "reference", ["glue/rte", "glue/stsb", "superglue/copa", "superglue/record"]
)
@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_decide_and_score_give_a_diverged_model_no_score(reference, broken, data):
    task = TASKS[reference]
    examples = read_task(task, data, "validation")
    rows = sum(len(texts) for texts in examples.texts)
    outputs = np.ones((rows, task.outputs))
    outputs[3] = broken
    decisions = decide(outputs, task, examples=examples)
    assert decisions.shape == (len(examples.texts),) and np.isnan(decisions).all()
    scores = score(decisions, task, examples=examples)
    assert scores.keys() == set(task.metrics) and np.isnan(headline(scores))


def test_record_says_the_surest_entity_of_each_query(data):
    task = TASKS["superglue/record"]
    examples = read_task(task, data, "train")
    outputs = np.stack([np.zeros(15), np.tile([2.0, 3.0, 1.0], 5)], axis=1)
    said = decide(outputs, task, examples=examples)
    assert said.tolist() == [0, 1, 0] * 5
    # "Ben B." is right for two of five queries
    assert score(said, task, examples=examples) == {"token F1": 0.4, "exact match": 0.4}


def test_rows_without_labels_are_not_scored(data):
    examples = read_task(TASKS["glue/rte"], data, "test")
    with pytest.raises(ValueError, match="RTE: no labels to score against"):
        score(np.zeros(ROWS, int), TASKS["glue/rte"], examples=examples)


# Options and commands


def test_options_are_ones_own_data_or_a_test_set(data):
    options = TaskOptions(task="glue/rte", data_dir=str(data))
    assert options.has("train") and options.record().labels[0] == "entailment"
    assert not TaskOptions(task="glue/rte_small", data_dir=str(data)).has("train")
    assert not TaskOptions(task="glue/ax").has("train") and TaskOptions(task="glue/ax").has("test")
    assert TaskOptions(data="some/folder/").source == "folder"
    for wrong in (TaskOptions(), TaskOptions(data="x", task="glue/rte")):
        with pytest.raises(ValueError, match="give one of --data FOLDER and --task"):
            wrong.record()


def test_tasks_list_names_all(capsys):
    main(["tasks", "list"])
    out = capsys.readouterr().out
    assert all(task.name in out for task in TASKS.values())


def check(capsys, *argv):
    code = 0
    try:
        main(["tasks", "check", *argv])
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def test_tasks_check_says_what_is_there(data, capsys, tmp_path):
    code, out = check(capsys, "--data-dir", str(data))
    assert code == 0 and "63 splits are there, nothing wrong" in out and "no labels" in out
    write_rows(tmp_path / "glue/rte_small/train.jsonl", rows_of_task("glue/rte"))
    (tmp_path / "glue/other").mkdir()
    code, out = check(capsys, "--data-dir", str(tmp_path), "--suites", "[glue]")
    assert code == 0 and "missing" in out and f"{tmp_path}/glue/other: belongs to no task" in out
    assert "5 of 2,490" in out and "RACE" not in out
    (variant,), unknown = other_folders(tmp_path)
    assert variant.place.folders == ("rte_small",) and unknown == ["glue/other"]


def test_tasks_check_says_what_is_wrong(tmp_path, capsys):
    rows = rows_of_task("glue/rte")
    rows[1] = {**rows[1], "label": 7}
    rows[4] = {**rows[4], "sentence1": ""}
    file = write_rows(tmp_path / "glue/rte/train.jsonl", rows)
    test = unlabelled(rows_of_task("glue/cola"))
    copy = write_rows(tmp_path / "glue/cola/test.jsonl", [*test, test[0]])
    code, out = check(capsys, "--data-dir", str(tmp_path))
    assert code == 1 and "3 problems" in out
    assert f"{file}, line 2: label 7 is not one of" in out
    assert f"{file}, line 5: column 'sentence1' holds no text" in out
    assert f"{copy}, line 6: id 0 is that of {copy}, line 1" in out
    file.write_text(file.read_text() + "{")
    found = survey_split(TASKS["glue/rte"], tmp_path, "train")
    assert "line 6: not JSON" in found.problems[-1] and found.rows == ROWS
    rows[0]["label"] = 9
    write_rows(file, rows * 4)
    found = survey_split(TASKS["glue/rte"], tmp_path, "train")
    assert len(found.problems) == 6 and "7 more rows like these" in found.problems[-1]


@pytest.mark.parametrize(
    "argv, message",
    [
        ("tasks chekc", "no action 'chekc'; did you mean 'check'"),
        ("tasks check", "check wants --data-dir FOLDER"),
        ("tasks list --suites [gleu]", "did you mean 'glue'"),
    ],
)
def test_bad_commands_are_one_clear_line(argv, message, capsys):
    with pytest.raises(SystemExit):
        main(argv.split())
    assert message in capsys.readouterr().err


# The real files

REAL = [*REFERENCES, "glue/sst2_sentences", "glue/qqp_tiny", "superglue/record_tiny"]


@pytest.mark.parametrize("reference", REAL)
def test_real_rows_encode_and_score(reference, corpus, rng):
    task = find_task(reference)
    try:
        file = find_file(task, DATA, "validation" if task.rows[1] else "test")
    except FileNotFoundError:
        pytest.skip(f"BORT_JAX_DATA names no folder with {reference}")
    split = file.stem
    rows = rows_of(file, keep=row_filter(task, DATA, split))
    examples = examples_of(islice(rows, 64), task, required=split != "test")
    points = examples.encode(corpus.tokenizer, seq_len=64)
    assert points.x.shape[-1] == 64 and len(points.x) == len(examples.labels) >= 32
    outputs = rng.normal(size=(points.x.reshape(-1, 64).shape[0], task.outputs))
    said = decide(outputs, task, examples=examples)
    if examples.has_labels:
        assert all(-1 <= value <= 1 for value in score(said, task, examples=examples).values())


def test_the_real_folder_has_nothing_wrong():
    if not DATA.is_dir():
        pytest.skip("BORT_JAX_DATA names no folder")
    found = list(survey(DATA, suites=("superglue",)))
    assert not [problem for part in found for problem in part.problems]
    assert sum(part.file is not None for part in found) > 20

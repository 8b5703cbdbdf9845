# SPDX-License-Identifier: Apache-2.0
"""Rows of any number and length: cut to few widths, answered in order, in steady memory."""

import csv
import json
import subprocess
import sys
from dataclasses import replace

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import one_device
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax

from bort_jax.cli import main
from bort_jax.data.corpus import open_source
from bort_jax.interop import save
from bort_jax.interop.orbax_folder import save_orbax
from bort_jax.model import Classifier, Headless, forward, random_params
from bort_jax.stages.predict import answer_file
from bort_jax.stages.predict.forward import (
    by_length,
    class_logits,
    for_device,
    lengths,
    text_states,
    widths,
)
from bort_jax.storage.growing import GrowingLines, GrowingVectors
from bort_jax.tasks.stream import ReadRow, skip_answered, stop_at_wrong, windows
from bort_jax.tasks.task import Item

PAD = 1
ROWS = [
    {"text": f"the {word} {'sat on the mat and ' * (n % 4)}looked", "n": n}
    for n, word in enumerate(["cat", "moon", "storm", "old house"] * 6)
]


@given(st.integers(1, 600))
def test_widths_are_few_and_never_twice_a_row(seq_len):
    cut = widths(seq_len)
    assert sorted(set(cut)) == list(cut) and cut[-1] == seq_len
    assert len(cut) <= max(1, int(np.ceil(np.log2(seq_len))) - 3)
    for length in range(1, seq_len + 1):
        assert next(width for width in cut if width >= length) < max(17, 2 * length)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=50), st.integers(1, 9))
def test_rows_cut_to_a_width_come_back_whole_and_in_order(sizes, batch_size):
    ids = np.full((len(sizes), 40), PAD)
    for row, size in zip(ids, sizes, strict=True):
        row[:size] = 5 + size
    seen = set()

    def run(params, batch):
        seen.add(batch["ids"].shape)
        return {"sum": (batch["ids"] * (batch["ids"] != PAD)).sum(axis=1) + batch["n"]}

    numbers = np.arange(len(ids))
    found = by_length(run, batch_size, pad=PAD)(None, {"ids": ids, "n": numbers})["sum"]
    assert found.tolist() == [(5 + size) * size + n for n, size in enumerate(sizes)]
    assert {width for _, width in seen} <= set(widths(40))
    assert len({rows for rows, _ in seen}) == 1  # one compilation a width


def test_the_same_logits_as_padded_to_the_longest(small):
    model = Classifier(small.config, 3)
    params = random_params(model, seed=0)
    sizes = np.random.default_rng(0).integers(1, 33, 150)
    x = np.where(np.arange(32) < sizes[:, None], 7 + np.arange(32), PAD).astype(np.int32)
    np.testing.assert_array_equal(lengths(x, pad=PAD), sizes)
    found = class_logits(model, pad=PAD)(params, x)
    np.testing.assert_allclose(found, forward(model, params, x, x != PAD), atol=1e-6)


READS = st.lists(
    st.one_of(
        st.integers(0, 4).map(lambda n: ReadRow(items=(Item(()),) * n)),
        st.just(ReadRow(wrong="here: bad")),
    ),
    max_size=30,
)


@given(READS, st.integers(1, 7))
def test_windows_hold_every_row_once_and_are_bounded(reads, size):
    found = list(windows(reads, size))
    assert [row for window in found for row in window] == reads
    for window in found[:-1]:
        assert size <= sum(row.answers for row in window) < size + 4


@given(READS, st.integers(1, 7))
def test_a_wrong_row_stops_after_the_rows_before_it(reads, size):
    good = next((n for n, row in enumerate(reads) if row.wrong), len(reads))
    found, stream = [], windows(stop_at_wrong(reads, hint="stop"), size)
    if good < len(reads):
        with pytest.raises(ValueError, match="here: bad; stop"):
            found += [row for window in stream for row in window]
    for window in windows(stop_at_wrong(reads[:good], hint="stop"), size):
        found += window
    assert found == reads[:good]


@given(READS, st.integers(0, 80))
def test_a_run_goes_on_after_the_last_whole_row(reads, answered):
    total = sum(row.answers for row in reads)
    answered = min(answered, total)
    rows, answers, rest = skip_answered(reads, answered)
    rest = list(rest)
    assert reads[:rows] + rest == reads
    assert answers == sum(row.answers for row in reads[:rows]) <= answered
    assert not rest or answers + rest[0].answers > answered


@given(st.lists(st.text(max_size=5), max_size=8), st.integers(0, 10**6), st.integers(0, 8))
def test_lines_grow_from_whatever_a_kill_left(tmp_path_factory, texts, cut, first):
    folder = tmp_path_factory.mktemp("lines")
    records = [{"text": text} for text in texts]

    def written(name, *parts):
        for part in parts:
            lines = GrowingLines(folder / name)
            lines.add(part[lines.rows :])
            lines.close()
        return (folder / name).read_bytes()

    whole = written("whole", records)
    assert written("twice", records[:first], records) == whole
    (folder / "cut").write_bytes(whole[: cut % (len(whole) + 1)])
    assert written("cut", records) == whole
    lines = GrowingLines(folder / "cut")
    lines.truncate(min(first, lines.rows))
    lines.close()
    assert written("cut", records) == whole


@given(st.integers(0, 12), st.integers(0, 10**6))
def test_vectors_grow_from_whatever_a_kill_left(tmp_path_factory, first, cut):
    file = tmp_path_factory.mktemp("vectors") / "x.npy"
    wanted = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    grown = GrowingVectors(file, 3)
    grown.add(wanted[:first])
    np.testing.assert_array_equal(np.load(file), wanted[:first])
    grown.add(wanted[first:])
    grown.close()
    content = file.read_bytes()
    file.write_bytes(content[: cut % (len(content) + 1)])
    grown = GrowingVectors(file, 3)
    grown.add(wanted[grown.rows :])
    grown.close()
    assert file.read_bytes() == content
    np.testing.assert_array_equal(np.load(file), wanted)


@pytest.fixture(scope="module")
def classifier(tiny, tmp_path_factory):
    empty = replace(tiny, labels=("no", "yes", "perhaps"))
    noise = np.random.default_rng(1)  # so much of it that not all rows get one label
    params = jax.tree.map(
        lambda x: x + noise.normal(scale=0.7, size=x.shape).astype(np.float32),
        random_params(empty.model, seed=0),
    )
    return save(empty.with_params(params), tmp_path_factory.mktemp("model"))


def written(folder, kind, rows=ROWS):
    file = folder / f"rows.{kind}"
    if kind == "jsonl":
        file.write_text("\n".join(map(json.dumps, rows)))
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), file, row_group_size=1000)
    elif kind == "csv":
        with file.open("w", newline="") as out:
            writer = csv.DictWriter(out, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        file.write_text("\n".join(row["text"] for row in rows) + "\n")
    return file


def answers(model, data, out, *more, seq_len=24):
    command = f"predict --model {model} --data {data} --out {out} --seq-len {seq_len}".split()
    main([*command, *more])
    return [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet", "txt"])
def test_predictions_are_those_of_evaluate_whatever_the_file(
    classifier, tmp_path, monkeypatch, kind
):
    monkeypatch.setattr(answer_file, "WINDOW", 5)
    labelled = written(tmp_path, "jsonl", [row | {"label": "yes"} for row in ROWS])
    main(f"evaluate --model {classifier} --data {labelled} --out {tmp_path}/e --seq-len 24".split())
    lines = (tmp_path / "e" / "predictions.jsonl").read_text().splitlines()
    wanted = [json.loads(line) for line in lines]
    file = written(tmp_path, kind)
    found = answers(classifier, file, tmp_path / "out")
    assert len({record["label"] for record in wanted}) > 1
    assert [record["idx"] for record in found] == list(range(len(ROWS)))
    assert [record["label"] for record in found] == [record["label"] for record in wanted]
    chances = [[record["probability"] for record in records] for records in (found, wanted)]
    np.testing.assert_allclose(*chances, atol=1e-6)
    assert open_source(file).about_rows() in (len(ROWS) - 1, len(ROWS), len(ROWS) + 1)


def test_a_killed_run_ends_in_the_same_file(classifier, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(answer_file, "WINDOW", 6)
    data, out = written(tmp_path, "jsonl"), tmp_path / "out"
    straight = answers(classifier, data, out)
    file = out / "predictions.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole[: whole.index(b"\n", len(whole) // 2) - 3])
    resumed = answers(classifier, data, out)
    assert file.read_bytes().splitlines()[:12] == whole.splitlines()[:12]
    assert [one["label"] for one in resumed] == [one["label"] for one in straight]
    assert answers(classifier, data, out) == resumed  # nothing is left to do
    same_size = data.read_bytes()
    data.write_bytes(same_size.replace(b"moon", b"noon"))
    with pytest.raises(SystemExit):
        answers(classifier, data, out)
    assert "data: files: rows.jsonl: " in " ".join(capsys.readouterr().err.split())
    data.write_bytes(same_size)
    for more in (["--columns", "[n]"], ["--seq-len", "20"]):
        with pytest.raises(SystemExit):
            answers(classifier, data, out, *more)
        assert "another configuration" in capsys.readouterr().err


def test_a_bad_row_stops_the_run_by_name_or_keeps_its_place(
    classifier, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(answer_file, "WINDOW", 5)
    lines = [json.dumps(row) for row in ROWS]
    lines[7], lines[9], lines[11] = '{"text": "cut', '{"text": "\\ud800 half"}', '{"text": ""}'
    data, out = tmp_path / "rows.jsonl", tmp_path / "out"
    data.write_text("\n".join(lines))
    with pytest.raises(SystemExit):
        answers(classifier, data, out)
    assert "rows.jsonl, line 8: not JSON" in " ".join(capsys.readouterr().err.split())
    assert (out / "predictions.jsonl").read_text().count("\n") == 7
    found = answers(classifier, data, out, "--bad-rows", "keep")
    assert "3 rows could not be read" in capsys.readouterr().out
    wrong = {record["idx"]: record["error"] for record in found if "error" in record}
    assert sorted(wrong) == [7, 9, 11] and len(found) == len(ROWS)
    assert "line 10: column 'text' holds half a character" in wrong[9]
    assert "line 12: column 'text' holds no text" in wrong[11]
    sound_rows = [row for n, row in enumerate(ROWS) if n not in wrong]
    alone = answers(classifier, written(tmp_path, "parquet", sound_rows), tmp_path / "alone")
    labels = [record["label"] for record in found if "error" not in record]
    assert labels == [record["label"] for record in alone]


def test_rows_of_a_task_are_answered_as_evaluate_does(classifier, tmp_path):
    rows = [
        {"premise": f"The {word} sat.", "hypothesis": "It is late.", "idx": n, "label": -1}
        for n, word in enumerate(["cat", "moon"] * 4)
    ]
    data = written(tmp_path, "jsonl", rows)
    with pytest.raises(SystemExit):  # three classes of other names
        answers(classifier, data, tmp_path / "out", "--task", "superglue/rte")
    pairs = ["--columns", "[premise,hypothesis]"]
    assert len(answers(classifier, data, tmp_path / "pairs", *pairs)) == len(rows)


def test_a_masked_lm_fills_each_mask_with_the_likeliest(small, tmp_path, capsys):
    model = save_orbax(small, tmp_path / "model")  # any format will do
    data = tmp_path / "rows.txt"
    texts = ["the <mask> sat", "<mask> and <mask>", "a film " * 12 + "<mask>"]
    data.write_text("\n".join(texts) + "\n")
    one, two, cut = answers(model, data, tmp_path / "out", "--top-k", "3")
    assert cut == {"idx": 2, "fills": [None]}
    for record, text in ((one, texts[0]), (two, texts[1])):
        ids = small.tokenizer.encode([[text]], seq_len=24).ids
        at = np.flatnonzero(ids[0] == small.tokenizer.special.mask)
        logits = forward(
            small.model, small.params, ids, ids != small.tokenizer.special.pad, at[None]
        )
        chances = softmax(np.asarray(logits)[0], axis=-1)
        best = np.argsort(-chances, axis=1)[:, :3]
        assert [[guess["id"] for guess in fill] for fill in record["fills"]] == best.tolist()
        found = [[guess["probability"] for guess in fill] for fill in record["fills"]]
        np.testing.assert_allclose(found, np.take_along_axis(chances, best, 1), atol=1e-6)
    data.write_text("no mask here\n")
    with pytest.raises(SystemExit):
        answers(model, data, tmp_path / "other")
    assert "line 1: no <mask> in text: nothing to fill; --bad-rows" in capsys.readouterr().err
    for more in (["--columns", "[a,b]"], ["--task", "glue/rte"]):
        with pytest.raises(SystemExit):
            answers(model, data, tmp_path / "other", *more)
        assert "is a masked LM: it fills one of --columns" in capsys.readouterr().err


def test_evaluate_scores_the_text_that_it_is_given(small, tmp_path):
    """Another text, or another column of it, in the folder of an earlier call."""
    model, data = save(small, tmp_path / "model"), tmp_path / "rows.jsonl"
    rows = [{"one": f"the cat {k} sat " * 9, "two": "seven ships sailed " * 5} for k in range(60)]
    data.write_text("\n".join(map(json.dumps, rows)))
    other = tmp_path / "other.txt"
    other.write_text("she wrote one long letter\n" * 60)

    def losses(out, *calls):
        for file, column in calls:
            command = f"evaluate --model {model} --data {file} --columns [{column}] --seq-len 24"
            main([*command.split(), "--out", str(tmp_path / out)])
            yield json.loads((tmp_path / out / "scores.json").read_text())["loss"]

    calls = [(data, "one"), (data, "two"), (other, "text")]
    found = list(losses("same", *calls))
    assert found == [loss for k, call in enumerate(calls) for loss in losses(f"own{k}", call)]
    assert len(set(found)) == 3
    assert [file.name for file in (tmp_path / "same").iterdir()] == ["scores.json"]


@pytest.mark.parametrize("pool", ["mean", "first"])
def test_embeddings_are_the_encoders_states(small, tmp_path, monkeypatch, pool):
    monkeypatch.setattr(answer_file, "WINDOW", 5)
    model = save(small, tmp_path / "model")
    data = written(tmp_path, "jsonl", [*ROWS[:9], {"text": None}])
    command = f"predict --model {model} --data {data} --out {tmp_path}/out --seq-len 24"
    main([*command.split(), "--embed", pool, "--bad-rows", "keep"])
    found = np.load(tmp_path / "out" / "embeddings.npy")
    ids, mask = small.tokenizer.encode([[row["text"] for row in ROWS[:9]]], seq_len=24)
    encoder = {"encoder": small.params["encoder"]}
    states = np.asarray(forward(Headless(small.config), encoder, ids, mask))
    mean = (states * mask[:, :, None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found[:9], mean if pool == "mean" else states[:, 0], atol=1e-5)
    assert found.shape == (10, 16) and np.isnan(found[9]).all()


# Not getrusage's: that begins with what the parent had.
PEAK = """
import re, sys
from pathlib import Path
from bort_jax.cli import main
main(sys.argv[1:])
print(re.search(r"VmHWM:\\s*([0-9]+) kB", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.parametrize(
    ("kind", "dtype"), [("cpu", "float32"), ("cudnn", "bfloat16"), ("tpu", "bfloat16")]
)
def test_devices_with_a_fused_attention_predict_in_bfloat16(small, monkeypatch, kind, dtype):
    monkeypatch.setattr("bort_jax.stages.predict.forward.device_kind", lambda: kind)
    found = for_device(small)
    assert found.config == replace(small.config, dtype=dtype)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(found.params)} == {dtype}
    x = np.array([[2, 7, 9, 11, 3]])
    states = [text_states(c.config, c.params, pad=PAD, pooling="mean")(x) for c in (found, small)]
    assert states[0].dtype == np.float32
    np.testing.assert_allclose(*states, atol=1e-6 if dtype == "float32" else 0.05)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "part"), [("jsonl", 1_000), ("csv", 10_000), ("parquet", 1_000), ("txt", 1_000)]
)
def test_many_more_rows_take_the_same_memory(classifier, tmp_path, kind, part):
    """Rows of 1 KB: 39 MiB more of them in the second file, and more if answers were kept.
    Both hold more than is read at a time. Of one file peaks differ by up to 15 MiB."""
    peaks = []
    for count in (2 * part + 1_000, 2 * part + 41_000):
        folder = tmp_path / str(count)
        folder.mkdir()
        rows = [{"text": f"the cat {n}", "unused": "storm " * 170} for n in range(count)]
        data = written(folder, kind, rows)
        command = ["predict", "--model", str(classifier), "--data", str(data), "--seq-len", "24"]
        environment = one_device()
        done = subprocess.run(
            [sys.executable, "-c", PEAK, *command, "--out", str(tmp_path / f"out{count}")],
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout.split()[-1]) / 1024)
        found = (tmp_path / f"out{count}" / "predictions.jsonl").read_text()
        assert found.count("\n") == count
    assert peaks[1] < peaks[0] + 25, f"{peaks} MiB"

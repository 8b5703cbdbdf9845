# SPDX-License-Identifier: Apache-2.0
"""One reader for rows and text: what real files hold is read right, or refused by name."""

import bz2
import gzip
import json
import lzma
import os

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bort_jax.data import corpus as corpus_module
from bort_jax.data.build import build_corpus
from bort_jax.data.corpus import clean_pieces, clean_text, open_source, read_rows, read_texts
from bort_jax.data.prepared import prepare_corpus
from bort_jax.data.reader import lines, read_file
from bort_jax.data.reader.row import LONGEST
from bort_jax.data.scan import scan, split_file
from bort_jax.data.tokenizer import Tokenizer
from bort_jax.data.tokenizer_files import require_tokenizer
from bort_jax.stages.finetune.config import Config as FinetuneConfig
from bort_jax.stages.finetune.splits import inputs_of
from bort_jax.storage.run_folder import RunMismatch, claim, claim_inputs
from bort_jax.tasks import Task, TaskOptions, read_examples
from bort_jax.tasks.read import find_split

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 9\n"


def texts(path, column="text"):
    return [values[column] for _, values in read_rows(path)]


def test_a_path_is_literal_whatever_signs_it_has(tmp_path):
    folder = tmp_path / "run [v2]*"
    folder.mkdir()
    for name, text in (("data[1].csv", "own"), ("data1.csv", "other"), ("a::b?.csv", "third")):
        (folder / name).write_text(f"text\n{text}\n")
    assert texts(folder / "data[1].csv") == ["own"]
    assert texts(folder / "a::b?.csv") == ["third"]
    assert sorted(texts(folder)) == ["other", "own", "third"]


def test_a_pattern_is_one_where_no_file_has_its_name_and_says_what_it_matched(tmp_path, capsys):
    for name in ("a1.txt", "a2.txt", "b.txt"):
        (tmp_path / name).write_text(name)
    assert texts(tmp_path / "a?.txt") == ["a1.txt", "a2.txt"]
    assert "a?.txt: 2 files read" in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match="no text at .*c"):
        open_source(tmp_path / "c*.txt")


@pytest.mark.parametrize(
    "lines, wanted",
    [
        ("null\nN/A\n1984\nNA\n007\n1e5\ntrue\n", "null N/A 1984 NA 007 1e5 true"),
        ('"a\nb"\n"say ""so"""\n', 'a\nb say "so"'),
        ("a\n\nb\n", "a b"),
        ("a\r\nb\r\n", "a b"),
    ],
)
def test_csv_cells_are_texts_as_they_stand(tmp_path, lines, wanted):
    (tmp_path / "a.csv").write_text("text\n" + lines, newline="")
    assert " ".join(texts(tmp_path / "a.csv")) == wanted


@pytest.mark.parametrize(
    "content, message",
    [
        ("label,text\n1,good\n2,bad,\n", "a.csv, line 3: 3 cells, and the header has 2 columns"),
        ('label,text\n1,"two\nlines"\n2\n', "a.csv, line 4: 1 cells"),
        ('label,text\n1,"never ends\n2,b\n', "a.csv, line 2: a quoted cell that begins here"),
        ('label,text\n1,"good" film\n', "a.csv, line 2: text after a closing quote"),
        ("label;text\n1;good\n", "a.csv, line 1: the header's cells are separated by ';'"),
        ("label\ttext\n1\tgood\n", "separated by '\\\\t'"),
        ("label,text\r1,good\r", "a.csv, line 1: a carriage return outside quotes"),
        (b"label,text\n1,good\n2,b\xe9\n", "a.csv, line 3: not UTF-8: byte 0xe9"),
        ("label,text\n1,good\n".encode("utf-16"), "a.csv is UTF-16"),
        ("label,text\n1,good\n".encode("utf-16-le"), "a.csv is UTF-16"),
    ],
)
def test_a_csv_row_that_cannot_be_told_is_refused_by_line(tmp_path, content, message):
    file = tmp_path / "a.csv"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        list(read_rows(file))


def test_only_columns_that_were_asked_for_matter(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table([["a"], ["x"], ["y"], [0]], names=["text", "same", "same", "label"])
    pq.write_table(table, tmp_path / "a.parquet")
    (tmp_path / "b.csv").write_text("text,same,same,label\na,x,y,0\n")
    rows = [{"text": "a", "new": None, "label": 0}] * 3000 + [{"text": "a", "new": [1], "label": 0}]
    twice = '\n{"same": 1, "text": "a", "same": 2, "label": 0}'
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, rows)) + twice)
    (tmp_path / "d.jsonl").write_text(twice)
    for name in ("a.parquet", "b.csv", "c.jsonl"):
        assert set(read_examples(tmp_path / name, Task()).labels.tolist()) == {0}
    for name in ("a.parquet", "b.csv", "d.jsonl"):
        with pytest.raises(ValueError, match="'same' stands more than once"):
            read_examples(tmp_path / name, Task(("same",)))
        with pytest.raises(ValueError, match="'same' stands more than once"):
            list(read_texts(tmp_path / name, column="same"))


def zstd(content: bytes) -> bytes:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as out:
        out.write(content)
    return sink.getvalue().to_pybytes()


PACKERS = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstd}


@pytest.mark.parametrize("ending", PACKERS)
def test_compressed_files_and_endings_in_any_case_are_read(tmp_path, ending):
    pack = PACKERS[ending]
    lines = [f"line {n}" for n in range(2000)]
    (tmp_path / f"A.TXT.{ending.upper()}").write_bytes(pack("\n".join(lines).encode()))
    rows = "".join(json.dumps({"text": text}) + "\n" for text in lines).encode()
    (tmp_path / f"b.jsonl.{ending}").write_bytes(pack(rows))
    assert texts(tmp_path) == lines * 2
    source = open_source(tmp_path)
    places = [place for place, _ in source.rows()]
    assert next(source.rows(places[2500]))[1].values == {"text": "line 501"}
    (tmp_path / f"cut.csv.{ending}").write_bytes(
        pack(b"text\n" + os.urandom(999).hex().encode())[:-9]
    )
    with pytest.raises(
        ValueError, match=f"cut.csv.{ending}, line .: its .{ending} data is damaged"
    ):
        list(read_rows(tmp_path / f"cut.csv.{ending}"))


def test_a_folder_says_what_it_reads_and_what_it_leaves_out(tmp_path, capsys):
    inner = tmp_path / "in" / "data"
    inner.mkdir(parents=True)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "c.txt").write_text("c")
    (inner / "a.txt").write_text("a")
    (inner / "folder.csv").mkdir()
    (inner / "folder.csv" / "b.CSV").write_text("text\nb\n")
    (inner / "d.TEXT").write_text("d")
    (inner / "e.ndjson").write_text('{"text": "e"}\n')
    (inner / "f.md").write_text("f")
    (inner / "dataset_infos.json").write_text('{"default": {}}')
    (inner / ".hidden.txt").write_text("no")
    (inner / "link").symlink_to(tmp_path / "linked")
    (inner / "link" / "loop").symlink_to(inner)
    (inner / "nowhere.txt").symlink_to(tmp_path / "nothing")
    assert sorted(texts(tmp_path / "in")) == ["a", "b", "c", "d", "e"]
    said = capsys.readouterr().out
    assert f"{tmp_path / 'in'}: 5 files read; left out: " in said and said.count("\n") == 1
    for name in ("f.md (another ending)", ".hidden.txt (hidden)", "nowhere.txt (a link to not",
                 "dataset_infos.json (describes the data set)"):  # fmt: skip
        assert f"data/{name}" in said


def test_a_pointer_of_git_lfs_is_refused_by_name(tmp_path):
    for name in ("a.txt", "a.csv", "a.jsonl", "a.json", "a.parquet", "a.txt.gz"):
        (tmp_path / name).write_text(POINTER)
        with pytest.raises(ValueError, match=f"{name} is a Git LFS pointer; fetch the file itself"):
            list(read_rows(tmp_path / name))


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.jsonl", "a.json"])
def test_a_byte_order_mark_is_no_text(tmp_path, name):
    content = {"csv": "text\nfirst\n", "txt": "first\n"}.get(name[2:], '{"text": "first"}\n')
    (tmp_path / name).write_text(content, encoding="utf-8-sig")
    assert texts(tmp_path / name) == ["first"]


def test_the_nth_row_of_a_text_file_is_its_nth_line(tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes("one\rstill\u2028one\x0b\x85\r\n\nthree\n".encode())
    assert texts(file) == ["one\rstill\u2028one\x0b\x85", "", "three"]
    file.write_bytes(b"one\ntw\xff\nthree")
    rows = list(read_file(file))
    assert rows[1].wrong == f"{file}, line 2: not UTF-8: byte 0xff" and len(rows) == 3


def test_json_rows_are_lines_or_the_items_of_an_array(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "PIECE", 50)
    rows = [{"text": f"a ] , [{n}", "more": {"x": [n, None]}} for n in range(40)]
    for indent in (None, 2):
        (tmp_path / "a.json").write_text(json.dumps(rows, indent=indent))
        assert [values for _, values in read_rows(tmp_path / "a.json")] == rows
    for end in ("", "]]", "] x", ", 3"):
        (tmp_path / "a.json").write_text(json.dumps(rows)[:-1] + end)
        with pytest.raises(ValueError, match="a.json, item 41: "):
            list(read_rows(tmp_path / "a.json"))
    huge = '{"text": "a", "n": ' + "9" * 5000 + "}"
    (tmp_path / "b.jsonl").write_text('\n{"text": "a", "n": NaN}\n\n' + huge + '\n{"text": \n')
    found = list(read_file(tmp_path / "b.jsonl"))
    assert [row.where[-6:] for row in found] == ["line 2", "line 4", "line 5"]
    assert [row.wrong.partition(": ")[2] for row in found][1:] == [
        "a number with too many digits",
        "not JSON: Expecting value at character 11",
    ]


def test_a_line_longer_than_a_row_may_be_is_told_and_passed(tmp_path):
    long_text = "x" * (LONGEST + 1)
    for name, line in (("a.txt", long_text), ("a.jsonl", json.dumps({"text": long_text}))):
        (tmp_path / name).write_text(f"{line}\n" + '{"text": 1}\n')
        long, short = read_file(tmp_path / name)
        assert long.wrong.startswith(f"{tmp_path / name}, line 1: longer than") and not short.wrong
    (tmp_path / "a.csv").write_text('text\na\n"' + f"{'b' * 999}\n" * (LONGEST // 999))
    with pytest.raises(ValueError, match="a.csv, line 3: a cell is longer than .* a quote missing"):
        list(read_file(tmp_path / "a.csv"))


SPACES = st.text(" \n\t\r\u2028\x1f\xa0abé", max_size=40)


@given(st.lists(st.lists(SPACES, min_size=1, max_size=4), max_size=4), st.integers(1, 9))
def test_clean_pieces_are_the_cleaned_text(parts, size):
    stream = [(part, k == len(text) - 1) for text in parts for k, part in enumerate(text)]
    found, sizes, whole = [""], 0, corpus_module.PIECE
    try:
        corpus_module.PIECE = size
        for piece, length, last in clean_pieces(stream):
            found[-1], sizes = found[-1] + piece, sizes + length
            found += [""] * last
    finally:
        corpus_module.PIECE = whole
    assert found[:-1] == [clean_text("".join(text)) for text in parts]
    assert sizes == sum(len("".join(text).encode()) for text in parts)


def test_a_long_text_is_tokenized_in_pieces_and_one_alone_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_module, "PIECE", 64)
    monkeypatch.setattr(lines, "PIECE", 100)
    long = " ".join(f"word{n}\n" * (n % 7 == 0) + f"word{n}" for n in range(500)).replace(
        "\n", "\r"
    )
    (tmp_path / "a.txt").write_bytes(f"{long}\nsecond\nthird {long}".encode())
    (tmp_path / "a.jsonl").write_text(
        "\n".join(json.dumps({"text": t}) for t in (long, "second", f"third {long}"))
    )
    Tokenizer.train(["words in a row", long], vocab_size=300).save(tmp_path / "tokenizer")
    found = []
    for name in ("a.txt", "a.jsonl"):
        parts = build_corpus(
            tmp_path / name, tmp_path / f"of {name}", tokenizer=tmp_path / "tokenizer"
        )
        assert parts.total("documents") == 3
        found.append((tmp_path / f"of {name}" / "train" / "00000.bin").read_bytes()[64:])
    tokenizer = require_tokenizer(tmp_path / "tokenizer")
    first, third = tokenizer.encode_documents([clean_text(long), clean_text(f"third {long}")])
    eos = tokenizer.special.eos

    assert np.frombuffer(found[0], "<u2").tolist() == [*first, eos, *third, eos]
    assert found[0] == found[1]
    (tmp_path / "one.txt").write_text(long)
    with pytest.raises(ValueError, match="one.txt: column 'text' holds just one text.*`fold -s"):
        build_corpus(tmp_path / "one.txt", tmp_path / "out")


def test_split_file_takes_any_known_ending_and_refuses_two(tmp_path):
    (tmp_path / "train.CSV.gz").write_bytes(gzip.compress(b"text,label\na,1\n"))
    assert split_file(tmp_path, "train").name == "train.CSV.gz"
    assert read_examples(find_split(tmp_path, "train"), Task()).labels.tolist() == [1]
    (tmp_path / "train.jsonl").write_text("")
    with pytest.raises(ValueError, match="has train.CSV.gz and train.jsonl: which one is train"):
        find_split(tmp_path, "train")
    (tmp_path / "dev.tsv").write_text("sentence\tlabel\n")
    with pytest.raises(
        FileNotFoundError, match="no dev split.*; .*dev.tsv: tab-separated files are"
    ):
        find_split(tmp_path, "dev")
    with pytest.raises(FileNotFoundError, match="tab-separated files are not read; it may be .txt"):
        scan(tmp_path / "dev.tsv")


def test_a_split_may_lie_in_several_files_as_the_hub_has_them(tmp_path):
    data = tmp_path / "set [1]" / "data"
    data.mkdir(parents=True)
    for k in range(2):
        (data / f"train-0000{k}-of-00002.jsonl").write_text(json.dumps({"text": "a", "label": k}))
    examples = read_examples(find_split(data.parent, "train"), Task())
    assert examples.labels.tolist() == [0, 1]
    assert len(TaskOptions(data=str(data.parent)).content()["train"]) == 2
    (data / "train-00001-of-00002.jsonl").unlink()
    with pytest.raises(ValueError, match="data: 1 files of train, of 2 there were"):
        find_split(data.parent, "train")


def test_what_can_be_read_only_once_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(ValueError, match="pipe.txt is neither file nor folder"):
        open_source(tmp_path / "pipe.txt")
    with pytest.raises(FileNotFoundError, match="no text at -"):
        open_source("-")


def test_scores_stored_as_texts_are_read(tmp_path):
    task = Task(labels=("0", "5"), head="regression")
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "a", "label": "2.5"}\n{"text": "b", "label": 5}\n')
    assert read_examples(file, task).labels.tolist() == [2.5, 5]
    for label in ("high", "5.1", "nan", "1_0"):
        file.write_text(json.dumps({"text": "a", "label": label}))
        with pytest.raises(ValueError, match=f"a.jsonl, line 1: label '{label}' is not a number"):
            read_examples(file, task)


# Identity by content.


def edit(file, old, new):
    """Another word of the same size, at the same time."""
    times = file.stat()
    content = file.read_text().replace(old, new)
    assert len(content) == times.st_size
    file.unlink()
    file.write_text(content)
    os.utime(file, ns=(times.st_atime_ns + 10**9, times.st_mtime_ns + 10**9))


def test_another_text_of_the_same_size_is_another_corpus(tmp_path):
    text, out = tmp_path / "a.txt", tmp_path / "corpus"
    text.write_text("good film\nbad plot\n")
    first = prepare_corpus(text, out, vocab_size=270).sha256
    assert prepare_corpus(text, out, vocab_size=270).sha256 == first
    edit(text, "good", "poor")
    with pytest.raises(ValueError, match="made from something else .files: a.txt: .* asked for"):
        prepare_corpus(text, out, vocab_size=270)
    with pytest.raises(ValueError, match="column: 'text' there, 'other' asked for"):
        prepare_corpus(text, out, column="other", vocab_size=270)
    text.unlink()  # nothing else can be meant
    assert prepare_corpus(text, out, vocab_size=270).sha256 == first


def test_a_run_knows_its_rows_and_models_by_content(tmp_path, tiny):
    rows = tmp_path / "rows"
    rows.mkdir()
    for split in ("train", "validation"):
        (rows / f"{split}.csv").write_text("text,label\ngood film,1\nbad plot,0\n")
    (tmp_path / "more.txt").write_text("more\n")
    config = FinetuneConfig(model="m", data=str(rows), unlabelled=str(tmp_path / "more.txt"))
    out = claim(tmp_path / "out", config)
    claim_inputs(out, inputs_of(config, model=tiny, teacher=None))
    (out / "runs.json").write_text("[]")  # it has begun
    claim_inputs(out, inputs_of(config, model=tiny, teacher=None))
    other = jax.tree.map(lambda x: x + 1, tiny.params)
    with pytest.raises(RunMismatch, match="other inputs .model: "):
        claim_inputs(out, inputs_of(config, model=tiny.with_params(other), teacher=None))
    edit(tmp_path / "more.txt", "more", "less")
    with pytest.raises(RunMismatch, match="unlabelled: files: more.txt: "):
        claim_inputs(out, inputs_of(config, model=tiny, teacher=None))
    edit(rows / "validation.csv", "good", "poor")
    with pytest.raises(RunMismatch, match="validation.csv: '[0-9a-f]{12}…' there"):
        claim_inputs(out, inputs_of(config, model=tiny, teacher=None))


@pytest.mark.parametrize("kind", ["BPE", "WordPiece"])
def test_a_long_text_has_the_same_ids_in_pieces(kind, monkeypatch):
    from tokenizers import BertWordPieceTokenizer

    text = " ".join(f"word{n}{' ' * (n % 3)}<mask> [SEP], wörter\n" for n in range(300))
    if kind == "BPE":
        tokenizer = Tokenizer.train(["words in a row", text[:500]], vocab_size=300)
    else:
        names = [
            "[PAD]",
            "[UNK]",
            "[CLS]",
            "[SEP]",
            "[MASK]",
            "word",
            "##1",
            "##2",
            "##3",
            ",",
            "w",
        ]
        tokenizer = Tokenizer(
            BertWordPieceTokenizer({name: k for k, name in enumerate(names)})._tokenizer
        )
    whole = tokenizer.encode_documents([text, "", "word1"])
    monkeypatch.setattr(corpus_module, "PIECE", 50)
    assert tokenizer.encode_documents([text, "", "word1"]) == whole

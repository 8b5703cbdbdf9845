# SPDX-License-Identifier: Apache-2.0
"""Corpora, tokenizers, shards, masks and tasks."""

import json

import numpy as np
import pytest

from bort_jax.data.corpus import open_source, read_texts
from bort_jax.data.masking import masked_batch
from bort_jax.data.prepared import prepare_corpus
from bort_jax.data.tokenizer import Tokenizer
from bort_jax.data.tokenizer_files import require_tokenizer
from bort_jax.stages.agora.split import split_dev
from bort_jax.tasks import Examples, Task, read_examples

TEXTS = ["one two three", "four", "", "fünf 六"]


def write_all_kinds(folder):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"text": text} for text in TEXTS]
    (folder / "a.txt").write_text("\n".join(TEXTS))
    (folder / "b.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "c.csv").write_text("text\n" + "\n".join(f'"{text}"' for text in TEXTS))
    pq.write_table(pa.table({"text": [*TEXTS, None]}), folder / "d.parquet")
    (folder / "ignored.md").write_text("not read")


def test_a_folder_of_every_kind_of_file(tmp_path):
    write_all_kinds(tmp_path)
    wanted = [text for text in TEXTS if text]
    assert list(read_texts(tmp_path)) == wanted * 4
    assert list(read_texts(tmp_path / "d.parquet")) == wanted


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b[:4] + b"x" * len(b)])
def test_a_damaged_parquet_file_is_named(tmp_path, damage):
    write_all_kinds(tmp_path)
    file = tmp_path / "d.parquet"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match="d.parquet cannot be read as parquet"):
        list(read_texts(file))


def test_reading_goes_on_where_it_was_left_in_every_kind_of_file(tmp_path):
    write_all_kinds(tmp_path)
    source = open_source(tmp_path)
    rows = list(source.rows())
    for k, (position, _) in enumerate(rows, start=1):
        assert list(source.rows(position)) == rows[k:]


def test_missing_empty_and_columnless_text_each_say_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="no text at"):
        next(read_texts(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="no file that ends in .txt"):
        next(read_texts(tmp_path))
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(ValueError, match="holds no text"):
        list(read_texts(tmp_path / "empty.txt"))
    (tmp_path / "other.jsonl").write_text('{"txt": "a", "id": 1}')
    with pytest.raises(ValueError, match="no column 'text'; did you mean 'txt'"):
        list(read_texts(tmp_path / "other.jsonl"))


def test_the_same_texts_give_the_same_tokenizer(text_file, tmp_path):
    texts = list(read_texts(text_file))
    one, two = (Tokenizer.train(texts, vocab_size=290) for _ in range(2))
    assert one.sha256 == two.sha256
    one.save(tmp_path)
    assert require_tokenizer(tmp_path).sha256 == one.sha256
    assert list(one.special) == [0, 1, 2, 3, 4]


def test_a_folder_without_tokenizer_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no tokenizer.json"):
        require_tokenizer(tmp_path)


def test_a_vocabulary_without_room_for_bytes_is_refused():
    with pytest.raises(ValueError, match="at least 261"):
        Tokenizer.train(["a"], vocab_size=200)


@pytest.mark.parametrize("seq_len", [6, 9, 12, 30])
def test_pairs_are_framed_and_the_longer_is_cut_first(corpus, seq_len):
    tokenizer, special = corpus.tokenizer, corpus.tokenizer.special
    long, short = "the cat sat on the mat " * 3, "moon"
    row = tokenizer.encode([[long], [short]], seq_len=seq_len).ids[0]
    text = row[row != special.pad]
    assert text[0] == special.bos and text[-1] == special.eos
    assert (text == special.eos).sum() == 3 and len(row) == seq_len
    (whole,) = tokenizer.encode_documents([short])
    kept = list(text[np.flatnonzero(text == special.eos)[1] + 1 : -1])
    assert kept == (whole if len(whole) <= (seq_len - 4) // 2 else whole[: len(kept)])


def test_encoded_mask_marks_the_tokens(corpus):
    encoded = corpus.tokenizer.encode([["the cat", "a"]], seq_len=8)
    assert np.array_equal(encoded.mask, encoded.ids != corpus.tokenizer.special.pad)


def test_a_prepared_corpus_is_opened_and_another_tokenizer_refused(corpus, text_file, tmp_path):
    source = corpus.train.folder.parent
    again = prepare_corpus(source, tmp_path / "unused")
    assert again.tokenizer.sha256 == corpus.tokenizer.sha256
    assert not (tmp_path / "unused").exists()
    Tokenizer.train(["other words"], vocab_size=270).save(tmp_path / "other")
    with pytest.raises(ValueError, match="another tokenizer"):
        prepare_corpus(source, tmp_path / "unused", tokenizer=tmp_path / "other")


def test_held_out_documents_are_not_trained_on(corpus, text_file):
    documents = list(read_texts(text_file))
    held_out = documents[1::50]
    tokens = [t for ids in corpus.tokenizer.encode_documents(held_out) for t in [*ids, 2]]
    assert corpus.heldout.tokens.tolist() == tokens


BATCH = {"seed": 3, "batch_size": 8, "seq_len": 24}


def test_masked_batches_are_a_pure_function_of_the_index(corpus):
    one = masked_batch(corpus.train, 5, **BATCH)
    masked_batch(corpus.train, 6, **BATCH)
    two = masked_batch(corpus.train, 5, **BATCH)
    other = masked_batch(corpus.train, 5, **{**BATCH, "seed": 4})
    assert all(np.array_equal(one[name], two[name]) for name in one)
    assert not np.array_equal(one["ids"], other["ids"])


def test_masks_are_80_10_10(corpus):
    special = corpus.tokenizer.special
    batches = [masked_batch(corpus.train, i, seed=0, batch_size=64, seq_len=24) for i in range(60)]
    shown = np.concatenate([np.take_along_axis(b["ids"], b["positions"], 1) for b in batches])
    labels = np.concatenate([b["labels"] for b in batches])
    assert labels.shape[1] == round(0.15 * 22)
    share_masked = (shown == special.mask).mean()
    share_kept = (shown == labels).mean()
    noise = 4 * np.sqrt(0.8 * 0.2 / labels.size)
    assert abs(share_masked - 0.8) < noise
    assert abs(share_kept - (0.1 + 0.1 / 295)) < noise
    assert not np.isin(labels, [special.bos, special.pad]).any()


def test_tasks_read_names_and_indices(tmp_path):
    file = tmp_path / "train.jsonl"
    file.write_text('{"text": "a", "label": 1}\n{"text": "b", "label": 0}\n')
    task = Task(labels=("no", "yes"))
    assert read_examples(file, task).labels.tolist() == [1, 0]
    file.write_text('{"text": "a", "label": "yes"}\n')
    assert read_examples(file, task).labels.tolist() == [1]


@pytest.mark.parametrize(
    "row, message",
    [
        ({"text": "a", "label": 2}, "row 2: label 2 is not one of no, yes"),
        ({"text": "a", "label": "maybe"}, "label 'maybe' is not one of no, yes"),
        ({"text": " ", "label": 0}, "row 2: column 'text' holds no text"),
        ({"txt": "a", "label": 0}, "row 2: "),
    ],
)
def test_a_bad_row_is_named(tmp_path, row, message):
    import pyarrow as pa
    import pyarrow.parquet as pq

    good = {name: "a" if name in ("text", "txt") else "no" for name in row}
    rows = [good, {name: str(value) for name, value in row.items()}]
    if "txt" in row:
        message = "no column 'text'; did you mean 'txt'"
    file = tmp_path / "train.parquet"
    pq.write_table(pa.Table.from_pylist(rows), file)
    with pytest.raises(ValueError, match=message.replace("label 2", "label '2'")):
        read_examples(file, Task(labels=("no", "yes")))


def test_dev_halves_keep_equal_texts_together():
    texts = tuple(f"text {n // 2}" if n % 2 else f"Text  {n // 2}" for n in range(400))
    split = split_dev(Examples.of([texts], np.zeros(400, int)))
    assert sorted([*split.steer, *split.report]) == list(range(400))
    assert {k // 2 for k in split.steer}.isdisjoint({k // 2 for k in split.report})
    assert 140 < len(split.steer) < 260

# SPDX-License-Identifier: Apache-2.0
"""Corpora that are built: killed and continued, damaged, and read in an order of laws."""

import json
import signal
import subprocess
import sys
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command_line import refused, run
from hypothesis import given
from hypothesis import strategies as st

from bort_jax.data import build as module
from bort_jax.data.build import HELD_OUT_EVERY, build_corpus
from bort_jax.data.choice import choose_words, masked_count
from bort_jax.data.corpus import Position, clean_text, open_source, read_texts
from bort_jax.data.masking import MaskedStream, masked_batch
from bort_jax.data.order import key_of, keys_of, permute
from bort_jax.data.packing import bucket_lengths, document_spans
from bort_jax.data.prepared import check_corpus, open_corpus, prepare_corpus
from bort_jax.data.shards import CORPUS
from bort_jax.data.tokenizer import Tokenizer
from bort_jax.data.tokenizer_files import load_tokenizer, require_tokenizer
from bort_jax.stages.pretrain.run import PretrainConfig, pretrain
from bort_jax.storage.parts import read_parts

SHARD_TOKENS = 1500
WORDS = [f"{a}{b}{c}" for a in "bdfglm" for b in "aeiou" for c in ("n", "rst", "lt", "ck")]


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Two files, 700 documents of 1 to 90 words, and rows without text."""
    folder = tmp_path_factory.mktemp("texts")
    generator = np.random.default_rng(1)
    for name, count in (("a.jsonl", 300), ("b.jsonl", 400)):
        rows = []
        for number in range(count):
            words = generator.choice(WORDS, generator.integers(1, 91))
            rows.append({"text": "" if number % 37 == 5 else " ".join(words)})
        (folder / name).write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.fixture(scope="module")
def tokenizer_folder(texts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    Tokenizer.train(read_texts(texts), vocab_size=320).save(folder)
    return folder


@pytest.fixture(scope="module")
def built(texts, tokenizer_folder, tmp_path_factory):
    """The folder of an undisturbed build, in several parts."""
    folder = tmp_path_factory.mktemp("built") / "corpus"
    build_corpus(texts, folder, tokenizer=tokenizer_folder, shard_tokens=SHARD_TOKENS)
    assert len(read_parts(folder, CORPUS)) > 8
    return folder


@pytest.fixture
def copied(built, tmp_path):
    import shutil

    return Path(shutil.copytree(built, tmp_path / "copied"))


def contents(folder: Path) -> dict[str, bytes]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


# Building.


def test_a_corpus_holds_the_cleaned_documents_in_order(built, texts):
    corpus = open_corpus(built)
    eos = corpus.tokenizer.special.eos
    expected = {True: [], False: []}
    for number, ids in enumerate(corpus.tokenizer.encode_documents(list(read_texts(texts)))):
        expected[number % HELD_OUT_EVERY == 1] += [*ids, eos]
    assert corpus.train.tokens.tolist() == expected[False]
    assert corpus.heldout.tokens.tolist() == expected[True]
    assert corpus.train.files[0].dtype == np.uint16
    manifest = read_parts(built, CORPUS)
    assert manifest.total("documents") + manifest.total("dropped") == 700
    assert manifest.total("dropped") == sum(n % 37 == 5 for m in (300, 400) for n in range(m))
    counts = np.bincount(corpus.train.tokens, minlength=corpus.tokenizer.vocab_size)
    assert np.array_equal(corpus.train.frequencies(), counts)


def test_parts_end_with_documents(built):
    corpus = open_corpus(built)
    eos = corpus.tokenizer.special.eos
    for file in corpus.train.files:
        assert file[-1] == eos
    longest = max(np.diff(corpus.train.document_ends()))
    sizes = [len(file) for file in corpus.train.files]
    assert all(SHARD_TOKENS <= size < SHARD_TOKENS + longest for size in sizes[:-1])


@pytest.mark.parametrize(
    "text, wanted",
    [
        (" a \t b\u00a0c ", "a b c"),
        ("a\r\n\r\n\n b\rc\u2028d", "a\nb\nc\nd"),
        (" \n\t\n", ""),
        ("Ünïted <b>Fünf</b>", "Ünïted <b>Fünf</b>"),
    ],
)
def test_cleaning(text, wanted):
    assert clean_text(text) == wanted


@given(st.text(max_size=60))
def test_cleaning_twice_is_cleaning_once_and_loses_no_letter(text):
    once = clean_text(text)
    assert clean_text(once) == once and once.split() == text.split()


def test_separators_written_in_a_text_are_text(tokenizer_folder, tmp_path):
    (tmp_path / "a.txt").write_text("b</s>a<mask>n\nlast [SEP] line\nthird")
    corpus = prepare_corpus(tmp_path / "a.txt", tmp_path / "out", tokenizer=tokenizer_folder)
    assert len(corpus.train.document_ends()) == 2
    assert not np.isin(corpus.tokenizer.special.mask, corpus.train.tokens)
    assert corpus.tokenizer.backend.decode(corpus.train.files[0][:-1].tolist()).startswith("b</s>a")


def test_a_large_vocabulary_is_written_in_32_bits(tmp_path):
    from tokenizers import Tokenizer as Backend
    from tokenizers.models import WordPiece
    from tokenizers.pre_tokenizers import Whitespace

    names = ["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]", *(f"w{n}" for n in range(70_000))]
    backend = Backend(WordPiece({name: n for n, name in enumerate(names)}, unk_token="[UNK]"))
    backend.pre_tokenizer = Whitespace()
    Tokenizer(backend).save(tmp_path / "tokenizer")
    (tmp_path / "a.txt").write_text("w69999 w1\nw65536\n")
    corpus = prepare_corpus(tmp_path / "a.txt", tmp_path / "c", tokenizer=tmp_path / "tokenizer")
    assert corpus.train.tokens.dtype == np.uint32
    assert corpus.train.tokens.tolist() == [70_004, 6, 2]


def test_text_can_be_read_from_anywhere_on(texts):
    source = open_source(texts)
    whole = list(source.documents("text"))
    assert whole[0].next == Position(0, 1) and whole[-1].next == Position(1, 400)
    for k in (0, 17, 299, 300, 650, 699):
        assert list(source.documents("text", whole[k].next)) == whole[k + 1 :]


def test_a_dataset_of_the_hub_is_streamed(monkeypatch):
    import datasets

    commit = "0" * 40  # needs no lookup

    asked = []

    def load_dataset(*args, **options):
        asked.append((args, options))
        rows = [{"text": f"line {n}"} for n in range(5)]
        return datasets.IterableDataset.from_generator(lambda: iter(rows))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    source = f"hub:someone/texts:de@{commit}#dev"
    assert list(read_texts(source)) == [f"line {n}" for n in range(5)]
    options = {"split": "dev", "revision": commit, "streaming": True}
    assert asked == [(("someone/texts", "de"), options)]
    assert open_source(source).text_bytes("text") is None
    assert open_source(source).description() == {"source": source}
    with pytest.raises(ValueError, match="expected hub:NAME"):
        open_source("hub:")


def test_a_hub_that_cannot_be_reached_is_named():
    with pytest.raises(FileNotFoundError, match="no folder someone/texts, and HF_HUB_OFFLINE is"):
        next(read_texts("hub:someone/texts"))


# Killed and continued.


def start_build(texts, folder, tokenizer_folder):
    """A build in a process of its own, that takes a moment over every part."""
    code = (
        "import sys, time; from bort_jax.data import build as m\n"
        "fsync = m.os.fsync; m.os.fsync = lambda n: (fsync(n), time.sleep(0.004))\n"
        "m.build_corpus(sys.argv[1], sys.argv[2], tokenizer=sys.argv[3], shard_tokens=1500)"
    )
    command = [sys.executable, "-c", code, str(texts), str(folder), str(tokenizer_folder)]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL)


@pytest.mark.slow
def test_a_build_killed_at_random_moments_continues_to_the_same_bytes(
    texts, built, tokenizer_folder, tmp_path
):
    generator, folder, kills = np.random.default_rng(5), tmp_path / "corpus", 0
    parts = lambda: len(read_parts(folder, CORPUS)) if (folder / CORPUS.manifest).is_file() else 0
    for _ in range(3):
        process, before = start_build(texts, folder, tokenizer_folder), parts()
        deadline = time.monotonic() + 60
        while process.poll() is None and parts() <= before and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(generator.uniform(0, 0.02))
        process.kill()
        kills += process.wait() == -signal.SIGKILL and not read_parts(folder, CORPUS).complete
    assert kills >= 2
    build_corpus(texts, folder, tokenizer=tokenizer_folder, shard_tokens=SHARD_TOKENS)
    assert contents(folder) == contents(built)


def test_build_corpus_continues_after_the_last_part_and_reads_no_text_twice(
    built, copied, texts, tokenizer_folder
):
    """The files of finished parts are left as they are."""
    parts = read_parts(copied, CORPUS)
    replace(parts, parts=parts.parts[:-2], complete=False).write()
    kept = {file: file.stat().st_mtime_ns for file in copied.glob("*/0000[0-4].bin")}
    build_corpus(texts, copied, tokenizer=tokenizer_folder, shard_tokens=SHARD_TOKENS)
    assert contents(copied) == contents(built)
    assert kept == {file: file.stat().st_mtime_ns for file in kept} and len(kept) == 10


def test_an_unfinished_build_is_not_trained_on(copied):
    replace(read_parts(copied, CORPUS), complete=False).write()
    with pytest.raises(ValueError, match="unfinished.* the command that began it continues it"):
        open_corpus(copied)


def test_another_build_in_the_same_folder_is_refused(copied, texts, tokenizer_folder, tmp_path):
    settings = dict(tokenizer=tokenizer_folder, shard_tokens=SHARD_TOKENS)
    with pytest.raises(ValueError, match="shard_tokens: 1500 there, 9 asked for"):
        build_corpus(texts, copied, **(settings | {"shard_tokens": 9}))
    with pytest.raises(ValueError, match="files: b.jsonl: .* there, None asked for"):
        build_corpus(texts / "a.jsonl", copied, **settings)
    Tokenizer.train(["other words"], vocab_size=270).save(tmp_path / "other")
    with pytest.raises(ValueError, match="tokenizer_sha256"):
        build_corpus(texts, copied, **(settings | {"tokenizer": tmp_path / "other"}))


# Damage.


def test_open_and_check_corpus_name_the_shard_that_is_wrong(copied, texts, tokenizer_folder):
    file, other = copied / "train" / "00002.bin", copied / "heldout" / "00001.bin"
    good = file.read_bytes()
    file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    open_corpus(copied)  # reads no contents
    other.unlink()
    with pytest.raises(FileNotFoundError, match=f"{other} is missing"):
        open_corpus(copied)
    with pytest.raises(ValueError, match=f"{file} is corrupt.*; {other} is missing"):
        check_corpus(copied)
    with pytest.raises(ValueError, match=f"{file} is corrupt"):
        build_corpus(texts, copied, tokenizer=tokenizer_folder, shard_tokens=SHARD_TOKENS)


def test_a_tokenizer_that_did_not_write_the_shards_is_refused(copied, built, tmp_path):
    Tokenizer.train(["other words"], vocab_size=270).save(tmp_path / "other")
    with pytest.raises(ValueError, match="another tokenizer than"):
        prepare_corpus(built, tmp_path / "unused", tokenizer=tmp_path / "other")
    Tokenizer.train(["other words"], vocab_size=270).save(copied / "tokenizer")
    with pytest.raises(ValueError, match="tokenizer is another tokenizer"):
        open_corpus(copied)


def test_a_tokenizer_whose_ids_have_gaps_is_refused(tmp_path, tokenizer_folder):
    tokens = json.loads((tokenizer_folder / "tokenizer.json").read_text())
    vocabulary = tokens["model"]["vocab"]
    vocabulary[max(vocabulary, key=vocabulary.__getitem__)] = 999
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokens))
    with pytest.raises(ValueError, match="320 tokens and the id 999"):
        require_tokenizer(tmp_path).check_ids()
    vocabulary[max(vocabulary, key=vocabulary.__getitem__)] = 2**24
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokens))
    with pytest.raises(ValueError, match="tokenizer.json: a token has the id 16,777,216"):
        require_tokenizer(tmp_path)


def peak_of_a_build(source, folder, tokenizer) -> int:
    """Bytes that Python and numpy held at the most."""
    tracemalloc.start()
    try:
        build_corpus(source, folder, tokenizer=tokenizer)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_text(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BATCH_BYTES", 1 << 14)
    generator = np.random.default_rng(0)
    text = "\n".join(" ".join(generator.choice(WORDS, 100)) for _ in range(500))
    Tokenizer.train([text], vocab_size=700).save(tmp_path / "tokenizer")
    peaks = {}
    for count in (1, 2, 6):  # the first one also loads what is loaded once
        (tmp_path / f"{count}").mkdir()
        for number in range(count):
            (tmp_path / f"{count}" / f"{number:02}.txt").write_text(text)
        folders = tmp_path / f"{count}", tmp_path / f"corpus{count}"
        peaks[count] = peak_of_a_build(*folders, tmp_path / "tokenizer")
    assert 4 * len(text) > 900_000  # more of it, and not
    assert peaks[6] < peaks[2] + 300_000, peaks


# Order.


@given(st.integers(1, 3000), st.integers(0, 2**63))
def test_a_keyed_permutation_is_one(count, seed):
    found = permute(np.arange(count), count, key=key_of(seed))
    assert np.array_equal(np.sort(found), np.arange(count))


def test_a_keyed_permutation_depends_on_its_key_and_scatters():
    count = 20_000
    one, two = (permute(np.arange(count), count, key=key_of(0, k)) for k in range(2))
    for found in (one, two):
        assert abs(np.corrcoef(found, np.arange(count))[0, 1]) < 4 / np.sqrt(count)
        assert abs(np.corrcoef(found[1:], found[:-1])[0, 1]) < 4 / np.sqrt(count)
    assert (one == two).sum() < 12  # one in the mean
    places = np.array([5, 5, 7])
    keys = np.array([key_of(0, 0), key_of(0, 1), key_of(0, 1)], np.uint64)
    both = permute(places, count, key=keys)
    assert both.tolist() == [one[5], two[5], two[7]]


def test_keys_agree_however_they_are_made():
    assert keys_of(key_of(3, 1), np.arange(4)).tolist() == [key_of(3, 1, n) for n in range(4)]


STREAMS = {
    "joined": {},
    "words": {"whole_word": True},
    "documents": {"packing": "documents"},
    "buckets": {"packing": "documents", "buckets": True},
}


def stream_of(folder, kind="joined", *, seq_len=128, batch_size=8, seed=3):
    corpus = open_corpus(folder)
    options = dict(STREAMS[kind])
    if options.pop("whole_word", False):
        options["word_starts"] = corpus.tokenizer.word_starts()
    return MaskedStream(corpus.train, seed=seed, batch_size=batch_size, seq_len=seq_len, **options)


@pytest.mark.parametrize("kind", STREAMS)
@given(index=st.integers(0, 10**9), hosts=st.sampled_from([1, 2, 4, 8]))
def test_hosts_together_read_what_one_host_reads(built, kind, index, hosts):
    stream = stream_of(built, kind)
    whole = stream.batch(index)
    for host in range(hosts):
        mine = stream.batch(index, host=host, hosts=hosts)
        for name, values in whole.items():
            assert np.array_equal(mine[name], values[host::hosts]), name


@pytest.mark.parametrize("kind", STREAMS)
def test_a_batch_does_not_depend_on_what_was_read_before(built, kind):
    one = stream_of(built, kind).batch(7)
    stream = stream_of(built, kind)
    stream.batch(123)
    two, other = stream.batch(7), stream_of(built, kind, seed=4).batch(7)
    assert all(np.array_equal(one[name], two[name]) for name in one)
    assert one["ids"].shape != other["ids"].shape or not np.array_equal(one["ids"], other["ids"])


def original(batch, row) -> bytes:
    """The tokens of a row before they were hidden, without padding."""
    ids = batch["ids"][row].copy()
    there = batch["weights"][row] > 0
    ids[batch["positions"][row][there]] = batch["labels"][row][there]
    return ids[batch["mask"][row]].tobytes()


@pytest.mark.parametrize("kind", ["joined", "words", "documents"])
def test_an_epoch_visits_every_row_exactly_once(built, kind):
    stream = stream_of(built, kind, seq_len=128, batch_size=1)
    (rows,) = stream.rows
    starts, lengths = rows.spans(np.arange(rows.number))
    ids = stream.shard.read(starts, lengths, seq_len=128)
    every = sorted(row[: n + 2].tobytes() for row, n in zip(ids, lengths, strict=True))
    orders = []
    for epoch in (0, 1):
        indices = range(epoch * rows.number, (epoch + 1) * rows.number)
        orders.append([original(stream.batch(index), 0) for index in indices])
    assert sorted(orders[0]) == sorted(orders[1]) == every and orders[0] != orders[1]


def test_joined_rows_cross_files_and_documents(built):
    corpus = open_corpus(built)
    tokens, rows = corpus.train.tokens, corpus.train.rows(64)
    ids = corpus.train.read(np.arange(rows) * 62, np.full(rows, 62), seq_len=64)
    assert len(corpus.train.files) > 8
    assert np.array_equal(ids[:, 1:-1].ravel(), tokens[: rows * 62])


def test_rows_within_documents_hold_every_token_once(built):
    shard = open_corpus(built).train
    eos = shard.special.eos
    starts, lengths = document_spans(shard, 30)
    covered = np.zeros(shard.n_tokens, dtype=int)
    for start, length in zip(starts, lengths, strict=True):
        covered[start : start + length] += 1
        assert 0 < length <= 30 and eos not in shard.tokens[start : start + length]
    assert np.array_equal(covered, shard.tokens != eos)


@pytest.mark.parametrize("epoch", [0, 3])
def test_buckets_cover_every_document_row_once_an_epoch(built, epoch):
    stream = stream_of(built, "buckets", batch_size=8, seq_len=256)
    starts, lengths = document_spans(stream.shard, 254)
    ids = stream.shard.read(starts, lengths, seq_len=256)
    every = sorted(row[: n + 2].tobytes() for row, n in zip(ids, lengths, strict=True))
    total, seen, shapes = int(stream.batches_until[-1]), [], set()
    for index in range(epoch * total, (epoch + 1) * total):
        batch = stream.batch(index)
        shapes.add(tuple(values.shape for values in batch.values()))
        size, seq_len = batch["ids"].shape
        assert size * seq_len == 8 * 256
        assert (batch["mask"].sum(axis=1) <= seq_len).all()
        there = np.flatnonzero(batch["weights"].any(axis=1))
        lengths = batch["mask"][there].sum(axis=1)
        assert seq_len == 32 or (lengths > seq_len // 2).all()
        seen += [original(batch, row) for row in there]
    assert sorted(seen) == every
    assert len(shapes) == len(stream.rows) == len(bucket_lengths(256)) == 4


def test_a_step_compiles_once_a_bucket(built):
    import jax

    traced = []

    @jax.jit
    def step(batch):
        traced.append(batch["ids"].shape)
        return (batch["mask"] * batch["ids"]).sum()

    stream = stream_of(built, "buckets", seq_len=128)
    for index in range(2 * int(stream.batches_until[-1])):
        step(stream.batch(index))
    assert len(traced) == len(set(traced)) == len(stream.rows)


# Masks.


@pytest.mark.parametrize("kind", STREAMS)
def test_masks_share_weights_and_fillers(built, kind):
    stream = stream_of(built, kind, batch_size=64)
    shard = stream.shard
    for index in range(6):
        batch = stream.batch(index)
        there = batch["weights"] > 0
        lengths = batch["mask"].sum(axis=1) - 2
        m = int(masked_count(batch["ids"].shape[1] - 2))
        assert batch["positions"].shape == batch["labels"].shape == there.shape == (len(there), m)
        assert (batch["positions"][~there] == 0).all()
        assert (batch["ids"][:, 0] == shard.special.bos).all()
        assert (there.sum(axis=1) <= masked_count(lengths)).all()
        if kind != "words":
            assert np.array_equal(there.sum(axis=1), masked_count(lengths))
        for positions, here, length in zip(batch["positions"], there, lengths, strict=True):
            chosen = positions[here]
            assert len(set(chosen)) == len(chosen) and (chosen >= 1).all()
            assert (chosen <= length).all()
        assert (batch["ids"][~batch["mask"]] == shard.special.pad).all()
        assert {name: values.dtype.name for name, values in batch.items()} == {
            "ids": "int32",
            "mask": "bool",
            "positions": "int32",
            "labels": "int32",
            "weights": "float32",
        }


def test_every_position_is_chosen_alike(built):
    stream = stream_of(built, batch_size=512, seq_len=34)
    counts = np.zeros(34)
    for index in range(40):
        np.add.at(counts, stream.batch(index)["positions"], 1)
    assert counts[0] == counts[33] == 0
    expected = 512 * 40 * masked_count(32) / 32
    assert abs(counts[1:33] - expected).max() < 5 * np.sqrt(expected)


WORD_ROWS = st.integers(0, 2**63).map(np.random.default_rng)


@given(generator=WORD_ROWS, mean=st.sampled_from([1, 2, 3, 6]), seq_len=st.integers(8, 200))
def test_whole_words_are_never_split(generator, mean, seq_len):
    """Over made-up words of any lengths, in rows of any lengths."""
    begins = generator.random((16, seq_len)) < 1 / mean
    lengths = generator.integers(0, seq_len - 1, 16)
    keys = keys_of(key_of(int(generator.integers(2**60))), np.arange(16))
    for row, positions, length in zip(
        begins, choose_words(keys, lengths, begins), lengths, strict=True
    ):
        chosen = positions[positions > 0]
        assert len(set(chosen)) == len(chosen) <= masked_count(length)
        assert (chosen <= length).all() and (np.diff(positions) >= 0).all()
        words = np.cumsum(np.where(np.arange(seq_len) <= 1, 1, row))  # 1 begins the first word
        words[length + 1 :] = -1
        for word in set(words[chosen]):
            assert set(np.flatnonzero(words[1:] == word) + 1) <= set(chosen)


def test_whole_words_keep_the_share(built, tokenizer_folder):
    stream = stream_of(built, "words", batch_size=256)
    starts = require_tokenizer(tokenizer_folder).word_starts()
    share = 1 / starts[stream.shard.tokens].mean()
    assert share > 1.3  # tokens a word: there is something to keep together
    weights = np.concatenate([stream.batch(index)["weights"] for index in range(8)])
    assert 0.97 < weights.mean() <= 1


def test_whole_words_of_a_corpus_end_where_the_text_says(built):
    """Judged on the text itself: what is hidden, decoded, is made of whole words."""
    stream = stream_of(built, "words")
    decode = require_tokenizer(built / "tokenizer").backend.decode
    eos = stream.shard.special.eos
    for index in range(10):
        batch = stream.batch(index)
        for row in range(8):
            ids = np.frombuffer(original(batch, row), dtype=np.int32)
            hidden = set(batch["positions"][row][batch["weights"][row] > 0])
            for at in range(2, len(ids) - 1):
                inside = not decode([ids[at]]).startswith(" ") and eos not in ids[at - 1 : at + 1]
                assert not inside or (at in hidden) == (at - 1 in hidden)


def test_wordpiece_words_go_on_with_two_marks(tmp_path):
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "play", "##ing", "##s", "a", "#", "ing"]
    (tmp_path / "vocab.txt").write_text("\n".join(names))
    found = load_tokenizer(tmp_path)
    assert found is not None
    begins = found.word_starts()
    assert [names[k] for k in np.flatnonzero(~begins)] == ["##ing", "##s"]


# The command line, and training on it.


def test_data_build_and_check(texts, tmp_path, capsys):
    code, out, err = run(
        capsys, *f"data build {texts} {tmp_path}/c --vocab-size 300 --shard-tokens 4000".split()
    )
    assert code == 0 and "681 documents" in out and "19 rows without text dropped" in out, err
    code, out, err = run(capsys, "data", "check", f"{tmp_path}/c")
    assert code == 0 and "every file has its checksum" in out, err
    file = tmp_path / "c" / "heldout" / "00001.bin"
    file.write_bytes(file.read_bytes()[:-2] + b"aa")
    assert f"{file} is corrupt" in refused(capsys, "data", "check", f"{tmp_path}/c")


@pytest.mark.parametrize(
    "argv, message",
    [
        ("data bild a b", "did you mean 'build'"),
        ("data build a", "needs two places"),
        ("data check a b", "needs one place"),
        ("data check nowhere", "no manifest.json in nowhere"),
        ("data build nowhere/at/all out", "no text at nowhere/at/all"),
        ("pretrain --data x --out y --buckets", "buckets need --packing documents"),
        ("pretrain --data x --out y --packing loose", "packing"),
    ],
)
def test_bad_data_commands_are_one_clear_line(capsys, argv, message):
    assert message in refused(capsys, *argv.split())


@pytest.mark.parametrize("kind", [pytest.param("words", marks=pytest.mark.slow), "buckets"])
def test_pretraining_learns_from_every_kind_of_row(built, tmp_path, kind):
    config = PretrainConfig(
        data=str(built),
        out=str(tmp_path),
        arch="D1-A2-H16-I24",
        steps=8,
        batch_size=4,
        seq_len=64,
        positions=64,
        learning_rate=1e-2,
        eval_rows=4,
        log_every=1,
        dropout=0.0,
        **STREAMS[kind],
    )
    assert np.isfinite(pretrain(config).loss)


def test_the_plain_stream_is_the_default(built):
    one = masked_batch(open_corpus(built).train, 5, seed=3, batch_size=8, seq_len=128)
    two = stream_of(built).batch(5)
    assert all(np.array_equal(one[name], two[name]) for name in one)

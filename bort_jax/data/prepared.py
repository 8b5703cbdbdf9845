# SPDX-License-Identifier: Apache-2.0
"""A prepared corpus: a tokenizer and two shards, train and held-out, in one folder."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from bort_jax.data.corpus import read_texts
from bort_jax.data.shards import Shard, build_shard, is_built, open_shard
from bort_jax.data.tokenizer import Tokenizer

HELD_OUT_EVERY = 50  # documents: 2 % are never trained on
TOKENIZER_SAMPLE = 20_000  # documents that a new vocabulary is learnt from


class Corpus(NamedTuple):
    train: Shard
    heldout: Shard
    tokenizer: Tokenizer


def prepare_corpus(
    source: str | Path,
    folder: str | Path,
    *,
    column: str = "text",
    tokenizer: str | Path | None = None,
    vocab_size: int = 8192,
) -> Corpus:
    """Opens `source` if it is a prepared folder, else builds one in `folder`, once.

    Args:
      source: a prepared folder, or a file or folder of text (see `read_texts`).
      folder: where to build.
      column: of the text.
      tokenizer: folder with a `tokenizer.json`; without one a byte-level BPE of `vocab_size`
        tokens is trained on the text.

    Raises:
      ValueError: fewer than two documents, or a prepared corpus of another tokenizer.
    """
    if _is_prepared(Path(source)):
        return _opened(Path(source), tokenizer)
    folder = Path(folder)
    if not _is_prepared(folder):
        _build(source, folder, column=column, tokenizer=tokenizer, vocab_size=vocab_size)
    return _opened(folder, tokenizer)


def _build(source, folder: Path, *, column: str, tokenizer, vocab_size: int) -> None:
    texts = lambda: read_texts(source, column=column)
    if tokenizer:
        trained = Tokenizer.load(tokenizer)
    else:
        trained = Tokenizer.train(islice(texts(), TOKENIZER_SAMPLE), vocab_size=vocab_size)
    trained.save(folder / "tokenizer")
    build_shard(_every(texts(), held_out=False), trained, folder=folder / "train")
    build_shard(_every(texts(), held_out=True), trained, folder=folder / "heldout")


def _every(texts: Iterable[str], *, held_out: bool) -> Iterator[str]:
    for number, text in enumerate(texts):
        if (number % HELD_OUT_EVERY == 1) == held_out:
            yield text


def _is_prepared(folder: Path) -> bool:
    return is_built(folder / "train") and is_built(folder / "heldout")


def _opened(folder: Path, tokenizer: str | Path | None) -> Corpus:
    corpus = Corpus(
        train=open_shard(folder / "train"),
        heldout=open_shard(folder / "heldout"),
        tokenizer=Tokenizer.load(folder / "tokenizer"),
    )
    wanted = Tokenizer.load(tokenizer).sha256 if tokenizer else corpus.tokenizer.sha256
    if {corpus.train.tokenizer_sha256, corpus.heldout.tokenizer_sha256} != {wanted}:
        raise ValueError(f"{folder} was built with another tokenizer than {tokenizer or 'its own'}")
    return corpus

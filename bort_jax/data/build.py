# SPDX-License-Identifier: Apache-2.0
"""Text to token shards, part by part: a build that was killed continues after the last part."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from bort_jax.data.corpus import (
    BEGINNING,
    Document,
    Position,
    Source,
    batches,
    open_source,
    read_texts,
)
from bort_jax.data.shards import CORPUS, token_type
from bort_jax.data.tokenizer import Tokenizer
from bort_jax.data.tokenizer_files import require_tokenizer
from bort_jax.report.terminal import progress_bar
from bort_jax.storage.parts import OpenPart, Parts, continue_parts

TOKENIZER = "tokenizer"  # folder beside the manifest
HELD_OUT_EVERY = 50  # documents: 2 % are never trained on
TOKENIZER_SAMPLE = 20_000  # documents that a new vocabulary is learnt from
SHARD_TOKENS = 1 << 24  # 32 MB a file, and seconds of work that a kill can cost
CLEANING = 1  # version of `corpus.clean_text`: raised when it changes what comes out
# Text in one call, for each core: the ids and names of its tokens take some hundred times as much.
BATCH_BYTES = 1 << 18
ONE_TEXT = "`fold -s -w 2000 FILE > NEW.txt` cuts a long line into many"


def build_corpus(
    source: str | Path,
    folder: str | Path,
    *,
    column: str = "text",
    tokenizer: str | Path | None = None,
    vocab_size: int = 8192,
    shard_tokens: int = SHARD_TOKENS,
    check: bool = True,
) -> Parts:
    """Builds a corpus, or continues one; the files are the same, byte for byte.

    Args:
      source: as `open_source` takes it.
      folder: gets `manifest.json`, `tokenizer/`, `train/` and `heldout/`.
      column: of the text.
      tokenizer: folder of a tokenizer; without one a byte-level BPE of `vocab_size` tokens is
        trained on the text.
      shard_tokens: a file ends with the document that brings it to so many tokens.
      check: read every byte of the parts that are there.

    Raises:
      ValueError: there is a build of something else in `folder`, one of its files is missing or
        damaged, or there are fewer than two documents.
      FileNotFoundError: no text or no tokenizer.
    """
    folder, text = Path(folder), open_source(source)
    if shard_tokens < 1:
        raise ValueError(f"shard_tokens must be positive; got {shard_tokens}")
    if tokenizer or (folder / CORPUS.manifest).is_file():
        words = require_tokenizer(tokenizer or folder / TOKENIZER)
    else:
        _check_documents(text, column)
        texts = islice(read_texts(source, column=column), TOKENIZER_SAMPLE)
        words = Tokenizer.train(texts, vocab_size=vocab_size)
    words.check_ids()
    if not (folder / CORPUS.manifest).is_file():
        words.save(folder / TOKENIZER)
    made_from = text.description() | {
        "column": column,
        "trained_vocab_size": None if tokenizer else vocab_size,
        "shard_tokens": shard_tokens,
        "held_out_every": HELD_OUT_EVERY,
        "cleaning": CLEANING,
        "tokenizer_sha256": words.sha256,
        "vocab_size": words.vocab_size,
    }
    parts = continue_parts(folder, CORPUS, made_from, check=check)
    if not len(parts):
        _check_documents(text, column)
    return parts if parts.complete else _write_parts(parts, text, words)


def _check_documents(source: Source, column: str) -> None:
    """Raises ValueError where there are fewer than two texts: one of them is held out."""
    if not source.holds_texts(column, 2):
        one = source.holds_texts(column, 1)
        few = f"just one text, and one is held out: {ONE_TEXT}" if one else "no text"
        raise ValueError(f"{source.name}: column {column!r} holds {few}")


def _write_parts(parts: Parts, source: Source, tokenizer: Tokenizer) -> Parts:
    """Writes the parts that are missing."""
    column, before = parts.made_from["column"], -1
    documents = _tokenize(source.documents(column, next_position(parts)), tokenizer)
    total, done = source.text_bytes(column), parts.total("bytes")
    with progress_bar("tokenize", total=total, done=done, unit="B", unit_scale=True) as bar:
        while len(parts) > before:
            before, parts = len(parts), _write_part(parts, documents, tokenizer, bar=bar)
    return parts.finish()


def _write_part(
    parts: Parts,
    documents: Iterator[tuple[Document, list[int]]],
    tokenizer: Tokenizer,
    *,
    bar: tqdm,
) -> Parts:
    """Writes documents until the part is full; without documents nothing changes."""
    eos, dtype = tokenizer.special.eos, token_type(tokenizer.vocab_size)
    full = parts.made_from["shard_tokens"] * dtype.itemsize
    counts, end = Counter(documents=0, dropped=0, bytes=0), next_position(parts)
    before, begun = parts.total("documents"), False
    with OpenPart(parts) as part:
        for document, ids in documents:
            bar.update(document.bytes)
            end = document.next
            counts["bytes"] += document.bytes
            begun |= bool(ids)
            number = before + counts["documents"]
            split = "heldout" if number % HELD_OUT_EVERY == 1 else "train"
            ended = begun and document.last
            part.write(np.array([*ids, eos] if ended else ids, dtype).tobytes(), split)
            if document.last:
                counts["documents" if begun else "dropped"] += 1
                begun = False
                if part.sizes["train"] >= full:
                    break
        if not counts["documents"] + counts["dropped"]:
            return part.discard()
        return part.close(**counts, next_file=end.file, next_row=end.row)


def next_position(parts: Parts) -> Position:
    """Where the part after the finished ones begins in the source."""
    if not len(parts):
        return BEGINNING
    counts = parts.parts[-1].counts
    return Position(counts["next_file"], counts["next_row"])


def _tokenize(
    documents: Iterable[Document], tokenizer: Tokenizer
) -> Iterator[tuple[Document, list[int]]]:
    """Each document, or piece of one, with its ids; threads share those of a batch."""
    limit = BATCH_BYTES * (os.cpu_count() or 1)
    for batch in batches(documents, limit, size=lambda document: document.bytes):
        yield from zip(batch, tokenizer.encode_raw([d.text for d in batch]), strict=True)

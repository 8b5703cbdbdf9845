# SPDX-License-Identifier: Apache-2.0
"""Text to token shards, part by part: a build that was killed continues after the last part."""

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from bort_jax.data.corpus import Document, Source, open_source, read_texts
from bort_jax.data.manifest import (
    DTYPES,
    MANIFEST,
    SPLITS,
    Manifest,
    Part,
    ShardFile,
    file_name,
    read_manifest,
)
from bort_jax.data.shards import check_file, header, shard_files
from bort_jax.data.tokenizer import Tokenizer, load_tokenizer
from bort_jax.storage.checks import differences
from bort_jax.storage.whole_file import WholeFile, check_sha256

HELD_OUT_EVERY = 50  # documents: 2 % are never trained on
TOKENIZER_SAMPLE = 20_000  # documents that a new vocabulary is learnt from
SHARD_TOKENS = 1 << 24  # 32 MB a file, and seconds of work that a kill can cost
CLEANING = 1  # of `corpus.cleaned`: raised when it changes what comes out
# Text in one call, for each core: the ids and names of its tokens take some hundred times as much.
BATCH_BYTES = 1 << 18
WAIT = 2  # seconds before a progress bar shows


def build_corpus(
    source: str | Path,
    folder: str | Path,
    *,
    column: str = "text",
    tokenizer: str | Path | None = None,
    vocab_size: int = 8192,
    shard_tokens: int = SHARD_TOKENS,
) -> Manifest:
    """Builds a corpus, or continues one; the files are the same, byte for byte.

    Args:
      source: as `open_source` takes it.
      folder: gets `manifest.json`, `tokenizer/`, `train/` and `heldout/`.
      column: of the text.
      tokenizer: folder of a tokenizer; without one a byte-level BPE of `vocab_size` tokens is
        trained on the text.
      shard_tokens: a file ends with the document that brings it to so many tokens.

    Raises:
      ValueError: there is a build of something else in `folder`, one of its files is damaged,
        or there are fewer than two documents.
      FileNotFoundError: no text, no tokenizer, or a file of a build is missing.
    """
    folder, text = Path(folder), open_source(source)
    if shard_tokens < 1:
        raise ValueError(f"shard_tokens must be positive; got {shard_tokens}")
    settings = {
        **text.identity,
        "column": column,
        "trained_vocab_size": None if tokenizer else vocab_size,
        "shard_tokens": shard_tokens,
        "held_out_every": HELD_OUT_EVERY,
        "cleaning": CLEANING,
    }
    if (folder / MANIFEST).is_file():
        manifest = _resumed(folder, settings, tokenizer)
    else:
        manifest = _begun(folder, text, settings, tokenizer)
    if not manifest.complete:
        manifest = _finished(folder, manifest, text)
    return manifest


def given_tokenizer(folder: str | Path) -> Tokenizer:
    """The tokenizer of a folder, in any form; raises FileNotFoundError where there is none."""
    return load_tokenizer(folder) or Tokenizer.load(folder)


def _begun(folder: Path, source: Source, settings: dict, tokenizer) -> Manifest:
    if tokenizer:
        trained = given_tokenizer(tokenizer)
    else:
        texts = islice(read_texts(source.name, column=settings["column"]), TOKENIZER_SAMPLE)
        trained = Tokenizer.train(texts, vocab_size=settings["trained_vocab_size"])
    trained.check_ids()
    trained.save(folder / "tokenizer")
    manifest = Manifest(
        made_from={**settings, "tokenizer_sha256": trained.sha256},
        special=trained.special,
        vocab_size=trained.vocab_size,
        dtype=DTYPES[trained.vocab_size > 1 << 16],
    )
    manifest.write(folder)
    return manifest


def _resumed(folder: Path, settings: dict, tokenizer) -> Manifest:
    manifest = read_manifest(folder)
    wanted = given_tokenizer(tokenizer).sha256 if tokenizer else manifest.tokenizer_sha256
    differing = differences(manifest.made_from, {**settings, "tokenizer_sha256": wanted})
    if differing:
        raise ValueError(
            f"{folder} holds a build of something else ({'; '.join(differing)}); choose another "
            "folder, or the same settings to continue"
        )
    for split in SPLITS:
        for file, contents in shard_files(folder, manifest, split=split):
            check_file(file, contents, manifest)
            check_sha256(file, contents.sha256)
    return manifest


def _finished(folder: Path, manifest: Manifest, source: Source) -> Manifest:
    """Writes the parts that are missing."""
    column, limit = (manifest.made_from[name] for name in ("column", "shard_tokens"))
    tokenizer = own_tokenizer(folder, manifest)
    documents = source.documents(column, manifest.next)
    part = OpenPart(folder, manifest)
    try:
        with _progress(manifest, source.text_bytes(column)) as bar:
            for document, ids in _tokenized(documents, tokenizer):
                part.add(document, ids)
                bar.update(document.bytes)
                if part.files["train"].tokens >= limit:
                    part = OpenPart(folder, part.close())
        manifest = part.close()
    finally:
        part.leave()
    if min(manifest.tokens(split) for split in SPLITS) == 0:
        raise ValueError(f"{source.name}: column {column!r} holds no text, or just one document")
    manifest = manifest.finished()
    manifest.write(folder)
    return manifest


def own_tokenizer(folder: Path, manifest: Manifest) -> Tokenizer:
    """The tokenizer beside the manifest; raises ValueError where it is not the one that built."""
    tokenizer = Tokenizer.load(folder / "tokenizer")
    if tokenizer.sha256 != manifest.tokenizer_sha256:
        raise ValueError(
            f"{folder / 'tokenizer'} is another tokenizer ({tokenizer.sha256[:8]}…) than the "
            f"shards beside it were written with ({manifest.tokenizer_sha256[:8]}…)"
        )
    return tokenizer


class OpenPart:
    """The files of the part that is being written, under names that do not count yet."""

    def __init__(self, folder: Path, manifest: Manifest):
        self.folder, self.manifest = folder, manifest
        self.number = manifest.total("documents")  # of the next document
        self.documents = self.dropped = self.bytes = 0
        self.next = manifest.next
        name = lambda split: folder / file_name(split, len(manifest.parts))
        self.files = {split: OpenFile(name(split), manifest) for split in SPLITS}

    def add(self, document: Document, ids: Sequence[int]) -> None:
        """Writes a document to its split; one without tokens is only counted."""
        self.bytes, self.next = self.bytes + document.bytes, document.next
        if not len(ids):
            self.dropped += 1
            return
        held_out = (self.number + self.documents) % HELD_OUT_EVERY == 1
        self.files["heldout" if held_out else "train"].add(ids)
        self.documents += 1

    def leave(self) -> None:
        """Lets go of the files, whatever state they are in."""
        for file in self.files.values():
            file.file.leave()

    def close(self) -> Manifest:
        """Makes the part count; one that nothing was read for is forgotten."""
        if not self.documents + self.dropped:
            for file in self.files.values():
                file.file.forget()
            return self.manifest
        train, heldout = (self.files[split].close() for split in SPLITS)
        part = Part(train, heldout, self.documents, self.dropped, self.bytes, next=self.next)
        manifest = self.manifest.extended(part)
        manifest.write(self.folder)
        return manifest


class OpenFile:
    """A shard file being written: header, then the ids of whole documents."""

    def __init__(self, path: Path, manifest: Manifest):
        self.file, self.tokens = WholeFile(path), 0
        self.dtype = np.dtype(manifest.dtype).newbyteorder("<")
        self.eos = manifest.special.eos
        self.file.write(header(manifest.dtype, manifest.tokenizer_sha256))

    def add(self, ids: Sequence[int]) -> None:
        self.file.write(np.array([*ids, self.eos], dtype=self.dtype).tobytes())
        self.tokens += len(ids) + 1

    def close(self) -> ShardFile:
        return ShardFile(self.tokens, self.file.close())


def _tokenized(
    documents: Iterable[Document], tokenizer: Tokenizer
) -> Iterator[tuple[Document, list[int]]]:
    """Each document with its ids; the tokenizer's own threads share the documents of a batch."""
    for batch in _batched(documents, BATCH_BYTES * (os.cpu_count() or 1)):
        yield from zip(batch, tokenizer.encode_raw([d.text for d in batch]), strict=True)


def _batched(documents: Iterable[Document], limit: int) -> Iterator[list[Document]]:
    batch, size = [], 0
    for document in documents:
        batch.append(document)
        size += document.bytes
        if size >= limit or len(batch) >= limit // 64:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _progress(manifest: Manifest, total: int | None) -> tqdm:
    return tqdm(
        desc="tokenize",
        total=total,
        initial=manifest.total("bytes"),
        unit="B",
        unit_scale=True,
        delay=WAIT,
        mininterval=0.1 if sys.stderr.isatty() else 10,  # into a file seldom is enough
    )

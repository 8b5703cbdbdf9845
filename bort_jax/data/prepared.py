# SPDX-License-Identifier: Apache-2.0
"""A prepared corpus: a tokenizer and two shards, train and held-out, in one folder."""

import hashlib
from pathlib import Path
from typing import NamedTuple

from bort_jax.data.build import build_corpus, given_tokenizer, own_tokenizer
from bort_jax.data.manifest import MANIFEST, SPLITS, Manifest, read_manifest
from bort_jax.data.masking import MaskedStream
from bort_jax.data.packing import Packing
from bort_jax.data.shards import Shard, faults, open_shard
from bort_jax.data.tokenizer import Tokenizer


class Corpus(NamedTuple):
    """A built corpus.

    Attributes:
      train: tokens to train on.
      heldout: tokens that are never trained on.
      tokenizer: that wrote them.
      sha256: of the manifest, and so of every token.
    """

    train: Shard
    heldout: Shard
    tokenizer: Tokenizer
    sha256: str

    def stream(
        self,
        *,
        seed: int,
        batch_size: int,
        seq_len: int,
        packing: Packing = "joined",
        buckets: bool = False,
        whole_word: bool = False,
    ) -> MaskedStream:
        """Masked batches of the training split, see `MaskedStream`."""
        starts = self.tokenizer.word_starts() if whole_word else None
        return MaskedStream(self.train, seed, batch_size, seq_len, packing, buckets, starts)


def prepare_corpus(
    source: str | Path,
    folder: str | Path,
    *,
    column: str = "text",
    tokenizer: str | Path | None = None,
    vocab_size: int = 8192,
) -> Corpus:
    """Opens `source` if it is a built corpus, else builds one in `folder`, once.

    Args:
      source: a built corpus, or text (see `open_source`).
      folder: where to build.
      column: of the text.
      tokenizer: folder of a tokenizer; without one a byte-level BPE of `vocab_size` tokens is
        trained on the text.

    Raises:
      ValueError: fewer than two documents, or a corpus of another tokenizer, unfinished or
        damaged.
    """
    if is_begun(Path(source)):
        return open_corpus(source, tokenizer=tokenizer)
    if not (is_begun(Path(folder)) and read_manifest(Path(folder)).complete):
        build_corpus(source, folder, column=column, tokenizer=tokenizer, vocab_size=vocab_size)
    return open_corpus(folder, tokenizer=tokenizer)


def open_corpus(folder: str | Path, *, tokenizer: str | Path | None = None) -> Corpus:
    """Opens a built corpus; sizes and headers are checked, contents by `check_corpus`.

    Raises:
      FileNotFoundError: there is none, or one of its files is missing.
      ValueError: it is unfinished, damaged, or of another tokenizer than the one in `tokenizer`;
        the message names the file.
    """
    folder = Path(folder)
    manifest = _complete(folder)
    own = own_tokenizer(folder, manifest)
    if tokenizer and given_tokenizer(tokenizer).sha256 != own.sha256:
        raise ValueError(f"{folder} was built with another tokenizer than {tokenizer}")
    train, heldout = (open_shard(folder, manifest, split=split) for split in SPLITS)
    digest = hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
    return Corpus(train, heldout, own, digest)


def check_corpus(folder: str | Path) -> Manifest:
    """Reads every byte of a built corpus.

    Raises:
      FileNotFoundError: there is none.
      ValueError: what is wrong with each file that is missing, truncated, foreign or corrupt.
    """
    folder = Path(folder)
    manifest = _complete(folder)
    own_tokenizer(folder, manifest)
    found = faults(folder, manifest)
    if found:
        raise ValueError("; ".join(found))
    return manifest


def is_begun(folder: Path) -> bool:
    """Whether a corpus is in `folder`, finished or not, of this version or an earlier one."""
    begun = (folder / MANIFEST).is_file() and (folder / "tokenizer").is_dir()
    return begun or all((folder / split / MANIFEST).is_file() for split in SPLITS)


def _complete(folder: Path) -> Manifest:
    manifest = read_manifest(folder)
    if not manifest.complete:
        raise ValueError(
            f"the build in {folder} is unfinished, with {len(manifest.parts)} parts: the command "
            "that began it continues it"
        )
    return manifest

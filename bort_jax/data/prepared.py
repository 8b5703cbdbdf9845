# SPDX-License-Identifier: Apache-2.0
"""A prepared corpus: a tokenizer and two shards, train and held-out, in one folder."""

from pathlib import Path
from typing import NamedTuple

from bort_jax.data.build import TOKENIZER, build_corpus
from bort_jax.data.corpus import is_there
from bort_jax.data.masking import MaskedStream
from bort_jax.data.packing import Packing
from bort_jax.data.shards import CORPUS, SPLITS, Shard, open_shard
from bort_jax.data.tokenizer import Tokenizer
from bort_jax.data.tokenizer_files import require_tokenizer
from bort_jax.storage.files import file_sha256
from bort_jax.storage.parts import Parts, read_parts

TOKENIZED_BY = ("tokenizer_sha256", "vocab_size")  # in a manifest


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

    A finished corpus is compared with the text, by digests; it also serves where that is gone.

    Args:
      source: a built corpus, or text (see `open_source`).
      folder: where to build.
      column: of the text.
      tokenizer: folder of a tokenizer; without one a byte-level BPE of `vocab_size` tokens is
        trained on the text.

    Raises:
      ValueError: fewer than two documents, or a corpus of another tokenizer or text, unfinished
        or damaged.
    """
    if holds_corpus(source):
        return open_corpus(source, tokenizer=tokenizer)
    complete = holds_corpus(folder) and read_parts(Path(folder), CORPUS).complete
    if not complete or is_there(source):
        build_corpus(
            source,
            folder,
            column=column,
            tokenizer=tokenizer,
            vocab_size=vocab_size,
            check=not complete,
        )
    return open_corpus(folder, tokenizer=tokenizer)


def open_corpus(folder: str | Path, *, tokenizer: str | Path | None = None) -> Corpus:
    """Opens a built corpus; sizes and headers are checked, contents by `check_corpus`.

    Raises:
      FileNotFoundError: there is none, or one of its files is missing.
      ValueError: it is unfinished, damaged, or of another tokenizer than the one in `tokenizer`;
        the message names the file.
    """
    parts, own = _read_complete(Path(folder))
    parts.check_files()
    if tokenizer and require_tokenizer(tokenizer).sha256 != own.sha256:
        raise ValueError(f"{folder} was built with another tokenizer than {tokenizer}")
    train, heldout = (open_shard(parts, split, special=own.special) for split in SPLITS)
    digest = file_sha256(parts.folder / CORPUS.manifest)
    return Corpus(train, heldout, own, digest)


def check_corpus(folder: str | Path) -> Parts:
    """Reads every byte of a built corpus.

    Raises:
      FileNotFoundError: there is none.
      ValueError: the faults of each file that is missing, truncated, foreign or corrupt.
    """
    parts, _ = _read_complete(Path(folder))
    parts.check_bytes()
    return parts


def holds_corpus(folder: str | Path) -> bool:
    """Whether a corpus is in `folder`, finished or not."""
    folder = Path(folder)
    return (folder / CORPUS.manifest).is_file() and (folder / TOKENIZER).is_dir()


def _read_complete(folder: Path) -> tuple[Parts, Tokenizer]:
    """The manifest of a finished corpus, and the tokenizer beside it."""
    parts = read_parts(folder, CORPUS)
    if not parts.complete:
        raise ValueError(
            f"the build in {folder} is unfinished, with {len(parts)} parts: the command that began "
            "it continues it"
        )
    own = require_tokenizer(folder / TOKENIZER)
    if [own.sha256, own.vocab_size] != [parts.made_from.get(name) for name in TOKENIZED_BY]:
        raise ValueError(
            f"{folder / TOKENIZER} is another tokenizer ({own.sha256[:8]}…) than the shards beside "
            "it were written with"
        )
    return parts, own

# SPDX-License-Identifier: Apache-2.0
"""Token shards: one split of a corpus as memory-mapped files of ids, read as one stream."""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Int

from bort_jax.data.manifest import SPLITS, Manifest, ShardFile, file_name
from bort_jax.data.tokenizer import Special
from bort_jax.storage.whole_file import check_sha256

MAGIC = b"BORTTOK2"
HEADER = 64  # bytes: magic, bytes of an id, SHA-256 of the tokenizer, zeros


@dataclass(frozen=True)
class Shard:
    """One split of a corpus on disk.

    Attributes:
      folder: holds the files.
      files: their ids, as uint16 or uint32, in order: all documents, `</s>` after each.
      special: ids of the special tokens.
      vocab_size: size of the tokenizer that wrote them.
      tokenizer_sha256: its hash.
    """

    folder: Path
    files: tuple[Int[np.ndarray, " n"], ...]
    special: Special
    vocab_size: int
    tokenizer_sha256: str

    @cached_property
    def offsets(self) -> list[int]:
        """Where each file begins in the stream, and where the last one ends."""
        return [0, *np.cumsum([len(file) for file in self.files]).tolist()]

    @property
    def n_tokens(self) -> int:
        return self.offsets[-1]

    @property
    def tokens(self) -> Int[np.ndarray, " n"]:
        """The whole stream; a copy in memory where there is more than one file."""
        return self.files[0] if len(self.files) == 1 else np.concatenate(self.files)

    def rows(self, seq_len: int) -> int:
        """How many full rows of `seq_len` tokens, `<s>` and `</s>` included, there are.

        Raises:
          ValueError: not even one.
        """
        rows = self.n_tokens // (seq_len - 2) if seq_len > 2 else 0
        if rows == 0:
            raise ValueError(
                f"{self.folder}: {self.n_tokens} tokens do not fill one row of {seq_len}"
            )
        return rows

    def read(
        self, starts: Int[np.ndarray, " b"], lengths: Int[np.ndarray, " b"], *, seq_len: int
    ) -> Int[np.ndarray, "b s"]:
        """Rows `<s> tokens </s>`, padded to `seq_len`: of `lengths` tokens from `starts` on."""
        ids = np.full((len(starts), seq_len), self.special.pad, dtype=np.int32)
        ids[:, 0] = self.special.bos
        ids[np.arange(len(ids)), lengths + 1] = self.special.eos
        # A loop of slices: as fast as one gather, and it crosses files and takes any lengths.
        for row, start, length in zip(ids, starts.tolist(), lengths.tolist(), strict=True):
            self._copy(start, row[1 : length + 1])
        return ids

    def frequencies(self) -> Int[np.ndarray, " v"]:
        """How often each token of the vocabulary occurs."""
        return sum(
            (np.bincount(file, minlength=self.vocab_size) for file in self.files),
            start=np.zeros(self.vocab_size, dtype=np.int64),
        )

    def document_ends(self) -> Int[np.ndarray, " d"]:
        """Where in the stream each document's `</s>` stands."""
        ends = [
            np.flatnonzero(file == self.special.eos) + offset
            for file, offset in zip(self.files, self.offsets, strict=False)
        ]
        return np.concatenate(ends)

    def _copy(self, start: int, out: np.ndarray) -> None:
        file = bisect_right(self.offsets, start) - 1
        while len(out):
            first = start - self.offsets[file]
            piece = self.files[file][first : first + len(out)]
            out[: len(piece)] = piece
            start, out, file = start + len(piece), out[len(piece) :], file + 1


def open_shard(folder: Path, manifest: Manifest, *, split: str) -> Shard:
    """Memory-maps a split of the corpus in `folder`.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: a file has another size than the manifest says, or another tokenizer wrote it.
    """
    files = []
    for file, size in shard_files(folder, manifest, split=split):
        check_file(file, size, manifest)
        files.append(_mapped(file, manifest.dtype, size.tokens))
    return Shard(
        folder=folder / split,
        files=tuple(files),
        special=manifest.special,
        vocab_size=manifest.vocab_size,
        tokenizer_sha256=manifest.tokenizer_sha256,
    )


def shard_files(
    folder: Path, manifest: Manifest, *, split: str
) -> Iterator[tuple[Path, ShardFile]]:
    for number, part in enumerate(manifest.parts):
        yield folder / file_name(split, number), getattr(part, split)


def check_file(file: Path, wanted: ShardFile, manifest: Manifest) -> None:
    """Existence, size and header: what can be told without reading the file.

    Raises:
      FileNotFoundError, ValueError: as `open_shard`; the message begins with the file.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing")
    expected = HEADER + wanted.tokens * np.dtype(manifest.dtype).itemsize
    if file.stat().st_size != expected:
        raise ValueError(f"{file}: {file.stat().st_size} bytes, the manifest says {expected}")
    with file.open("rb") as data:
        found = data.read(HEADER)
    if found == header(manifest.dtype, manifest.tokenizer_sha256):
        return
    if not found.startswith(MAGIC):
        raise ValueError(f"{file} does not begin as a token shard does")
    raise ValueError(
        f"{file} holds tokens of another tokenizer: {found[16:20].hex()}… wrote it, this corpus "
        f"is of {manifest.tokenizer_sha256[:8]}…"
    )


def faults(folder: Path, manifest: Manifest) -> list[str]:
    """Reads every file; what is wrong with each that is missing, truncated, foreign or corrupt."""
    found = []
    for split in SPLITS:
        for file, wanted in shard_files(folder, manifest, split=split):
            try:
                check_file(file, wanted, manifest)
                check_sha256(file, wanted.sha256)
            except (OSError, ValueError) as error:
                found.append(str(error))
    return found


def header(dtype: str, tokenizer_sha256: str) -> bytes:
    """Every file says which tokenizer wrote it, so that one from elsewhere is not mistaken."""
    itemsize = np.dtype(dtype).itemsize.to_bytes(8, "little")
    return (MAGIC + itemsize + bytes.fromhex(tokenizer_sha256)).ljust(HEADER, b"\0")


def _mapped(file: Path, dtype: str, tokens: int) -> Int[np.ndarray, " n"]:
    little = np.dtype(dtype).newbyteorder("<")
    if not tokens:  # an empty file cannot be mapped
        return np.empty(0, little)
    # A plain array: slices of np.memmap are much slower to make.
    return np.asarray(np.memmap(file, dtype=little, mode="r", offset=HEADER, shape=(tokens,)))

# SPDX-License-Identifier: Apache-2.0
"""Token shards: one split of a corpus as memory-mapped files of ids, read as one stream."""

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt

from bort_jax.data.tokenizer import Special
from bort_jax.storage.parts import Layout, Parts

SPLITS = ("train", "heldout")
# A part is a run of whole documents; `next_…` is where the following part begins in the source.
CORPUS = Layout(
    "manifest.json",
    streams=SPLITS,
    counts=("documents", "dropped", "bytes", "next_file", "next_row"),
)


@dataclass(frozen=True)
class Shard:
    """One split of a corpus on disk.

    Attributes:
      folder: holds the files.
      files: their ids, as uint16 or uint32, in order: all documents, `</s>` after each.
      special: ids of the special tokens.
      vocab_size: size of the tokenizer that wrote them.
    """

    folder: Path
    files: tuple[UInt[np.ndarray, " _"], ...]
    special: Special
    vocab_size: int

    @cached_property
    def offsets(self) -> list[int]:
        """Where each file begins in the stream, and where the last one ends."""
        return [0, *np.cumsum([len(file) for file in self.files]).tolist()]

    @property
    def n_tokens(self) -> int:
        return self.offsets[-1]

    @property
    def tokens(self) -> UInt[np.ndarray, " n"]:
        """The whole stream; a copy in memory where there is more than one file."""
        return self.files[0] if len(self.files) == 1 else np.concatenate(self.files)

    def rows(self, seq_len: int) -> int:
        """The number of full rows of `seq_len` tokens, `<s>` and `</s>` included.

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
        """Occurrences of each token of the vocabulary."""
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


def open_shard(parts: Parts, split: str, *, special: Special) -> Shard:
    """Memory-maps a split of a built corpus.

    Raises:
      ValueError: a file ends within a token.
    """
    vocab_size = parts.made_from["vocab_size"]
    dtype = token_type(vocab_size)
    files = tuple(parts.memory_map(number, split, dtype=dtype) for number in range(len(parts)))
    return Shard(parts.folder / split, files, special, vocab_size)


def token_type(vocab_size: int) -> np.dtype:
    """The type of a token id on disk: 16 bits where they are enough, else 32."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


def token_count(parts: Parts, split: str) -> int:
    """Tokens of a split of a built corpus."""
    return parts.size(split) // token_type(parts.made_from["vocab_size"]).itemsize

# SPDX-License-Identifier: Apache-2.0
"""A pool's texts and their vectors in a folder: built in parts, resumed, read by memory map.

A part has up to BLOCK texts: their vectors in 16 bits, the texts themselves as JSON lines, and for
each where it stands in these, the row of the file that it was, and a digest of what it says.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt64

from bort_jax.data.corpus import open_source
from bort_jax.data.tokenizer import Tokenizer
from bort_jax.interop import Checkpoint
from bort_jax.interop.description import fingerprint
from bort_jax.report.terminal import progress_bar, say
from bort_jax.stages.agora.pool.search import BLOCK
from bort_jax.stages.agora.split import example_texts
from bort_jax.stages.predict.forward import text_states
from bort_jax.storage.parts import Layout, OpenPart, Parts, continue_parts
from bort_jax.tasks import Examples, Task
from bort_jax.tasks.encode import Piece
from bort_jax.tasks.stream import ReadRow, examples_in, read_each

LAYOUT = Layout("pool.json", streams=("vectors", "texts", "index"), counts=("texts", "rows"))
INDEX = np.dtype([("row", "<i8"), ("start", "<i8"), ("size", "<i4"), ("says", "<u8")])
VECTOR = np.dtype("<f2")


@dataclass(frozen=True)
class Encoder:
    """Texts to vectors of length 1: the mean of a model's last states.

    Attributes:
      checkpoint: any model with an encoder and a tokenizer.
      seq_len: tokens of a text that are read.
    """

    checkpoint: Checkpoint
    seq_len: int

    @property
    def tokenizer(self) -> Tokenizer:
        return self.checkpoint.required_tokenizer

    @cached_property
    def states(self):
        one, pad = self.checkpoint, self.tokenizer.special.pad
        return text_states(one.config, one.params, pad=pad, pooling="mean")

    def description(self) -> dict[str, Any]:
        """The settings that vectors depend on."""
        return {
            "encoder_sha256": fingerprint(self.checkpoint),
            "tokenizer_sha256": self.tokenizer.sha256,
            "seq_len": self.seq_len,
        }

    def tokens(self, examples: Examples) -> Int[np.ndarray, "n s"]:
        return examples.encode(self.tokenizer, seq_len=self.seq_len).x

    def vectors(self, x: Int[np.ndarray, "n s"]) -> Float[np.ndarray, "n h"]:
        states = self.states(x)
        return states / np.maximum(np.linalg.norm(states, axis=1, keepdims=True), 1e-12)


@dataclass(frozen=True)
class Pool:
    """An embedded pool.

    Attributes:
      parts: its folder.
      source: the file's name.
    """

    parts: Parts
    source: str

    def __len__(self) -> int:
        return self.parts.total("texts")

    @cached_property
    def index(self) -> np.ndarray:
        """A record of type INDEX for each text."""
        parts = (self.parts.memory_map(k, "index", dtype=INDEX) for k in range(len(self.parts)))
        return np.concatenate([np.empty(0, INDEX), *parts])

    @cached_property
    def starts(self) -> Int[np.ndarray, " p"]:
        """The first text of each part, and the number of texts."""
        return np.cumsum([0, *(part.counts["texts"] for part in self.parts.parts)])

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """The first text of each part, and the vectors of its texts."""
        for number, start in enumerate(self.starts[:-1]):
            count = int(self.starts[number + 1] - start)
            if count:
                flat = self.parts.memory_map(number, "vectors", dtype=VECTOR)
                yield int(start), flat.reshape(count, -1)

    def read(self, rows: Int[np.ndarray, " m"]) -> Examples:
        """The texts of some rows of the pool, without labels."""
        items = [_parse_texts(self._line(int(row))) for row in rows]
        return Examples(tuple(items), np.full(len(items), -1, np.int32))

    def unknown(self, known: Sequence[Examples]) -> Bool[np.ndarray, " n"]:
        """Which texts are not said by others, and not by an earlier text of the pool."""
        says = self.index["says"]
        free = np.zeros(len(says), bool)
        free[np.unique(says, return_index=True)[1]] = True
        return free & ~np.isin(says, np.concatenate([says_of(one) for one in known]))

    def _line(self, row: int) -> bytes:
        number = int(np.searchsorted(self.starts, row, side="right")) - 1
        start, size = (int(self.index[row][name]) for name in ("start", "size"))
        return self._texts(number)[start : start + size].tobytes()

    def _texts(self, number: int) -> np.ndarray:
        return self.parts.memory_map(number, "texts", dtype=np.dtype("u1"))


def embed_pool(
    source: str, task: Task, encoder: Encoder, folder: Path, *, part_rows: int = BLOCK
) -> Pool:
    """Embeds a file of texts, or what is missing of it; memory is flat.

    Rows that the task cannot read, and texts without a word that the vocabulary knows, are left
    out.

    Args:
      part_rows: rows of the file in a part, BLOCK at the most: what a kill can cost.

    Raises:
      FileNotFoundError, ValueError: the file cannot be read, or no text of it can be used; or the
        folder was made from something else.
    """
    text = open_source(source)
    made_from = text.description() | {"columns": list(task.columns)} | encoder.description()
    pool = Pool(continue_parts(folder, LAYOUT, made_from), source)
    if pool.parts.complete:
        return pool
    done = pool.parts.total("rows")
    reads = islice(read_each(source, task), done, None)
    with progress_bar("embed pool", total=text.about_rows(), done=done, unit="row") as bar:
        parts, wrong = pool.parts, ""
        while window := list(islice(reads, part_rows)):
            parts = write_part(parts, window, encoder)
            wrong = wrong or next((read.wrong for read in window if read.wrong), "")
            bar.update(len(window))
    pool, rows = Pool(parts, source), parts.total("rows")
    if not len(pool):
        raise ValueError(
            f"{source}: none of its {rows} rows has a text with a word that the vocabulary knows"
            + f" ({wrong})" * bool(wrong)
        )
    if len(pool) < rows:
        reason = f"; the first: {wrong}" if wrong else ""
        say(f"{source}: {rows - len(pool):,} of {rows:,} rows hold no text to use{reason}")
    return Pool(parts.finish(), source)


def write_part(parts: Parts, window: Sequence[ReadRow], encoder: Encoder) -> Parts:
    """A part of the texts of some rows."""
    first = parts.total("rows")
    numbers = np.array([first + k for k, read in enumerate(window) for _ in read.items], int)
    examples = examples_in(window)
    x = encoder.tokens(examples) if len(numbers) else np.zeros((0, 1), int)
    chosen = np.flatnonzero(~np.isin(x, list(encoder.tokenizer.special)).all(axis=1))
    examples = examples.take(chosen)
    with OpenPart(parts) as part:
        if len(chosen):
            lines = [_texts_line(texts) for texts in examples.texts]
            part.write(encoder.vectors(x[chosen]).astype(VECTOR).tobytes(), "vectors")
            part.write(b"".join(lines), "texts")
            part.write(_index(numbers[chosen], lines, examples).tobytes(), "index")
        return part.close(texts=len(chosen), rows=len(window))


def says_of(examples: Examples) -> UInt64[np.ndarray, " n"]:
    """Digests of what examples say, in lower case and with single blanks. Of 1,000,000 texts two
    have the same by chance once in 40 million times."""
    digests = (hashlib.blake2b(text.encode(), digest_size=8) for text in example_texts(examples))
    return np.frombuffer(b"".join(one.digest() for one in digests), "<u8")


def _index(numbers: np.ndarray, lines: Sequence[bytes], examples: Examples) -> np.ndarray:
    index = np.empty(len(lines), INDEX)
    index["row"], index["size"] = numbers, [len(line) for line in lines]
    index["start"], index["says"] = np.cumsum(index["size"]) - index["size"], says_of(examples)
    return index


def _texts_line(texts: tuple) -> bytes:
    return json.dumps(texts, ensure_ascii=False).encode() + b"\n"


def _parse_texts(line: bytes) -> tuple:
    """An example's texts: choices of segments of pieces."""
    segments = lambda text: tuple(tuple(Piece(*piece) for piece in one) for one in text)
    return tuple(segments(text) for text in json.loads(line))

# SPDX-License-Identifier: Apache-2.0
"""A teacher cache: the likeliest tokens at every masked position of a stream, on disk.

The masked positions are a function of (seed, index), so a teacher has to run only once. A record
is one masked position: k token ids, their log-probabilities at the temperature that the cache is
for, and the logarithm of the mass of all other tokens. It takes 2 (or 4) + 2 bytes a token, and 2.
With k = 32 and 15 % of the tokens masked that is 19.5 bytes a token of text.

A part holds the records of consecutive batches in their order, whatever the number of devices and
hosts.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped

from bort_jax.data.masking import MASKING, Batch, MaskedStream
from bort_jax.data.prepared import Corpus
from bort_jax.data.shards import token_type
from bort_jax.storage.checks import differences, expect, explain_damage, require_count
from bort_jax.storage.parts import Layout, Parts, read_parts

CACHE = Layout("teacher_cache.json", streams=("",), counts=("batches",))
LARGEST_TOP_K = 1 << 16  # a part must fit in memory
FIELDS = {"ids": "top_ids", "log_p": "top_log_p", "log_tail": "log_tail"}


@dataclass(frozen=True)
class TeacherCache:
    """A folder of cached distributions; more batches can always be added.

    Attributes:
      parts: `made_from` has the text, the masks, the teacher, its temperature and k.
    """

    parts: Parts

    @property
    def made_from(self) -> dict[str, Any]:
        return self.parts.made_from

    @property
    def batches(self) -> int:
        return self.parts.total("batches")

    @property
    def positions(self) -> int:
        """Masked positions of all batches."""
        return self.parts.size("") // self.record.itemsize

    @cached_property
    def record(self) -> np.dtype:
        """The type of a masked position."""
        ids, top_k = token_type(self.made_from["vocab_size"]), (self.made_from["top_k"],)
        return np.dtype([("ids", ids, top_k), ("log_p", "<f2", top_k), ("log_tail", "<f2")])

    def to_records(self, targets: Batch) -> Shaped[np.ndarray, " n"]:
        """The records of a batch's targets, [b · m]."""
        records = np.empty(targets["log_tail"].shape, self.record)
        for field, name in FIELDS.items():
            records[field] = targets[name]
        return records.reshape(-1)


class CachedTeacherStream:
    """A stream with a cached teacher; a file's checksum is read when its turn comes."""

    def __init__(self, cache: TeacherCache, stream: MaskedStream):
        self.cache, self.stream = cache, stream
        self.part = lru_cache(maxsize=2)(self._read_part)

    @property
    def seq_len(self) -> int:
        return self.stream.seq_len

    def batch(self, index: int, *, host: int = 0, hosts: int = 1) -> Batch:
        """As `MaskedStream.batch`, with the arrays of `targets` beside."""
        shard = {"host": host, "hosts": hosts}
        return self.stream.batch(index, **shard) | self.targets(index, **shard)

    def targets(self, index: int, *, host: int = 0, hosts: int = 1) -> Batch:
        """The teacher's distributions in rows `host`, `host + hosts`, … of batch `index`.

        Returns:
          `top_ids: int[b, m, k]` in 16 or 32 bits, `top_log_p: float16[b, m, k]` and
          `log_tail: float16[b, m]`.

        Raises:
          ValueError: there are not so many batches, or a file is corrupt.
        """
        self.check_steps(index + 1)
        number = int(np.searchsorted(self._ends, index, side="right"))
        first = int(self._ends[number - 1]) if number else 0
        records, starts = self.part(number)
        start, end = starts[index - first : index - first + 2]
        rows = records[start:end].reshape(self.stream.shape(index))[host::hosts]
        return {name: np.ascontiguousarray(rows[field]) for field, name in FIELDS.items()}

    def check_steps(self, steps: int) -> None:
        """Raises ValueError where the cache has fewer batches."""
        if steps > self.cache.batches:
            raise ValueError(
                f"{self.cache.parts.folder} has {self.cache.batches} batches, not {steps}: the "
                f"command that built it, with --steps {steps}, adds the others"
            )

    @cached_property
    def _ends(self) -> Int[np.ndarray, " parts"]:
        return np.cumsum([part.counts["batches"] for part in self.cache.parts.parts])

    def _read_part(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """A part's records, and where each of its batches begins in them."""
        parts, end = self.cache.parts, int(self._ends[number])
        batches = range(end - parts.parts[number].counts["batches"], end)
        sizes = [rows * m for rows, m in map(self.stream.shape, batches)]
        parts.check_part(number)
        records = parts.memory_map(number, dtype=self.cache.record)
        if len(records) != sum(sizes):
            raise ValueError(
                f"{parts.file(number)} holds {len(records)} records, its batches {sum(sizes)}"
            )
        return records, np.cumsum([0, *sizes])


def cache_key(corpus: Corpus, stream: MaskedStream) -> dict[str, Any]:
    """All that fixes the masked positions of every batch, as JSON values."""
    return {
        "corpus_sha256": corpus.sha256,
        "tokenizer_sha256": corpus.tokenizer.sha256,
        "vocab_size": corpus.tokenizer.vocab_size,
        "seed": stream.seed,
        "batch_size": stream.batch_size,
        "seq_len": stream.seq_len,
        "packing": stream.packing,
        "buckets": stream.buckets,
        "whole_word": stream.word_starts is not None,
        "masking": MASKING,
    }


def open_cache(
    folder: str | Path, corpus: Corpus, stream: MaskedStream, *, temperature: float
) -> CachedTeacherStream:
    """The cache in `folder`, for training on `stream`.

    Raises:
      FileNotFoundError: there is none, or one of its files is missing.
      ValueError: it is damaged, or was made with other settings; the message names the file, or
        each setting that differs.
    """
    cache = read_cache(folder)
    wanted = cache_key(corpus, stream) | {"temperature": temperature}
    differing = differences({name: cache.made_from.get(name) for name in wanted}, wanted)
    if differing:
        raise ValueError(f"{folder} was made with other settings ({'; '.join(differing)})")
    cache.parts.check_files()
    return CachedTeacherStream(cache, stream)


def check_cache(folder: str | Path) -> TeacherCache:
    """Reads every byte of a teacher cache.

    Raises:
      FileNotFoundError: there is none.
      ValueError: the faults of each file that is missing, truncated, foreign or corrupt.
    """
    cache = read_cache(folder)
    cache.parts.check_bytes()
    return cache


def read_cache(folder: str | Path) -> TeacherCache:
    """Reads the manifest; raises FileNotFoundError without one, ValueError if it is damaged."""
    parts = read_parts(Path(folder), CACHE)
    with explain_damage(parts.folder / CACHE.manifest):
        top_k, vocab_size = (require_count(parts.made_from.get(n)) for n in ("top_k", "vocab_size"))
        expect(0 < top_k <= min(LARGEST_TOP_K, vocab_size), f"top_k {top_k}")
    return TeacherCache(parts)

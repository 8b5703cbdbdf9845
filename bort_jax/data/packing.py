# SPDX-License-Identifier: Apache-2.0
"""Rows out of a stream of documents: joined, or each within one document, in length buckets."""

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Int

from bort_jax.data.shards import Shard

Packing = Literal["joined", "documents"]
SMALLEST_BUCKET = 32


class Rows(NamedTuple):
    """The rows of one length.

    Attributes:
      seq_len: their length, `<s>`, `</s>` and padding included.
      number: how many there are.
      spans: `indices: int[b] -> (starts: int[b], lengths: int[b])` in the shard's tokens.
    """

    seq_len: int
    number: int
    spans: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def check_packing(packing: str, *, buckets: bool) -> None:
    """Raises ValueError for an unknown packing, or buckets of rows that all have one length."""
    if packing not in get_args(Packing):
        raise ValueError(f"packing must be one of {', '.join(get_args(Packing))}; got {packing!r}")
    if buckets and packing == "joined":
        raise ValueError("joined rows all have one length: buckets need --packing documents")


def pack_rows(shard: Shard, *, seq_len: int, packing: Packing, buckets: bool) -> tuple[Rows, ...]:
    """The rows of a shard, by length.

    Joined rows are full, cross documents with a separator between them, and need no memory.
    Document-bounded rows are cut from one document each, the last of it as short as it comes;
    they need 12 bytes of memory a row.

    Args:
      seq_len: of the longest rows.
      buckets: whether short rows come in shorter ones: seq_len, and its halves down to 32.

    Raises:
      ValueError: an unknown packing, buckets of joined rows, or no row at all.
    """
    check_packing(packing, buckets=buckets)
    if packing == "joined":
        return (_joined_rows(shard, seq_len),)
    starts, lengths = document_spans(shard, seq_len - 2)
    if not len(starts):
        raise ValueError(f"{shard.folder} holds no document with a token")
    sizes = bucket_lengths(seq_len) if buckets else [seq_len]
    bucket = np.searchsorted(np.array(sizes) - 2, lengths)
    return tuple(
        _document_rows(size, starts[bucket == k], lengths[bucket == k])
        for k, size in enumerate(sizes)
        if (bucket == k).any()
    )


def bucket_lengths(seq_len: int) -> list[int]:
    """seq_len and its halves, rising: a batch of each holds exactly the same number of tokens."""
    sizes = [seq_len]
    while sizes[0] % 2 == 0 and sizes[0] // 2 >= SMALLEST_BUCKET:
        sizes.insert(0, sizes[0] // 2)
    return sizes


def document_spans(shard: Shard, body: int) -> tuple[Int[np.ndarray, " r"], Int[np.ndarray, " r"]]:
    """Starts and lengths of the rows of at most `body` tokens that no document's end crosses."""
    ends = shard.document_ends()
    begins = np.concatenate([[0], ends[:-1] + 1])[: len(ends)]
    rows = -(-(ends - begins) // body)
    document = np.repeat(np.arange(len(ends)), rows)
    place = np.arange(len(document)) - np.repeat(np.cumsum(rows) - rows, rows)
    starts = begins[document] + place * body
    return starts, np.minimum(body, ends[document] - starts).astype(np.int32)


def _joined_rows(shard: Shard, seq_len: int) -> Rows:
    body = seq_len - 2
    spans = lambda indices: (indices * body, np.full(len(indices), body))
    return Rows(seq_len, shard.rows(seq_len), spans)


def _document_rows(seq_len: int, starts, lengths) -> Rows:
    return Rows(seq_len, len(starts), lambda indices: (starts[indices], lengths[indices]))

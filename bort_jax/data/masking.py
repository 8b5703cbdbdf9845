# SPDX-License-Identifier: Apache-2.0
"""Masked batches as a pure function of (seed, index), whatever the number of hosts."""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from jaxtyping import Bool, Int, UInt64

from bort_jax.data.choice import choose_tokens, choose_words, masked_count
from bort_jax.data.order import HALF, STEP, key_of, keys_of, mix, permute
from bort_jax.data.packing import Packing, Rows, pack_rows
from bort_jax.data.shards import Shard
from bort_jax.data.tokenizer import Special

RANDOM_SHARE, KEEP_SHARE = 0.10, 0.10
# What tells the random numbers apart that one seed is used for.
ORDER, BATCHES, MASKS = range(3)
MASKING = 1  # raised when another token is hidden, or another shown, for the same seed and index

Batch = dict[str, np.ndarray]


@dataclass(frozen=True)
class MaskedStream:
    """An endless stream of masked batches; the whole resume state is the index of the next.

    Every epoch is a fresh permutation of the rows, every visit a fresh mask. Of the tokens
    of a row 15 % are predicted: of these 80 % show `<mask>`, 10 % a random token, 10 %
    themselves.

    Attributes:
      shard: where the tokens are.
      seed: of order and masks.
      batch_size: rows of a global batch; with buckets, of its longest rows.
      seq_len: tokens of the longest rows.
      packing: `joined` rows are full and cross documents; of `documents` each is within one.
      buckets: batches of rows of about one length, padded to it: seq_len, its half, its quarter,
        down to 32, all with the same number of tokens. An epoch then ends with its last batches
        filled up by rows without weight.
      word_starts: whole words are predicted: whether each token begins one, bool[v].

    Raises:
      ValueError: when a batch is asked for: buckets of joined rows, or too little text.
    """

    shard: Shard
    seed: int
    batch_size: int
    seq_len: int
    packing: Packing = "joined"
    buckets: bool = False
    word_starts: Bool[np.ndarray, " v"] | None = None

    def batch(self, index: int, *, host: int = 0, hosts: int = 1) -> Batch:
        """Rows `host`, `host + hosts`, … of the global batch, without making the others.

        Returns:
          `ids: int[b, s]`, `mask: bool[b, s]`, `positions: int[b, m]`, `labels: int[b, m]` and
          `weights: float[b, m]`; a position without weight is 0.
        """
        rows, picked, there = self._pick(index, host, hosts)
        starts, lengths = rows.spans(picked)
        lengths = np.where(there, lengths, 0)
        ids = self.shard.read(starts, lengths, seq_len=rows.seq_len)
        keys = keys_of(
            key_of(self.seed, MASKS, index), np.arange(host, host + hosts * len(picked), hosts)
        )
        positions = self._choose(ids, lengths, keys)
        return apply_mlm_mask(ids, lengths, positions, self.shard, keys=keys)

    def shape(self, index: int) -> tuple[int, int]:
        """Rows of the global batch, and masked positions of each."""
        rows = self.rows[self._bucket(index)[1]] if self.buckets else self.rows[0]
        return self._size(rows), int(masked_count(rows.seq_len - 2))

    @cached_property
    def rows(self) -> tuple[Rows, ...]:
        """The rows of an epoch, by length."""
        return pack_rows(
            self.shard, seq_len=self.seq_len, packing=self.packing, buckets=self.buckets
        )

    @cached_property
    def batches_until(self) -> Int[np.ndarray, " k"]:
        """With buckets: how many batches of an epoch come from the first k of them."""
        counts = [-(-rows.number // self._size(rows)) for rows in self.rows]
        return np.cumsum(counts)

    def _pick(self, index: int, host: int, hosts: int):
        """A length, which of its rows, and which of these are more than filling."""
        if self.buckets:
            return self._pick_from_bucket(index, host, hosts)
        (rows,) = self.rows
        flat = index * self.batch_size + np.arange(host, self.batch_size, hosts)
        epochs, places = np.divmod(flat, rows.number)
        keys = keys_of(key_of(self.seed, ORDER), epochs)
        picked = permute(places, rows.number, key=keys)
        return rows, picked, np.ones(len(picked), dtype=bool)

    def _bucket(self, index: int) -> tuple[int, int, int]:
        """Epoch, bucket, and which of the bucket's batches."""
        total = int(self.batches_until[-1])
        epoch, place = divmod(index, total)
        (place,) = permute(np.array([place]), total, key=key_of(self.seed, BATCHES, epoch))
        k = int(np.searchsorted(self.batches_until, place, side="right"))
        return epoch, k, int(place - (self.batches_until[k - 1] if k else 0))

    def _pick_from_bucket(self, index: int, host: int, hosts: int):
        epoch, k, place = self._bucket(index)
        rows = self.rows[k]
        places = place * self._size(rows) + np.arange(host, self._size(rows), hosts)
        there = places < rows.number
        key = key_of(self.seed, ORDER, epoch, k)
        return rows, permute(np.where(there, places, 0), rows.number, key=key), there

    def _size(self, rows: Rows) -> int:
        return self.batch_size * self.seq_len // rows.seq_len

    def _choose(self, ids, lengths, keys) -> Int[np.ndarray, "b m"]:
        if self.word_starts is None:
            return choose_tokens(keys, lengths, seq_len=ids.shape[1])
        begins = self.word_starts[ids]
        begins[:, 1:] |= ids[:, :-1] == self.shard.special.eos
        return choose_words(keys, lengths, begins)


def masked_batch(shard: Shard, index: int, *, seed: int, batch_size: int, seq_len: int) -> Batch:
    """Batch `index` of the plain stream: joined rows, single tokens, all hosts' rows."""
    return MaskedStream(shard, seed=seed, batch_size=batch_size, seq_len=seq_len).batch(index)


def apply_mlm_mask(
    ids: Int[np.ndarray, "b s"],
    lengths: Int[np.ndarray, " b"],
    positions: Int[np.ndarray, "b m"],
    shard: Shard,
    *,
    keys: UInt64[np.ndarray, " b"],
) -> Batch:
    """Hides the tokens at the chosen positions, 80/10/10; those at 0 stay, without weight.

    Args:
      ids: rows of tokens; they are changed in place.
      lengths: tokens of text in each, at 1, 2, ….
      keys: what stands at a position in its place is a function of.
    """
    batch, seq_len = ids.shape
    flat = positions + seq_len * np.arange(batch)[:, None]
    labels = ids.reshape(-1)[flat]
    bits = mix(keys[:, None] + STEP * positions.astype(np.uint64))
    draw = (bits >> HALF).astype(np.uint32)
    shown = np.where(draw < _threshold(RANDOM_SHARE), random_tokens(shard, bits), labels)
    shown = np.where(draw >= _threshold(RANDOM_SHARE + KEEP_SHARE), shard.special.mask, shown)
    ids.reshape(-1)[flat] = np.where(positions > 0, shown, labels)
    return {
        "ids": ids,
        "mask": np.arange(seq_len) < lengths[:, None] + 2,
        "positions": positions,
        "labels": labels,
        "weights": (positions > 0).astype(np.float32),
    }


def random_tokens(shard: Shard, bits: UInt64[np.ndarray, "b m"]) -> Int[np.ndarray, "b m"]:
    """Uniform over the vocabulary without the special tokens, from the lower 32 bits."""
    ordinary = _ordinary_tokens(shard.vocab_size, shard.special)
    low = bits & np.uint64(0xFFFFFFFF)
    return ordinary[(low * np.uint64(len(ordinary))) >> HALF]


@lru_cache(maxsize=4)
def _ordinary_tokens(vocab_size: int, special: Special) -> Int[np.ndarray, " v"]:
    return np.setdiff1d(np.arange(vocab_size), np.array(special)).astype(np.int32)


def _threshold(share: float) -> np.uint32:
    """The number of 32 bits that this share of all such numbers are less than."""
    return np.uint32(round(share * 2**32))

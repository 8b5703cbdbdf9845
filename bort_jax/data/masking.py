# SPDX-License-Identifier: Apache-2.0
"""Masked batches as a pure function of (seed, epoch, index)."""

from functools import lru_cache

import numpy as np
from jaxtyping import Int

from bort_jax.data.shards import Shard
from bort_jax.data.tokenizer import Special

MASK_SHARE, RANDOM_SHARE, KEEP_SHARE = 0.15, 0.10, 0.10
ORDER, MASK = 0, 1  # separate the random streams of the row order and of the masks

Batch = dict[str, np.ndarray]


def masked_batch(shard: Shard, index: int, *, seed: int, batch_size: int, seq_len: int) -> Batch:
    """The `index`-th batch of an endless stream: the whole resume state is this one integer.

    Every epoch is a fresh permutation of the rows, every visit a fresh mask. Of the tokens
    of a row 15 % are predicted: of these 80 % show `<mask>`, 10 % a random token, 10 %
    themselves.

    Returns:
      `ids: int[b, s]`, `mask: bool[b, s]`, `positions: int[b, m]`, `labels: int[b, m]` and
      `weights: float[b, m]`.
    """
    rows = shard.rows(seq_len)
    flat = index * batch_size + np.arange(batch_size)
    epochs, places = np.divmod(flat, rows)
    picked = np.array(
        [_order(seed, int(epoch), rows)[place] for epoch, place in zip(epochs, places, strict=True)]
    )
    generator = np.random.default_rng((seed, MASK, index))
    return apply_mask(shard.read(picked, seq_len=seq_len), shard, generator=generator)


def apply_mask(ids: Int[np.ndarray, "b s"], shard: Shard, *, generator) -> Batch:
    """Chooses m = 15 % of the tokens of each full row and hides them 80/10/10."""
    batch, seq_len = ids.shape
    m = max(1, round(MASK_SHARE * (seq_len - 2)))
    noise = generator.random((batch, seq_len - 2))
    positions = np.sort(np.argpartition(noise, m - 1, axis=1)[:, :m] + 1, axis=1)
    labels = np.take_along_axis(ids, positions, axis=1)
    draw = generator.random((batch, m))
    shown = np.where(draw < RANDOM_SHARE, random_tokens(shard, (batch, m), generator), labels)
    shown = np.where(draw >= RANDOM_SHARE + KEEP_SHARE, shard.special.mask, shown)
    ids = ids.copy()
    np.put_along_axis(ids, positions, shown, axis=1)
    return {
        "ids": ids,
        "mask": np.ones(ids.shape, dtype=bool),
        "positions": positions.astype(np.int32),
        "labels": labels.astype(np.int32),
        "weights": np.ones((batch, m), dtype=np.float32),
    }


def random_tokens(shard: Shard, shape, generator) -> Int[np.ndarray, "b m"]:
    """Uniform over the vocabulary without the special tokens."""
    ordinary = _ordinary_tokens(shard.vocab_size, shard.special)
    return ordinary[generator.integers(len(ordinary), size=shape)]


@lru_cache(maxsize=4)
def _ordinary_tokens(vocab_size: int, special: Special) -> Int[np.ndarray, " v"]:
    return np.setdiff1d(np.arange(vocab_size), np.array(special))


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, rows: int) -> Int[np.ndarray, " r"]:
    return np.random.default_rng((seed, ORDER, epoch)).permutation(rows)

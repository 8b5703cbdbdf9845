# SPDX-License-Identifier: Apache-2.0
"""Rows of text that a parent is measured on, encoded with its own tokenizer."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import Int

from bort_jax.data.choice import choose_tokens
from bort_jax.data.corpus import read_texts
from bort_jax.data.masking import MASKS, apply_mlm_mask
from bort_jax.data.order import key_of, keys_of
from bort_jax.data.shards import Shard
from bort_jax.data.tokenizer import Tokenizer, plain_ids
from bort_jax.interop import Checkpoint
from bort_jax.report.terminal import say
from bort_jax.tasks import Examples

READ = 100_000  # texts from the beginning of a source that the rows are drawn from
UNKNOWN = 0.5  # share of unknown tokens from which it is said


def some_texts(source: str, column: str) -> list[str]:
    """The first `READ` texts of a source."""
    return list(islice(read_texts(source, column=column), READ))


def drawn_texts(source: str, *, column: str, rows: int, seed: int) -> list[str]:
    """Texts drawn from the first `READ` of a source, without repeats.

    Raises:
      ValueError: there are fewer than `rows`.
    """
    texts = some_texts(source, column)
    return [texts[k] for k in drawn(len(texts), rows=rows, seed=seed, source=source)]


def drawn(count: int, *, rows: int, seed: int, source: str) -> Int[np.ndarray, " n"]:
    """Some of `count`, without repeats.

    Raises:
      ValueError: there are fewer than `rows`.
    """
    if count < rows:
        raise ValueError(
            f"{source} holds {count} texts, and {rows} calibration rows are needed: give more "
            "text, or fewer --calibration-rows"
        )
    return np.random.default_rng(seed).permutation(count)[:rows]


def encoded_examples(
    parent: Checkpoint, examples: Examples, *, rows: int, seq_len: int, seed: int
) -> dict:
    """Rows as `encoded`, drawn from a task's examples and read as the task reads them: pairs, and
    of a parent that chooses all choices of a question, `[n, c, s]`.

    Raises:
      ValueError: there are fewer examples than `rows`.
    """
    picked = drawn(len(examples.texts), rows=rows, seed=seed, source="the task")
    tokenizer = parent.required_tokenizer
    ids = examples.take(picked).encode(tokenizer, seq_len=seq_len).x
    if parent.head != "choice":
        ids = ids.reshape(-1, seq_len)
    found = {"ids": ids, "mask": ids != tokenizer.special.pad}
    return masked(found, tokenizer, seed=seed) if parent.head == "masked_lm" else found


def encoded(parent: Checkpoint, texts: Sequence[str], *, seq_len: int, seed: int) -> dict:
    """Rows `ids: int[n, s]` and `mask: bool[n, s]`; of a masked LM with 15 % of the tokens hidden.

    Raises:
      ValueError: the parent has no tokenizer.
    """
    tokenizer = parent.required_tokenizer
    ids, mask = tokenizer.encode([texts], seq_len=seq_len)
    unknown = float((ids == tokenizer.special.unk).sum() / max(1, mask.sum() - 2 * len(ids)))
    if unknown > UNKNOWN:
        say(f"NOTE: {unknown:.0%} of the tokens of the text are unknown to the parent's vocabulary")
    rows = {"ids": ids, "mask": mask}
    return masked(rows, tokenizer, seed=seed) if parent.head == "masked_lm" else rows


def masked(rows: dict, tokenizer: Tokenizer, *, seed: int) -> dict:
    """The rows as a masked LM reads them in pretraining."""
    ids, lengths = rows["ids"], rows["mask"].sum(1) - 2
    keys = keys_of(key_of(seed, MASKS), np.arange(len(ids)))
    positions = choose_tokens(keys, lengths, seq_len=ids.shape[1])
    vocabulary = Shard(Path(), (), tokenizer.special, tokenizer.vocab_size)
    batch = apply_mlm_mask(ids, lengths, positions, vocabulary, keys=keys)
    return batch | {"labels": plain_ids(batch["labels"])}

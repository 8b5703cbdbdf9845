# SPDX-License-Identifier: Apache-2.0
"""A parent with fewer tokens: the most frequent of a text, and those that must stay."""

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Int

from bort_jax.data.tokenizer import Tokenizer
from bort_jax.interop import Checkpoint
from bort_jax.model.inherit import cut_tokenizer, cut_vocabulary, tokens_to_keep
from bort_jax.report.terminal import say

TOGETHER = 1000  # texts encoded at a time


def token_counts(tokenizer: Tokenizer, texts: Sequence[str]) -> Int[np.ndarray, " v"]:
    """How often each token occurs, those around a text left out."""
    counts = np.zeros(tokenizer.vocab_size, np.int64)
    for start in range(0, len(texts), TOGETHER):
        some = list(texts[start : start + TOGETHER])
        for encoding in tokenizer.backend.encode_batch(some, add_special_tokens=False):
            np.add.at(counts, encoding.ids, 1)
    return counts


def with_vocabulary(parent: Checkpoint, texts: Sequence[str], n: int) -> Checkpoint:
    """The parent with at most n tokens, and its tokenizer; texts of these keep their states.

    Raises:
      ValueError: more tokens must stay than n, or the tokenizer is neither WordPiece nor BPE.
    """
    from tokenizers import Tokenizer as Backend

    tokenizer = parent.required_tokenizer
    if n >= tokenizer.vocab_size:
        return parent
    counts, spec = token_counts(tokenizer, texts), json.loads(tokenizer.backend.to_str())
    kept = tokens_to_keep(spec, counts, n)
    share = counts[kept].sum() / max(1, counts.sum())
    say(f"vocabulary: {len(kept):,} of {len(counts):,} tokens stay, {share:.2%} of the text's")
    backend = Backend.from_str(json.dumps(cut_tokenizer(spec, kept)))
    return replace(cut_vocabulary(parent, kept), tokenizer=tokenizer.with_backend(backend))

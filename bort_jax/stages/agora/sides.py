# SPDX-License-Identifier: Apache-2.0
"""Which tokens of a row may change, and which of its texts they belong to."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from bort_jax.data.tokenizer import Tokenizer, plain_ids
from bort_jax.tasks.encode import Text, piece_sizes
from bort_jax.tasks.task import Examples

FIXED, FIRST, SECOND, MIRRORED = 0, 1, 2, -1


def token_sides(
    examples: Examples, tokenizer: Tokenizer, *, seq_len: int
) -> Int[np.ndarray, "n s"] | Int[np.ndarray, "n c s"]:
    """The side of each token of `examples.encode`: 1 or 2, the text that it belongs to; 0 where it
    must stay (special tokens, marked spans, a task's own words).

    Where there are choices, what they have in common from the left is one text: it has its side
    in the first choice and −1 in the others, and the rest of their first texts stays.
    """
    x = examples.encode(tokenizer, seq_len=seq_len).x
    flat = [text for texts in examples.texts for text in texts]
    sides = row_sides(flat, tokenizer, seq_len=seq_len).reshape(x.shape)
    # A text may hold an unknown token, which is a special one.
    sides[np.isin(plain_ids(x), list(tokenizer.special))] = FIXED
    if x.ndim < 3:
        return sides
    common = np.logical_and.accumulate((x == x[:, :1]).all(axis=1), axis=-1)[:, None]
    sides = np.where((sides == FIRST) & ~common, FIXED, sides)
    later = np.arange(x.shape[1])[:, None] > 0
    return np.where((sides == FIRST) & later, MIRRORED, sides).astype(np.int8)


def row_sides(
    texts: Sequence[Text], tokenizer: Tokenizer, *, seq_len: int
) -> Int[np.ndarray, "n s"]:
    """The sides of rows by their pieces alone."""
    pieces = list({piece.text: None for text in texts for segment in text for piece in segment})
    ids = dict(zip(pieces, tokenizer.encode_documents(pieces), strict=True))
    sides = np.zeros((len(texts), seq_len), np.int8)
    for row, text in zip(sides, texts, strict=True):
        sizes = iter(piece_sizes(text, ids, tokenizer.room(len(text), seq_len=seq_len)))
        at = 1
        for side, segment in enumerate(text, start=FIRST):
            for piece in segment:
                size = next(sizes)
                row[at : at + size] = FIXED if piece.fixed else side
                at += size
            at += tokenizer.separators
    return sides

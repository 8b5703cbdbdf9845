# SPDX-License-Identifier: Apache-2.0
"""From token rows back to texts: to read them, to compare them, to tokenize them otherwise."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Int

from bort_jax.data.tokenizer import Tokenizer, plain_ids

CHOICE, TEXT = "\x1e", "\x1f"  # between the choices of a point, between the texts of a row


def row_texts(x: Int[np.ndarray, "n s"], tokenizer: Tokenizer) -> list[tuple[str, ...]]:
    """The one or two texts of each row, without special tokens."""
    rows = [_segments(row, tokenizer) for row in np.asarray(x)]
    flat = [segment for segments in rows for segment in segments]
    texts = iter(tokenizer.backend.decode_batch(flat, skip_special_tokens=True))
    return [tuple(next(texts) for _ in segments) for segments in rows]


def point_texts(x: Int[np.ndarray, "n *c s"], tokenizer: Tokenizer) -> list[str]:
    """Each point in one line, to be read."""
    return [
        key.replace(CHOICE, "  ||  ").replace(TEXT, "  |  ") for key in _join_texts(x, tokenizer)
    ]


def text_keys(tokenizer: Tokenizer) -> Callable[[np.ndarray], list[str]]:
    """Builds a function of points to what makes two of them the same text: lower case, single
    blanks, no padding and no special tokens. As far as the rows reach: what was cut off is
    not compared.
    """
    known: dict[bytes, str] = {}

    def keys(x: Int[np.ndarray, "n *c s"]) -> list[str]:
        rows = [row.tobytes() for row in np.ascontiguousarray(x, np.int32)]
        new = {row: k for k, row in enumerate(rows) if row not in known}
        texts = _join_texts(x[list(new.values())], tokenizer)
        known.update({row: _normal(text) for row, text in zip(new, texts, strict=True)})
        return [known[row] for row in rows]

    return keys


def _join_texts(x: np.ndarray, tokenizer: Tokenizer) -> list[str]:
    if not len(x):
        return []
    choices = x.shape[1] if x.ndim == 3 else 1
    texts = [TEXT.join(texts) for texts in row_texts(x.reshape(-1, x.shape[-1]), tokenizer)]
    starts = range(0, len(texts), choices)
    return [CHOICE.join(text.strip() for text in texts[k : k + choices]) for k in starts]


def _normal(text: str) -> str:
    sides = (" ".join(part.lower().split()) for part in text.split(TEXT))
    return TEXT.join(sides)


def _segments(row: Int[np.ndarray, " s"], tokenizer: Tokenizer) -> list[list[int]]:
    special = tokenizer.special
    body = row[row != special.pad][1:-1]
    ends = np.flatnonzero(body == special.eos)
    if not len(ends):
        return [plain_ids(body).tolist()]
    second = body[ends[0] + tokenizer.separators :]
    return [plain_ids(body[: ends[0]]).tolist(), plain_ids(second).tolist()]

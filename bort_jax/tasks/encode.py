# SPDX-License-Identifier: Apache-2.0
"""Texts in pieces, so that what a task turns on survives when a long row is cut.

A question, an answer or a marked word is never cut while there is a passage to cut (our reading:
the sources name the inputs of each task and leave the cutting open).
"""

import re
from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from bort_jax.data.tokenizer import Tokenizer


class Piece(NamedTuple):
    """A stretch of text and the end at which it may be cut: `end`, `start` or `never`.

    What is `fixed` carries the row's structure: a text made from the row must keep it.
    """

    text: str
    cut: str = "end"
    fixed: bool = False


Segment = tuple[Piece, ...]
Text = tuple[Segment, ...]  # one or two segments: what one row of tokens holds


class Mark(NamedTuple):
    """A span of characters and the sign that is to stand on both sides of it."""

    start: int
    end: int
    sign: str


def cuttable(text: str) -> Segment:
    """A text that may be cut at its end."""
    return (Piece(text),)


def uncut(text: str, *, fixed: bool = False) -> Segment:
    """A text that is cut only where nothing else is left to cut."""
    return (Piece(text, "never", fixed),)


def mark_spans(text: str, marks: Sequence[Mark]) -> Segment:
    """Puts a sign on both sides of each span and keeps the spans; the rest is cut away from them.

    `You must carry it.` with a mark around `carry` reads `You must *carry* it.` Spans may lie
    in one another. A blank before a span goes into its piece, where byte-level tokens have it.

    Raises:
      ValueError: a span is empty or lies outside the text.
    """
    for start, end, _ in marks:
        if not 0 <= start < end <= len(text):
            raise ValueError(f"span {start}–{end} lies outside its text of {len(text)} characters")
    pieces, done = [], 0
    for start, end in _merge_spans(marks):
        while start > done and text[start - 1].isspace():
            start -= 1
        # Between two spans the tokens next to the first are kept, before all of them the last.
        pieces.append(Piece(text[done:start], "end" if done else "start"))
        pieces.append(Piece(_insert_signs(text, marks, start, end), "never", fixed=True))
        done = end
    pieces.append(Piece(text[done:]))
    return tuple(piece for piece in pieces if piece.text)


def join_pieces(text: Text) -> str:
    """The text of a row, its segments separated by a control character."""
    return "\x1f".join("".join(piece.text for piece in segment) for segment in text)


def encode(texts: Sequence[Text], tokenizer: Tokenizer, *, seq_len: int) -> Int[np.ndarray, "n s"]:
    """Token rows, framed as `Tokenizer.encode` does, padded on the right to `seq_len`.

    Pieces are cut longest first, at the end that each names.

    Raises:
      ValueError: `seq_len` has no room for a token of each segment.
    """
    # A passage stands in many rows; it is tokenized once.
    pieces = list({piece.text: None for text in texts for segment in text for piece in segment})
    ids = dict(zip(pieces, tokenizer.encode_documents(pieces), strict=True))
    rows = np.full((len(texts), seq_len), tokenizer.special.pad, dtype=np.int32)
    for row, text in zip(rows, texts, strict=True):
        room = tokenizer.room(len(text), seq_len=seq_len)
        tokens = tokenizer.frame(fit_to_room(text, ids, room))
        row[: len(tokens)] = tokens
    return rows


def share_room(lengths: Sequence[int], room: int) -> list[int]:
    """Lengths that are left when the longest are cut first, down to `room` in all."""
    if sum(lengths) <= room:
        return list(lengths)
    total = lambda cap: sum(min(length, cap) for length in lengths)
    cap = bisect_right(range(max(lengths) + 1), max(room, 0), key=total) - 1
    left = [min(length, cap) for length in lengths]
    spare = max(room, 0) - sum(left)
    for k, length in enumerate(lengths):
        if spare and length > cap:
            left[k], spare = left[k] + 1, spare - 1
    return left


def fit_to_room(text: Text, ids: dict[str, list[int]], room: int) -> list[list[int]]:
    """The token ids of each segment, cut to `room` together."""
    sizes = iter(piece_sizes(text, ids, room))
    return [
        [token for piece in segment for token in _cut(ids[piece.text], next(sizes), piece.cut)]
        for segment in text
    ]


def piece_sizes(text: Text, ids: dict[str, list[int]], room: int) -> list[int]:
    """Tokens of each piece that stand in a row."""
    pieces = [piece for segment in text for piece in segment]
    lengths = [len(ids[piece.text]) for piece in pieces]
    return _sizes([piece.cut for piece in pieces], lengths, room)


def _sizes(cuts: list[str], lengths: list[int], room: int) -> list[int]:
    loose = [0 if cut == "never" else length for cut, length in zip(cuts, lengths, strict=True)]
    fixed = [length - free for length, free in zip(lengths, loose, strict=True)]
    fixed = share_room(fixed, room)  # cuts only where nothing loose could stay
    free = share_room(loose, room - sum(fixed))
    return [a + b for a, b in zip(fixed, free, strict=True)]


def _cut(tokens: list[int], size: int, end: str) -> list[int]:
    """The first `size` tokens, or the last: of a question with its answer the answer stays."""
    return tokens[:size] if end == "end" else tokens[len(tokens) - size :]


def _merge_spans(marks: Sequence[Mark]) -> list[tuple[int, int]]:
    """The spans in order, those that overlap as one."""
    merged: list[tuple[int, int]] = []
    for start, end, _ in sorted(marks):
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _insert_signs(text: str, marks: Sequence[Mark], start: int, end: int) -> str:
    """`text[start:end]` with the signs that fall into it."""
    inside = [mark for mark in marks if start <= mark.start and mark.end <= end]
    signs = [(mark.start, 1, -mark.end, mark.sign) for mark in inside]
    signs += [(mark.end, 0, -mark.start, mark.sign) for mark in inside]
    parts, done = [], start
    for at, _, _, sign in sorted(signs):
        parts += [text[done:at], sign]
        done = at
    return "".join([*parts, text[done:end]])


def word_spans(text: str) -> list[tuple[int, int]]:
    """Where the words of `text.split()` begin and end."""
    return [match.span() for match in re.finditer(r"\S+", text)]

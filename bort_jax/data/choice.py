# SPDX-License-Identifier: Apache-2.0
"""Which positions of a row are predicted: single tokens, or whole words."""

import numpy as np
from jaxtyping import Bool, Int, UInt64

from bort_jax.data.order import noise

MASK_SHARE = 0.15
# Words are taken in random order until one does not fit; this many such words are passed over.
PASSED_OVER = 4
MARGIN = 32  # tokens, beyond m, that the words considered may have together


def masked_count(lengths) -> Int[np.ndarray, "..."]:
    """m: 15 % of the tokens of a text, at least one; none of an empty text."""
    counts = np.maximum(1, np.rint(MASK_SHARE * np.asarray(lengths))).astype(np.int64)
    return np.where(np.asarray(lengths) > 0, counts, 0)


def choose_tokens(
    keys: UInt64[np.ndarray, " b"], lengths: Int[np.ndarray, " b"], *, seq_len: int
) -> Int[np.ndarray, "b m"]:
    """m positions of each row, rising, all equally likely.

    Args:
      keys: what the choice is a function of.
      lengths: tokens of text in each row; they stand at 1, 2, ….
      seq_len: sets m; a shorter row has fewer positions, and zeros before them.
    """
    body, m = seq_len - 2, int(masked_count(seq_len - 2))
    drawn, low = _with_positions(noise(keys, body), lengths)
    smallest = np.partition(drawn, m - 1, axis=1)[:, :m]
    if not (lengths == body).all():
        smallest.sort(axis=1)
        surplus = np.arange(m) >= masked_count(lengths)[:, None]
        smallest[surplus] = 0
    return _sort_positions(smallest & low)


def choose_words(
    keys: UInt64[np.ndarray, " b"], lengths: Int[np.ndarray, " b"], begins: Bool[np.ndarray, "b s"]
) -> Int[np.ndarray, "b m"]:
    """At most m positions of each row, rising after zeros: words in random order while they fit.

    A word that does not fit is passed over, as in BERT's own code; after a few of these the rest
    of m stays unused. A word of more than m tokens is never chosen.

    Args:
      keys: what the choice is a function of.
      lengths: tokens of text in each row; they stand at 1, 2, ….
      begins: whether a token of a row begins a word; the first of the text always does.
    """
    body = begins.shape[1] - 2
    m = int(masked_count(body))
    first, size = _word_places(begins[:, 1:-1], lengths)
    drawn, low = _with_positions(np.take_along_axis(noise(keys, body), first, axis=1), lengths)
    width = min(body, m + MARGIN)
    drawn = np.partition(drawn, width - 1, axis=1)[:, :width]
    drawn.sort(axis=1)  # equal noise and rising positions: a word's tokens stand together
    at = (drawn & low).astype(np.int64)
    place = np.where(at <= lengths[:, None], at - 1, 0)
    first, size = (np.take_along_axis(values, place, axis=1) for values in (first, size))
    before = np.arange(width) - (place - first)
    whole = (at <= lengths[:, None]) & (before + size <= width)
    fits = _fits(before, size, whole, room=masked_count(lengths)[:, None])
    return _sort_positions(np.where(fits, at, 0))[:, -m:]


def _fits(before, size, whole, *, room):
    """Which tokens, in the order of choice, belong to words that fit into `room` [b, 1].

    Args:
      before: tokens of the words before this token's, [b, w].
      size: tokens of its word.
      whole: whether its word stands here from end to end.
    """
    barred = ~whole
    for _ in range(PASSED_OVER):
        over = ~barred & (before + size > room)
        at = over.argmax(axis=1)[:, None]  # the first word that does not fit
        start, length = (np.take_along_axis(values, at, axis=1) for values in (before, size))
        stopped = np.take_along_axis(over, at, axis=1)
        barred |= stopped & (before == start)
        before = before - np.where(stopped & (before > start), length, 0)
    ends = np.where(barred, 0, before + size)
    return ~barred & (np.maximum.accumulate(ends, axis=1) <= room)


def _word_places(begins, lengths):
    """For each token of the text: the place where its word begins, and the word's length."""
    body = begins.shape[1]
    places = np.arange(body)
    begins = begins.copy()
    begins[:, 0] = True
    begins |= places >= lengths[:, None]  # what follows the text belongs to no word of it
    first = np.maximum.accumulate(np.where(begins, places, 0), axis=1)
    following = np.where(begins, places, body)[:, ::-1]
    following = np.minimum.accumulate(following, axis=1)[:, ::-1]
    after = np.concatenate([following[:, 1:], np.full((len(begins), 1), body)], axis=1)
    return first, np.take_along_axis(after, first, axis=1) - first


def _with_positions(drawn, lengths):
    """Puts the position into the low bits, so that a sort of numbers carries it along.

    With rows of 512 the upper 23 bits decide; that two of a row tie there is rare, and then the
    earlier position wins. What is behind the text comes last.
    """
    body = drawn.shape[1]
    low = np.uint32((1 << (body + 1).bit_length()) - 1)
    positions = np.arange(1, body + 1, dtype=np.uint32)
    drawn = (drawn & ~low) | positions
    if not (lengths == body).all():
        drawn[positions > lengths[:, None]] = np.iinfo(np.uint32).max
    return drawn, low


def _sort_positions(positions) -> Int[np.ndarray, "b m"]:
    return np.sort(positions.astype(np.int32), axis=1)

# SPDX-License-Identifier: Apache-2.0
"""Dev in two halves that know nothing of each other: what is alike stands in one of them."""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from math import ceil
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from bort_jax.tasks.encode import join_pieces
from bort_jax.tasks.task import Examples

ALIKE = 0.8  # share of their words that near-duplicates have in common
FEWEST_WORDS = 3  # shorter texts say nothing by being the same


class Split(NamedTuple):
    """The two halves of dev: Agora reads `steer` and never `report`."""

    steer: Int[np.ndarray, " n"]
    report: Int[np.ndarray, " m"]


def split_dev(examples: Examples, *, steer: float = 0.5) -> Split:
    """Splits by groups of alike texts, a group by the hash of one of its texts.

    Equal texts, rows with a premise or a passage in common, and near-duplicates never stand on both
    sides; a text that is like no other always falls on the same side, whatever else is in the file.
    """
    values = np.zeros(len(examples.texts))
    texts = example_texts(examples)
    for members in text_groups(examples):
        values[members] = _hash01(min(texts[k] for k in members))
    return Split(np.flatnonzero(values < steer), np.flatnonzero(values >= steer))


def example_texts(examples: Examples) -> list[str]:
    """All that each example says, in lower case and with single blanks."""
    return [_row_text(row) for row in examples.texts]


def text_groups(examples: Examples) -> list[list[int]]:
    """The rows that are linked, directly or over others, by being alike."""
    parent = list(range(len(examples.texts)))

    def root(k: int) -> int:
        while parent[k] != k:
            parent[k] = parent[parent[k]]
            k = parent[k]
        return k

    words = [_words(text) for text in example_texts(examples)]
    for a, b in (*_common_parts(examples), *near_duplicates(words)):
        parent[root(b)] = root(a)
    groups = defaultdict(list)
    for k in range(len(parent)):
        groups[root(k)].append(k)
    return list(groups.values())


def near_duplicates(
    sets: Sequence[frozenset[str]], *, alike: float = ALIKE
) -> Iterable[tuple[int, int]]:
    """All pairs whose Jaccard similarity is at least `alike`.

    Exact: two such sets share a word among the first |x| − ⌈alike·|x|⌉ + 1 of each, the rarest
    words first (prefix filtering, Chaudhuri et al. 2006).
    """
    frequency = Counter(word for one in sets for word in one)
    shelves: dict[str, list[int]] = defaultdict(list)
    for k, one in enumerate(sets):
        rare = sorted(one, key=lambda word: (frequency[word], word))
        prefix = rare[: len(one) - ceil(alike * len(one)) + 1]
        candidates = {other for word in prefix for other in shelves[word]}
        for other in sorted(candidates):
            if len(one & sets[other]) >= alike * len(one | sets[other]):
                yield other, k
        for word in prefix:
            shelves[word].append(k)


def _common_parts(examples: Examples) -> Iterable[tuple[int, int]]:
    """Pairs of rows that have a text, such as a premise or a passage, in common."""
    first: dict[Hashable, int] = {}
    for k, row in enumerate(examples.texts):
        for part in {part for text in row for part in join_pieces(text).split("\x1f")}:
            words = tuple(part.lower().split())
            if len(words) >= FEWEST_WORDS:
                yield first.setdefault(words, k), k


def _row_text(row) -> str:
    text = "\x1f".join(map(join_pieces, row))
    return "\x1f".join(" ".join(part.lower().split()) for part in text.split("\x1f"))


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text))


def _hash01(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7]) / 2**56

# SPDX-License-Identifier: Apache-2.0
"""The parts of the quickstart's data, and the baseline on them."""

import numpy as np
import pandas as pd
import pytest

from bort_jax.stages.compress.baseline import tfidf_answers
from bort_jax.stages.compress.sentences import (
    SentenceCounts,
    content_key,
    first_of_each,
    write_sentences,
)
from bort_jax.tasks import Examples

PARTS = ("rich/train", "rich/validation", "rich/test", "scarce/train", "pool")


def test_no_sentence_is_in_two_parts(tmp_path):
    write_sentences(tmp_path, SentenceCounts(), seed=0)
    parts = {name: pd.read_parquet(tmp_path / f"{name}.parquet") for name in PARTS}
    assert [len(part) for part in parts.values()] == [3600, 600, 1500, 300, 2400]
    keys = [content_key(text) for part in parts.values() for text in part["text"]]
    assert len(set(keys)) == len(keys)
    assert list(parts["pool"].columns) == ["text"]
    for split in ("validation", "test"):
        same = pd.read_parquet(tmp_path / "scarce" / f"{split}.parquet")
        assert same.equals(parts[f"rich/{split}"])


def test_too_many_sentences_are_refused(tmp_path):
    with pytest.raises(ValueError, match="sentences asked for"):
        write_sentences(tmp_path, SentenceCounts(pool=9000), seed=0)


def test_first_of_each_sees_through_case_blanks_and_punctuation():
    assert first_of_each(["A film .", "another", "a  film!", "Another"]) == [0, 1]


@pytest.mark.parametrize("scores", [False, True])
def test_tfidf_answers_learn_words(scores):
    train = Examples.of(
        [["good film", "bad film", "good play", "bad play"]], np.array([1, 0, 1, 0])
    )
    test = Examples.of([["a good one", "a bad one"]], np.array([1, 0]))
    answers, weights = tfidf_answers(train, test, scores=scores)
    assert answers[0] > answers[1] and weights == 8

# SPDX-License-Identifier: Apache-2.0
"""The cheap baseline beside every result: TF-IDF with logistic regression on the same labels."""

import importlib.util
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int

from bort_jax.report.terminal import say
from bort_jax.stages.compress.table import COUNTS, DOUBLE, Line
from bort_jax.stages.compress.texts import example_texts
from bort_jax.tasks import Examples


def tfidf_right(
    texts: Sequence[str],
    labels: Sequence[int] | Int[np.ndarray, " n"],
    test_texts: Sequence[str],
    test_labels: Sequence[int] | Int[np.ndarray, " m"],
) -> tuple[Bool[np.ndarray, " m"], int]:
    """Which test texts are classified right, and the number of weights.

    Words and pairs of words, logarithmic counts, C = 1: settings that are not searched for.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    words, model = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression()
    model.fit(words.fit_transform(texts), labels)
    predicted = np.asarray(model.predict(words.transform(test_texts)))
    return np.equal(predicted, test_labels), int(model.coef_.size)


def baseline_line(train: Examples, test: Examples) -> list[Line]:
    """The baseline's line of the table; none, and a note, without scikit-learn."""
    if importlib.util.find_spec("sklearn") is None:
        say("NOTE: no TF-IDF baseline: pip install 'bort-jax[quickstart]'")
        return []
    right, weights = tfidf_right(
        example_texts(train), train.labels, example_texts(test), test.labels
    )
    return [Line(COUNTS, right.astype(int).tolist(), weights, None, None, DOUBLE * weights)]

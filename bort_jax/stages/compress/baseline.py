# SPDX-License-Identifier: Apache-2.0
"""The cheap baseline beside every result: TF-IDF with logistic regression on the same labels."""

import importlib.util
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int


def is_there() -> bool:
    """Whether scikit-learn, an extra, is installed."""
    return importlib.util.find_spec("sklearn") is not None


def tfidf_accuracy(
    texts: Sequence[str],
    labels: Sequence[int] | Int[np.ndarray, " n"],
    test_texts: Sequence[str],
    test_labels: Sequence[int] | Int[np.ndarray, " m"],
) -> tuple[float, int]:
    """Accuracy on the test texts, and the number of weights.

    Words and pairs of words, logarithmic counts, C = 1: settings that are not searched for.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    classifier = LogisticRegression(max_iter=1000)
    model = make_pipeline(words, classifier).fit(texts, labels)
    return float(model.score(test_texts, test_labels)), int(classifier.coef_.size)

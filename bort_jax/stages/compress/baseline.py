# SPDX-License-Identifier: Apache-2.0
"""The cheap baseline beside every result: TF-IDF with a linear model on the same labels."""

import importlib.util

import numpy as np

from bort_jax.report.terminal import say
from bort_jax.stages.compress.table import COUNTS, DOUBLE, Line, measure_of, row_scores
from bort_jax.stages.compress.texts import example_texts
from bort_jax.tasks import Examples, Task


def tfidf_answers(train: Examples, test: Examples, *, scores: bool) -> tuple[np.ndarray, int]:
    """Its class, or score, of each test row, and the number of weights.

    Words and pairs of words, logarithmic counts, C = 1 (of scores: a ridge of 1): settings that are
    not searched for.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression, Ridge

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    model = Ridge() if scores else LogisticRegression()
    model.fit(words.fit_transform(example_texts(train)), train.labels)
    return np.asarray(model.predict(words.transform(example_texts(test)))), int(model.coef_.size)


def baseline_line(train: Examples, test: Examples, task: Task) -> list[Line]:
    """The baseline's line of the table; none of choices, and, with a note, without scikit-learn."""
    if task.head == "choice":
        return []
    if importlib.util.find_spec("sklearn") is None:
        say("NOTE: no TF-IDF baseline: pip install 'bort-jax[quickstart]'")
        return []
    answers, weights = tfidf_answers(train, test, scores=task.head == "regression")
    scores = row_scores(answers, test.labels, task)
    return [Line(COUNTS, scores, weights, None, None, DOUBLE * weights, measure_of(task))]

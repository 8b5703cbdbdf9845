# SPDX-License-Identifier: Apache-2.0
"""The official metrics of GLUE, SuperGLUE and RACE, as fractions, on numpy arrays.

Where a metric is undefined (a constant predictor's correlation, F1 without positives) it is 0,
as in scikit-learn.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Hashable, Sequence

import numpy as np
from jaxtyping import Float, Int

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


def accuracy(predicted: Int[np.ndarray, " n"], labels: Int[np.ndarray, " n"]) -> float:
    return float(np.mean(predicted == labels))


def f1(
    predicted: Int[np.ndarray, " n"], labels: Int[np.ndarray, " n"], *, positive: int = 1
) -> float:
    """2·tp / (2·tp + fp + fn) of one class."""
    hits = np.sum((predicted == positive) & (labels == positive))
    said = np.sum(predicted == positive) + np.sum(labels == positive)
    return float(2 * hits / said) if said else 0.0


def macro_f1(predicted: Int[np.ndarray, " n"], labels: Int[np.ndarray, " n"]) -> float:
    """The mean of F1 over the classes that are predicted or labelled."""
    classes = np.union1d(predicted, labels)
    return float(np.mean([f1(predicted, labels, positive=k) for k in classes]))


def matthews(predicted: Int[np.ndarray, " n"], labels: Int[np.ndarray, " n"]) -> float:
    """Matthews correlation; Gorodkin's R_K where there are more than two classes."""
    classes = np.union1d(predicted, labels)
    one_hot = lambda values: (values[:, None] == classes).astype(float)
    x, y = (one_hot(values) - one_hot(values).mean(axis=0) for values in (predicted, labels))
    scale = np.sqrt((x * x).sum() * (y * y).sum())
    return float((x * y).sum() / scale) if scale > 0 else 0.0


def pearson(predicted: Float[np.ndarray, " n"], labels: Float[np.ndarray, " n"]) -> float:
    """Correlation of the values."""
    from scipy.stats import pearsonr  # slow to import

    return _correlation(pearsonr, predicted, labels)


def spearman(predicted: Float[np.ndarray, " n"], labels: Float[np.ndarray, " n"]) -> float:
    """Correlation of the ranks, equal values sharing theirs."""
    from scipy.stats import spearmanr  # slow to import

    return _correlation(spearmanr, predicted, labels)


def exact_groups(
    predicted: Int[np.ndarray, " n"],
    labels: Int[np.ndarray, " n"],
    *,
    groups: Sequence[Hashable],
) -> float:
    """The share of groups without a mistake: MultiRC's EM, a question all of whose answers are
    judged right."""
    right: dict[Hashable, bool] = {}
    for group, same in zip(groups, predicted == labels, strict=True):
        right[group] = right.get(group, True) and bool(same)
    return float(np.mean(list(right.values())))


def gender_parity(predicted: Int[np.ndarray, " n"], *, groups: Sequence[Hashable]) -> float:
    """The share of pairs whose two sentences, alike but for the gender, are judged alike."""
    seen: dict[Hashable, set[int]] = {}
    for group, value in zip(groups, predicted, strict=True):
        seen.setdefault(group, set()).add(int(value))
    return float(np.mean([len(values) == 1 for values in seen.values()]))


def token_f1(said: str, gold: Sequence[str]) -> float:
    """F1 of the words of an answer, the best over the right answers."""
    return max(_word_f1(normal(said).split(), normal(answer).split()) for answer in gold)


def exact_match(said: str, gold: Sequence[str]) -> float:
    """Whether an answer is one of the right ones, as SQuAD compares them."""
    return float(any(normal(said) == normal(answer) for answer in gold))


def over_answers(
    metric: Callable[[str, Sequence[str]], float],
    said: Sequence[str],
    golds: Sequence[Sequence[str]],
) -> float:
    """The mean of `token_f1` or `exact_match` over queries."""
    return float(np.mean([metric(text, gold) for text, gold in zip(said, golds, strict=True)]))


def normal(text: str) -> str:
    """SQuAD's form for comparison: lower case, no punctuation, no articles, single blanks."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def _word_f1(said: list[str], gold: list[str]) -> float:
    common = sum((Counter(said) & Counter(gold)).values())
    return 2 * common / (len(said) + len(gold)) if common else 0.0


def _correlation(coefficient: Callable, predicted: np.ndarray, labels: np.ndarray) -> float:
    if np.ptp(predicted) == 0 or np.ptp(labels) == 0:
        return 0.0
    return float(coefficient(np.float64(predicted), np.float64(labels)).statistic)

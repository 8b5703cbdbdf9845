# SPDX-License-Identifier: Apache-2.0
"""Soft labels that are as sure as they are right: one temperature, fitted by likelihood."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

SMALLEST = 1e-12  # a probability of 0 has no logarithm
RANGE = (0.5, 20.0)  # few rows, all of them right, would make every answer certain


def fit_temperature(answers: Float[np.ndarray, "n c"], labels: Int[np.ndarray, " n"]) -> float:
    """The temperature under which the answers make the true labels likeliest.

    1 where all answers are certain: who gives no probabilities has none to soften.

    Source: temperature scaling, Guo et al., arXiv 1706.04599.
    """
    if not len(labels) or (answers.max(axis=1) == 1).all():
        return 1.0
    logits, rows = log_answers(answers), np.arange(len(labels))
    surprise = lambda log_t: -log_softmax(logits / np.exp(log_t), axis=1)[rows, labels].mean()
    found: Any = minimize_scalar(surprise, bounds=np.log(RANGE), method="bounded")
    return float(np.exp(found.x))


def at_temperature(label_fn: Callable, temperature: float) -> Callable:
    """`label_fn` with softened probabilities; certain answers stay."""

    def label(x: np.ndarray) -> Float[np.ndarray, "n c"]:
        answers = np.asarray(label_fn(x), np.float32)
        softened = softmax(log_answers(answers) / temperature, axis=1).astype(np.float32)
        return np.where(answers.max(axis=1, keepdims=True) == 1, answers, softened)

    return label if temperature != 1 else label_fn


def log_answers(answers: Float[np.ndarray, "n c"]) -> Float[np.ndarray, "n c"]:
    return np.log(np.maximum(np.asarray(answers, float), SMALLEST))

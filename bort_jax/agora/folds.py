# SPDX-License-Identifier: Apache-2.0
"""Agora without a dev set: the mistakes are those of k-fold cross-validation on the given rows.

*Our reading:* the paper has a dev set that represents the task. The given rows steer in its place,
so that no point is made where they have none, and what is found is no score of the models.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from bort_jax.agora.dataset import Dataset
from bort_jax.agora.loop import Agora
from bort_jax.agora.records import Generated, Mistakes
from bort_jax.agora.theta import Theta


def cross_validate(calls: Agora, given: Dataset, *, folds: int = 5, seed: int = 0) -> Agora:
    """Callables for a run whose dev is the given rows: a model is a tuple of `folds` models, each
    fitted without one fold of them, in which it is scored. A fine-tuning costs `folds` as many.

    Args:
      calls: those of a run with a dev set. `generate_fn` gets the first of the models.
      given: the train set before the first round, and dev.
      seed: of the folds.

    Raises:
      ValueError: fewer than 2 folds, or more than rows.
    """
    rows = len(given.y)
    if not 2 <= folds <= rows:
        raise ValueError(f"folds must lie between 2 and the number of rows, {rows}; got {folds}")
    fold_of = np.random.default_rng(seed).permutation(rows) % folds

    def fit(thetas: Sequence[Theta], train: Dataset) -> Iterator[tuple]:
        made = np.full(len(train.y) - rows, -1)  # points of the rounds are in no fold
        places = np.concatenate([fold_of, made])
        parts = [train.take(np.flatnonzero(places != fold)) for fold in range(folds)]
        for theta in thetas:
            yield tuple(next(iter(calls.fit_fn([theta], part))) for part in parts)

    def score(models: tuple, dev: Dataset) -> np.ndarray:
        correct = np.empty(rows)
        for fold, model in enumerate(models):
            mine = np.flatnonzero(fold_of == fold)
            correct[mine] = calls.score_fn(model, dev.take(mine))
        return correct if np.isnan(correct).any() else correct.astype(bool)

    def generate(mistakes: Mistakes, rng: np.random.Generator) -> Generated:
        return calls.generate_fn(mistakes._replace(model=first_of(mistakes.model)), rng)

    return calls._replace(fit_fn=fit, score_fn=score, generate_fn=generate)


def first_of(models: tuple | None) -> Any:
    return models[0] if models else None

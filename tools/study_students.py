# SPDX-License-Identifier: Apache-2.0
"""Who learns in `agora_study.py`: points are row numbers of a table, [n, 1]."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import Float, Int
from scipy.special import softmax

from bort_jax.agora import Dataset, grid, one_hot
from bort_jax.agora.theta import Theta as Pairs
from bort_jax.stages.finetune.tuner import FineTuner, Theta
from bort_jax.tasks import Points

STRENGTHS = (0.03, 0.1, 0.3, 1.0)
SEEDS = (10, 11)  # of the last fine-tunings; the score is their mean


class Student(Protocol):
    """Fits Θ to labelled rows, and says how likely the classes of rows are.

    Attributes:
      thetas: Agora's Θ.
      groups: the score is the mean over groups, each by its θ that is best on dev.
    """

    @property
    def thetas(self) -> Sequence[Pairs]: ...

    @property
    def groups(self) -> Sequence[Sequence[Pairs]]: ...

    def fit_all(self, thetas: Sequence[Pairs], train: Dataset) -> Iterator[Any]: ...

    def chances(self, model: Any, rows: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n c"]: ...


class Probe(NamedTuple):
    """Logistic regression on frozen embeddings: minutes a task, and no proof."""

    vectors: Float[np.ndarray, "n h"]
    classes: int
    thetas: Sequence[Pairs] = tuple(grid(strength=STRENGTHS))
    groups: Sequence[Sequence[Pairs]] = (tuple(grid(strength=STRENGTHS)),)

    def fit_all(self, thetas: Sequence[Pairs], train: Dataset) -> Iterator[Any]:
        from sklearn.linear_model import LogisticRegression

        targets = one_hot(train.y, self.classes) if train.targets is None else train.targets
        rows, labels = np.nonzero(targets > 0)  # a soft label is a row of each class, with weights
        x, weights = self.vectors[train.x[rows, 0]], targets[rows, labels]
        for theta in thetas:
            model = LogisticRegression(C=100 * dict(theta)["strength"], max_iter=200)
            yield model.fit(x, labels, sample_weight=weights)

    def chances(self, model: Any, rows: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n c"]:
        known = model.predict_proba(self.vectors[rows])
        return (known @ one_hot(model.classes_, self.classes)).astype(np.float32)


class TextStudent(NamedTuple):
    """A fine-tuned network, with one learning rate: Θ has seeds."""

    tuner: FineTuner
    tokens: Int[np.ndarray, "n s"]
    batch_size: int
    learning_rate: float
    thetas: Sequence[Pairs] = tuple(grid(seed=(0, 1)))
    groups: Sequence[Sequence[Pairs]] = tuple(((("seed", seed),),) for seed in SEEDS)

    def fit_all(self, thetas: Sequence[Pairs], train: Dataset) -> Iterator[Any]:
        fixed: dict[str, Any] = dict(
            learning_rate=self.learning_rate,
            weight_decay=0.01,
            warmup_ratio=0.1,
            batch_size=self.batch_size,
        )
        points = Points(self.tokens[train.x[:, 0]], train.y, train.targets)
        return self.tuner.fit_all([Theta(**fixed | dict(theta)) for theta in thetas], points)

    def chances(self, model: Any, rows: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n c"]:
        return softmax(self.tuner.outputs(model, self.tokens[rows]), axis=1).astype(np.float32)

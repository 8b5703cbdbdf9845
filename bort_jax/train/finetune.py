# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning of a classifier: one hyperparameter set, one data set, one result."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int
from tqdm import tqdm

from bort_jax.data.tasks import Points
from bort_jax.interop import Checkpoint
from bort_jax.model import Classifier, classification, forward, init_params
from bort_jax.train.loop import fit
from bort_jax.train.optimizer import Hyper
from bort_jax.train.parallel import new_state, parallel_step
from bort_jax.train.predict import class_logits


class Theta(NamedTuple):
    """One hyperparameter set θ of fine-tuning."""

    seed: int
    learning_rate: float
    weight_decay: float
    warmup_ratio: float
    batch_size: int


@dataclass(frozen=True)
class FineTuner:
    """The program that turns (θ, points) into classifier parameters.

    One compilation serves every θ with the same batch size and every data set, for rates,
    decay and lengths of the run are traced.

    Attributes:
      start: the pretrained checkpoint; its encoder is kept, its head is not.
      labels: names of the classes.
      steps: gradient steps of each fine-tuning, whatever the size of the data.
      step_fn: `(state, batch, key) -> (state, metrics)`.
      logits_fn: `(params, x) -> logits`.
    """

    start: Checkpoint
    labels: tuple[str, ...]
    steps: int
    step_fn: Callable
    logits_fn: Callable

    @classmethod
    def of(
        cls, start: Checkpoint, labels: tuple[str, ...], *, steps: int, dropout: float = 0.1
    ) -> "FineTuner":
        config = replace(start.config, dropout=dropout)
        model = Classifier(config, len(labels))
        pad = start.required_tokenizer.special.pad
        step = parallel_step(classifier_loss(model, pad=pad), optimizer="adamw", clip=1.0)
        return cls(
            start=replace(start, config=config),
            labels=labels,
            steps=steps,
            step_fn=lambda state, batch, key: step(state, (), batch, key),
            logits_fn=class_logits(model, pad=pad),
        )

    def fit(self, theta: Theta, points: Points, *, title: str = "fine-tune") -> Any:
        """Trains a copy of the start with θ; returns a tree of numpy parameters."""
        hyper = Hyper.of(
            learning_rate=theta.learning_rate,
            weight_decay=theta.weight_decay,
            warmup_ratio=theta.warmup_ratio,
            total_steps=self.steps,
        )
        state = new_state(self.initial(theta.seed), hyper, optimizer="adamw", clip=1.0)
        key = jax.random.key(theta.seed)
        batches = islice(labelled_batches(points, theta), self.steps)
        bar = tqdm(batches, total=self.steps, desc=title, unit="step", leave=False, disable=None)
        state = fit(state, bar, step_fn=lambda state, batch: self.step_fn(state, batch, key))
        return jax.device_get(state.params)

    def fit_all(self, thetas: Sequence[Theta], points: Points) -> Iterator[Any]:
        """Trains a copy of the start with each θ; their parameters in the order of Θ."""
        for number, theta in enumerate(thetas, start=1):
            yield self.fit(theta, points, title=f"fine-tune {number} of {len(thetas)}")

    def initial(self, seed: int) -> Any:
        """The pretrained encoder under a fresh head."""
        fresh = init_params(Classifier(self.start.config, len(self.labels)), seed=seed)
        return fresh | {"encoder": self.start.params["encoder"]}

    def predict(self, params, x: Int[np.ndarray, "n s"]) -> Int[np.ndarray, " n"]:
        """The most likely class of each row."""
        return self.logits_fn(params, x).argmax(axis=-1)

    def accuracy(self, params, points: Points) -> float:
        return float((self.predict(params, points.x) == points.y).mean())

    def checkpoint(self, params, facts: Mapping[str, str]) -> Checkpoint:
        """The classifier in the family of the start; `facts` are for its model card."""
        facts = {**self.start.facts, **facts}
        return replace(
            self.start, params=params, labels=self.labels, headless=False, facts=facts, notes=()
        )


def classifier_loss(model: Classifier, *, pad: int) -> Callable:
    """Cross-entropy over classes: `(params, frozen, batch, key) -> sums`."""

    def loss_fn(params, frozen, batch, key):
        del frozen
        logits = forward(model, params, batch["ids"], batch["ids"] != pad, key=key)
        return classification(logits, batch["labels"], batch["weights"])

    return loss_fn


def labelled_batches(points: Points, theta: Theta) -> Iterator[dict[str, np.ndarray]]:
    """Endless epochs, each a permutation from (seed, epoch); a last, short batch has weights 0."""
    size = theta.batch_size
    for epoch in count():
        order = np.random.default_rng((theta.seed, epoch)).permutation(len(points.y))
        for start in range(0, len(order), size):
            picked = np.resize(order[start : start + size], size)
            real = np.arange(size) < len(order) - start
            yield {
                "ids": points.x[picked],
                "labels": points.y[picked],
                "weights": real.astype(np.float32),
            }

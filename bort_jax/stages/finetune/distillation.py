# SPDX-License-Identifier: Apache-2.0
"""The loss of a fine-tuning by distillation: a teacher's answers, its hidden states, labels."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bort_jax.interop import Checkpoint
from bort_jax.model import (
    Classifier,
    classification,
    distillation,
    hidden_states,
    regression,
    states_and_logits,
)
from bort_jax.model.losses import Sums
from bort_jax.tasks import Task, align_outputs


class Distillation(NamedTuple):
    """Weights of the losses; that of the teacher's answers has the weight 1.

    Attributes:
      temperature: T, by which both distributions are softened; of no account for scores.
      label_weight: of the loss of the rows that have labels; the default is the share that they$
        have in the published pretraining, 0.1 to 0.5.
      hidden_weight: of the error of the last hidden states.
    """

    temperature: float = 2.0
    label_weight: float = 0.2
    hidden_weight: float = 1.0

    def validate(self) -> "Distillation":
        """Raises ValueError for a temperature or a weight that cannot be."""
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive; got {self.temperature:g}")
        for name in ("label_weight", "hidden_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative; got {getattr(self, name):g}")
        return self


def distillation_loss(model: Classifier, head: str, weights: Distillation, *, pad: int) -> Callable:
    """Builds `(params, batch, key) -> sums`: T² · KL(teacher ‖ student) over classes or choices, or
    the squared difference of scores, and the weighted losses of labels and hidden states.

    A batch is one of `head_loss`, in which `weights` says what is a row. Beside it has:
      label_weights: float[b], 0 where a row has no label.
      teacher: float[b, k], its outputs for classes, for the rows of a question, or its score.
      states: float[b, s, h] (choices: [b, c, s, h]), its last hidden states, or not there.
    """

    def loss_fn(params, batch: dict[str, jax.Array], key) -> Sums:
        rows = batch["ids"].reshape(-1, batch["ids"].shape[-1])
        states, outputs = states_and_logits(model, params, rows, rows != pad, key=key)
        outputs = outputs.reshape(len(batch["ids"]), -1)
        labelled = _label_loss(outputs, batch, head)
        answers = _answer_loss(outputs, batch, head, temperature=weights.temperature)
        loss = answers + weights.label_weight * labelled
        if "states" in batch:
            hidden = _hidden_loss(states, batch["states"], rows != pad, batch["weights"])
            loss += weights.hidden_weight * hidden
        return {"loss": loss, "distillation": answers, "count": batch["weights"].sum()}

    return loss_fn


def inherit_head(start: Checkpoint, labels: tuple[str, ...], head: str) -> Any:
    """The parameters of a classifier beside its encoder, its outputs in the order of `labels`; None
    where it has not this head."""
    if not start.labels or start.problem != head:
        return None
    try:
        order = align_outputs(
            np.eye(len(start.labels), dtype=np.float32),
            Task(labels=labels, head=head),
            labels=start.labels,
        )
    except ValueError:
        return None
    rest = {name: tree for name, tree in start.params.items() if name != "encoder"}
    return rest | {"output": {name: x @ order for name, x in rest["output"].items()}}


def _label_loss(outputs, batch, head: str) -> jax.Array:
    labels, weights = batch["labels"], batch["label_weights"]
    if head == "regression":
        return regression(outputs[:, 0], labels, weights)["loss"]
    return classification(outputs, labels, weights)["loss"]


def _answer_loss(outputs, batch, head: str, *, temperature: float) -> jax.Array:
    if head == "regression":
        return regression(outputs[:, 0], batch["teacher"][:, 0], batch["weights"])["loss"]
    return distillation(outputs, batch["teacher"], batch["weights"], temperature=temperature)


def _hidden_loss(states, theirs, mask, weights) -> jax.Array:
    """The mean over a question's choices counts as one row."""
    choices = len(states) // len(weights)
    of_rows = jnp.repeat(weights / choices, choices)[:, None]
    return hidden_states(states, theirs.reshape(states.shape), mask, of_rows)

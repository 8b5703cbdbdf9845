# SPDX-License-Identifier: Apache-2.0
"""A checkpoint's outputs on labelled rows: for scores, records and submissions."""

from collections.abc import Callable, Sequence

import numpy as np
from scipy.special import softmax

from bort_jax.engine.parallel import replicate
from bort_jax.interop import Checkpoint
from bort_jax.stages.predict.forward import BatchSize, class_logits
from bort_jax.tasks import Examples, Task, align_outputs, decide, own_task, score


def scores_of(outputs: np.ndarray, task: Task, *, examples: Examples) -> dict[str, float]:
    """The task's metrics of a head that has the task's own classes."""
    outputs = align_outputs(outputs, task, labels=task.labels)
    return score(decide(outputs, task, examples=examples), task, examples=examples)


def check_length(seq_len: int, start) -> None:
    if seq_len > start.config.positions:
        raise ValueError(
            f"seq_len {seq_len} is longer than the model's {start.config.positions} positions"
        )


def task_of_checkpoint(checkpoint: Checkpoint, columns: Sequence[str], label: str = "") -> Task:
    """One's own rows as a task: the checkpoint knows the labels, or that they are scores."""
    if checkpoint.problem == "choice":
        raise ValueError("a model that chooses needs --task, which says between what")
    if checkpoint.problem == "regression":
        return own_task(columns, label, ("-inf", "inf"), head="regression")
    return own_task(columns, label, checkpoint.labels)


def outputs_fn(
    checkpoint: Checkpoint, task: Task, *, seq_len: int
) -> Callable[[Examples], np.ndarray]:
    """Builds `examples -> outputs`: a classifier's, a row of tokens a line, in the task's columns.

    Raises:
      ValueError: the checkpoint has no head, or not one for the task. The function that is built
        raises it for a model whose outputs are not finite.
    """
    if not checkpoint.labels:
        raise ValueError(f"a {checkpoint.head} checkpoint cannot predict {task.name}: fine-tune it")
    width, tokenizer = len(checkpoint.labels), checkpoint.required_tokenizer
    # An empty batch of the head's width: a wrong head is refused before any forward pass.
    align_outputs(np.zeros((0, width)), task, labels=checkpoint.labels)
    logits_fn = finite_logits(checkpoint)

    def outputs(examples: Examples) -> np.ndarray:
        logits = logits_fn(examples.encode(tokenizer, seq_len=seq_len).x)
        return align_outputs(logits, task, labels=checkpoint.labels)

    return outputs


def finite_logits(checkpoint: Checkpoint, *, batch_size: BatchSize = 64) -> Callable:
    """Builds `x: int[*rows, s] -> outputs: float[m, c]` of a head with labels.

    The function that is built raises ValueError for a model whose outputs are not finite.
    """
    pad = checkpoint.required_tokenizer.special.pad
    logits_fn = class_logits(checkpoint.model, pad=pad, batch_size=batch_size)
    params = replicate(checkpoint.params)

    def outputs(x: np.ndarray) -> np.ndarray:
        logits = logits_fn(params, x)
        if not np.isfinite(logits).all():
            raise ValueError("the model's outputs are not finite: its training has diverged")
        return logits

    return outputs


def prediction_records(predicted: np.ndarray, outputs: np.ndarray, task: Task) -> list[dict]:
    """A record of each prediction: its label's name with the probability, or its score."""
    if task.head == "regression":
        return [{"score": float(value)} for value in predicted]
    chances = softmax(outputs.reshape(len(predicted), -1), axis=1)
    return [
        {"label": task.labels[label], "probability": float(chances[k, label])}
        for k, label in enumerate(predicted)
    ]

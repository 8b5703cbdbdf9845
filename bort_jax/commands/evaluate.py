# SPDX-License-Identifier: Apache-2.0
"""A classifier: accuracy and a predictions file. A masked LM: loss, perplexity and error."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bort_jax.commands.finetune import check_length
from bort_jax.data.prepared import prepare_corpus
from bort_jax.data.tasks import (
    Examples,
    Task,
    arranged,
    decide,
    find_task,
    own_task,
    read_examples,
    score,
)
from bort_jax.interop import Checkpoint, read
from bort_jax.report.terminal import show_box
from bort_jax.train.evaluation import mlm_scores
from bort_jax.train.parallel import replicate
from bort_jax.train.predict import class_logits, for_device, probabilities
from bort_jax.train.run_folder import write_json


@dataclass(frozen=True)
class Config:
    """What to score.

    Attributes:
      model: checkpoint folder.
      data: a file of labelled rows for a classifier; any text for a masked LM.
      out: folder for `scores.json` and `predictions.jsonl`.
      columns: one text column, or two of a pair.
      label: label column.
      task: a test set whose rows the file holds, such as glue/rte: its columns, labels and metrics;
        a file without labels then gives predictions and no scores.
      seq_len: tokens in a row.
      rows: masked LM: how many held-out rows to score at the most.
    """

    model: str
    data: str
    out: str = "runs/evaluate"
    columns: tuple[str, ...] = ("text",)
    label: str = "label"
    task: str = ""
    seq_len: int = 128
    rows: int = 512


def run(config: Config) -> dict:
    checkpoint = read(config.model)
    check_length(config.seq_len, checkpoint)
    if checkpoint.headless:
        raise ValueError(f"{config.model} has no head, nothing to score: fine-tune it first")
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    score = score_classifier if checkpoint.labels else score_masked_lm
    scores = score(for_device(checkpoint), config, out)
    write_json(out / "scores.json", scores)
    show_box("evaluation", [f"{name}: {value:.4f}" for name, value in scores.items()] + [str(out)])
    return scores


def score_classifier(checkpoint: Checkpoint, config: Config, out: Path) -> dict[str, float]:
    """The task's metrics; a line an example in `predictions.jsonl`: index, label name, and its
    probability, or the score that the model predicts."""
    task = (
        find_task(config.task)
        if config.task
        else own_data(checkpoint, config.columns, config.label)
    )
    examples = read_examples(config.data, task, required=not config.task)
    outputs = outputs_of(checkpoint, task, examples=examples, seq_len=config.seq_len)
    predicted = decide(outputs, task, examples=examples)
    records = told(predicted, outputs, task)
    with (out / "predictions.jsonl").open("w") as lines:
        lines.writelines(
            json.dumps({"idx": k, **record}) + "\n" for k, record in enumerate(records)
        )
    return score(predicted, task, examples=examples) if examples.labelled else {}


def own_data(checkpoint: Checkpoint, columns: Sequence[str], label: str = "") -> Task:
    """One's own data, as far as the checkpoint says what it is."""
    if checkpoint.problem == "choice":
        raise ValueError("a model that chooses needs --task, which says between what")
    if checkpoint.problem == "regression":
        return own_task(columns, label, ("-inf", "inf"), head="regression")
    return own_task(columns, label, checkpoint.labels)


def outputs_of(
    checkpoint: Checkpoint, task: Task, *, examples: Examples, seq_len: int
) -> np.ndarray:
    """As `outputs_fn`, for these examples alone."""
    return outputs_fn(checkpoint, task, seq_len=seq_len)(examples)


def outputs_fn(
    checkpoint: Checkpoint, task: Task, *, seq_len: int
) -> Callable[[Examples], np.ndarray]:
    """A classifier's outputs on examples, a row of tokens a line, with the task's columns.

    Raises:
      ValueError: the checkpoint has no head, or not one for the task.
    """
    if not checkpoint.labels:
        raise ValueError(f"a {checkpoint.head} checkpoint cannot predict {task.name}: fine-tune it")
    width, tokenizer = len(checkpoint.labels), checkpoint.required_tokenizer
    # An empty batch of the head's width: a wrong head is refused before any forward pass.
    arranged(np.zeros((0, width)), task, labels=checkpoint.labels)
    logits_fn = class_logits(checkpoint.model, pad=tokenizer.special.pad)
    params = replicate(checkpoint.params)

    def outputs(examples: Examples) -> np.ndarray:
        points = examples.encode(tokenizer, seq_len=seq_len)
        logits = logits_fn(params, points.x.reshape(-1, seq_len))
        return arranged(logits, task, labels=checkpoint.labels)

    return outputs


def told(predicted: np.ndarray, outputs: np.ndarray, task: Task) -> list[dict]:
    """Predictions as records."""
    if task.head == "regression":
        return [{"score": float(value)} for value in predicted]
    chances = probabilities(outputs.reshape(len(predicted), -1))
    return [
        {"label": task.labels[label], "probability": float(chances[k, label])}
        for k, label in enumerate(predicted)
    ]


def score_masked_lm(checkpoint: Checkpoint, config: Config, out: Path) -> dict[str, float]:
    """Loss, error and perplexity on the held-out part of the text."""
    corpus = prepare_corpus(
        config.data, out / "data", column=config.columns[0], tokenizer=config.model
    )
    score = mlm_scores(checkpoint.model, corpus.heldout, rows=config.rows, seq_len=config.seq_len)
    return score(checkpoint.params).plain()

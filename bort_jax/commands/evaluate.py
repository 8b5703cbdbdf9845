# SPDX-License-Identifier: Apache-2.0
"""A classifier: accuracy and a predictions file. A masked LM: loss, perplexity and error."""

import json
from dataclasses import dataclass
from pathlib import Path

from bort_jax.commands.finetune import check_length
from bort_jax.data.prepared import prepare_corpus
from bort_jax.data.tasks import Task, read_examples
from bort_jax.interop import Checkpoint, load
from bort_jax.report.terminal import show_box
from bort_jax.train.predict import class_logits, mlm_scores, probabilities
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
      seq_len: tokens in a row.
      rows: masked LM: how many held-out rows to score at the most.
    """

    model: str
    data: str
    out: str = "runs/evaluate"
    columns: tuple[str, ...] = ("text",)
    label: str = "label"
    seq_len: int = 128
    rows: int = 512


def run(config: Config) -> dict:
    checkpoint = load(config.model)
    check_length(config.seq_len, checkpoint)
    if checkpoint.headless:
        raise ValueError(f"{config.model} has no head, nothing to score: fine-tune it first")
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    score = score_classifier if checkpoint.labels else score_masked_lm
    scores = score(checkpoint, config, out)
    write_json(out / "scores.json", scores)
    show_box("evaluation", [f"{name}: {value:.4f}" for name, value in scores.items()] + [str(out)])
    return scores


def score_classifier(checkpoint: Checkpoint, config: Config, out: Path) -> dict[str, float]:
    """Accuracy; one line a row in `predictions.jsonl`: index, label name, its probability."""
    task = Task(tuple(config.columns), config.label, checkpoint.labels)
    examples = read_examples(config.data, task)
    points = examples.encode(checkpoint.required_tokenizer, seq_len=config.seq_len)
    logits_fn = class_logits(checkpoint.model, pad=checkpoint.required_tokenizer.special.pad)
    chances = probabilities(logits_fn(checkpoint.params, points.x))
    best = chances.argmax(axis=-1)
    with (out / "predictions.jsonl").open("w") as lines:
        for index, (k, row) in enumerate(zip(best, chances, strict=True)):
            record = {"idx": index, "label": checkpoint.labels[k], "probability": float(row[k])}
            lines.write(json.dumps(record) + "\n")
    return {"accuracy": float((best == points.y).mean())}


def score_masked_lm(checkpoint: Checkpoint, config: Config, out: Path) -> dict[str, float]:
    """Loss, error and perplexity on the held-out part of the text."""
    corpus = prepare_corpus(
        config.data, out / "data", column=config.columns[0], tokenizer=config.model
    )
    score = mlm_scores(checkpoint.model, corpus.heldout, rows=config.rows, seq_len=config.seq_len)
    return score(checkpoint.params)._asdict()

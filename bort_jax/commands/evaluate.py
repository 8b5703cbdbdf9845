# SPDX-License-Identifier: Apache-2.0
"""A classifier: accuracy and a predictions file. A masked LM: loss, perplexity and error."""

import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from bort_jax.data.prepared import prepare_corpus
from bort_jax.interop import Checkpoint, read
from bort_jax.report.terminal import show_box
from bort_jax.stages.predict.forward import for_device
from bort_jax.stages.predict.mlm_scores import mlm_scores
from bort_jax.stages.predict.outputs import check_length, outputs_of, own_data, told
from bort_jax.storage.run_folder import write_json
from bort_jax.tasks import (
    decide,
    find_task,
    read_examples,
    score,
)


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


def score_masked_lm(checkpoint: Checkpoint, config: Config, out: Path) -> dict[str, float]:
    """Loss, error and perplexity on the held-out part of the text."""
    # Built anew each time: a corpus that is kept would answer for the text of another call.
    with TemporaryDirectory(dir=out) as folder:
        corpus = prepare_corpus(
            config.data, folder, column=config.columns[0], tokenizer=config.model
        )
        score = mlm_scores(
            checkpoint.model, corpus.heldout, rows=config.rows, seq_len=config.seq_len
        )
        return score(checkpoint.params).plain()

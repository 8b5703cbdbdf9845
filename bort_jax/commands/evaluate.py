# SPDX-License-Identifier: Apache-2.0
"""A classifier: its task's metrics and a file of predictions. A masked LM: loss, perplexity and
error on held-out text."""

import json
from dataclasses import dataclass
from pathlib import Path

from bort_jax.interop import Checkpoint, read
from bort_jax.report.terminal import show_box
from bort_jax.stages.predict.forward import for_device
from bort_jax.stages.predict.outputs import check_length, task_of_checkpoint
from bort_jax.stages.predict.score import score_classifier, score_masked_lm
from bort_jax.storage.files import write_json, write_text
from bort_jax.tasks import find_task, read_examples


@dataclass(frozen=True)
class Config:
    """A checkpoint and the rows or the text to score it on.

    Attributes:
      model: checkpoint folder.
      data: a file of labelled rows for a classifier; any text for a masked LM.
      out: folder for `scores.json` and `predictions.jsonl`.
      columns: one text column, or two of a pair.
      label: label column.
      task: a test set whose rows the file holds, such as glue/rte: its columns, labels and metrics;
        a file without labels then gives predictions and no scores.
      seq_len: tokens in a row.
      rows: masked LM: held-out rows to score at the most.
    """

    model: str
    data: str
    out: str = "runs/evaluate"
    columns: tuple[str, ...] = ("text",)
    label: str = "label"
    task: str = ""
    seq_len: int = 128
    rows: int = 512


def run(config: Config) -> dict[str, float]:
    checkpoint = read(config.model)
    check_length(config.seq_len, checkpoint)
    if checkpoint.headless:
        raise ValueError(f"{config.model} has no head, nothing to score: fine-tune it first")
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    if checkpoint.labels:
        scores = evaluate_classifier(for_device(checkpoint), config, out)
    else:
        scores = score_masked_lm(
            for_device(checkpoint),
            config.data,
            column=config.columns[0],
            tokenizer=config.model,
            rows=config.rows,
            seq_len=config.seq_len,
            scratch=out,
        )
    write_json(out / "scores.json", scores)
    show_box("evaluation", [f"{name}: {value:.4f}" for name, value in scores.items()] + [str(out)])
    return scores


def evaluate_classifier(checkpoint: Checkpoint, config: Config, out: Path) -> dict[str, float]:
    """Scores it, and writes its predictions, a line an example."""
    own = not config.task
    task = (
        task_of_checkpoint(checkpoint, config.columns, config.label)
        if own
        else find_task(config.task)
    )
    examples = read_examples(config.data, task, required=own)
    scores, records = score_classifier(checkpoint, task, examples, seq_len=config.seq_len)
    lines = (json.dumps({"idx": k, **record}) + "\n" for k, record in enumerate(records))
    write_text(out / "predictions.jsonl", "".join(lines))
    return scores

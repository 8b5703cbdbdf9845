# SPDX-License-Identifier: Apache-2.0
"""Scores a checkpoint: a classifier by its task's metrics, a masked LM by its losses."""

from pathlib import Path
from tempfile import TemporaryDirectory

from bort_jax.data.prepared import prepare_corpus
from bort_jax.interop import Checkpoint
from bort_jax.stages.predict.mlm_scores import mlm_scores
from bort_jax.stages.predict.outputs import outputs_fn, prediction_records
from bort_jax.tasks import Examples, Task, decide, score


def score_classifier(
    checkpoint: Checkpoint, task: Task, examples: Examples, *, seq_len: int
) -> tuple[dict[str, float], list[dict]]:
    """The task's metrics, none without labels, and a prediction for each example: its label's name
    with the probability, or the score."""
    outputs = outputs_fn(checkpoint, task, seq_len=seq_len)(examples)
    predicted = decide(outputs, task, examples=examples)
    scores = score(predicted, task, examples=examples) if examples.has_labels else {}
    return scores, prediction_records(predicted, outputs, task)


def score_masked_lm(
    checkpoint: Checkpoint,
    text: str,
    *,
    column: str,
    tokenizer: str,
    rows: int,
    seq_len: int,
    scratch: Path,
) -> dict[str, float]:
    """Loss, error and perplexity on the held-out part of a text, or of a built corpus.

    Args:
      tokenizer: the checkpoint's folder.
      rows: to score at the most.
      scratch: folder for the text's tokens. They are made anew in each call: a corpus that is kept
        would answer for the text of another call.
    """
    with TemporaryDirectory(dir=scratch) as folder:
        corpus = prepare_corpus(text, folder, column=column, tokenizer=tokenizer)
        score_fn = mlm_scores(checkpoint.model, corpus.heldout, rows=rows, seq_len=seq_len)
        return score_fn(checkpoint.params).as_dict()

# SPDX-License-Identifier: Apache-2.0
"""What e is: four measures of a masked LM on the same masked positions of held-out text."""

from typing import Literal, get_args

import numpy as np

from bort_jax.data.prepared import Corpus
from bort_jax.engine.parallel import parallel_map
from bort_jax.interop import Checkpoint
from bort_jax.model import MaskedLM, forward
from bort_jax.stages.predict.forward import in_batches

Measure = Literal["error", "perplexity", "distillation", "excess"]
SMALLEST = 1e-6  # W divides by e: a measure of exactly 0 is raised to this


def check_measure(measure: Measure, *, vocab_size: int, seq_len: int, teacher) -> None:
    """Raises ValueError for an unknown measure, or a teacher that is missing or does not fit."""
    if measure not in get_args(Measure):
        choices = ", ".join(get_args(Measure))
        raise ValueError(f"measure must be one of {choices}; got {measure!r}")
    if (measure == "distillation") != (teacher is not None):
        raise ValueError("a teacher belongs to the measure distillation, and to no other")
    if teacher is None:
        return
    if teacher.head != "masked_lm":
        raise ValueError("a teacher must be a masked LM; this checkpoint is none")
    if teacher.config.vocab_size != vocab_size or teacher.config.positions < seq_len:
        raise ValueError(
            f"the teacher has {teacher.config.vocab_size} tokens and {teacher.config.positions} "
            f"positions; the text has {vocab_size} tokens, in rows of {seq_len}"
        )


def measured(measure: Measure, sums: dict[str, float], *, unigram: float = 0.0) -> float:
    """The measure from sums over masked positions, at least SMALLEST; NaN if the loss is none.

    The measures (all *our reading* of an error rate for pretraining):
      error: share of the masked positions whose largest logit is another token.
      perplexity: exp of the mean cross-entropy; it may exceed 1.
      distillation: mean KL(teacher ‖ model) in nats.
      excess: perplexity as a share of a unigram model's (counts of the training text, plus
        one), exp(loss − unigram loss): 1 for a model that knows nothing but frequencies.
    """
    loss = sums["mlm"] / sums["count"]
    if not np.isfinite(loss):
        return float("nan")
    values = {
        "error": lambda: 1 - sums["correct"] / sums["count"],
        "perplexity": lambda: float(np.exp(loss)),
        "distillation": lambda: sums["divergence"] / sums["count"],
        "excess": lambda: float(np.exp(loss - unigram)),
    }
    return max(values[measure](), SMALLEST)


def teacher_logits(teacher: Checkpoint, batch: dict) -> np.ndarray:
    """The teacher's logits at the masked positions, [b, m, v], computed once."""
    model = MaskedLM(teacher.config)

    def run_share(params, part):
        return forward(model, params, part["ids"], part["mask"], part["positions"])

    return in_batches(parallel_map(run_share), min(32, len(batch["ids"])))(teacher.params, batch)


def unigram_loss(corpus: Corpus, batch: dict) -> float:
    """Mean cross-entropy, in nats, of token frequencies at the masked positions of a batch."""
    counts = corpus.train.frequencies() + 1
    log_p = np.log(counts / counts.sum())
    there = batch["weights"] > 0
    return float(-log_p[batch["labels"][there]].mean())

# SPDX-License-Identifier: Apache-2.0
"""The training and the measure of candidates, and the batches of text that follow from them."""

from dataclasses import dataclass

import numpy as np

from bort_jax.data.masking import masked_batch
from bort_jax.data.prepared import Corpus
from bort_jax.engine.optimizer import Hyper
from bort_jax.engine.parallel import parallel_map
from bort_jax.interop import Checkpoint
from bort_jax.model import MaskedLM, forward
from bort_jax.stages.extract.measure import Measure, check_measure
from bort_jax.stages.predict.forward import in_batches


@dataclass(frozen=True)
class Recipe:
    """The training of every candidate, and what is measured of it.

    Attributes:
      steps: s, training steps of each candidate, AdamW, gradients clipped to norm 1.
      batch_size: rows in a step.
      seq_len: tokens in a row.
      learning_rates: Θ, peak rates; each candidate is trained with each, its least e is kept.
      measure: what e is, see measure.py.
      teacher: what the measure `distillation` compares with; for no other measure.
      clip_weights: c: after each step every weight is brought into [−c, c], which keeps the
        weights in a compact set (the strong AB^nC condition); None: no limit.
      eval_rows: held-out rows, at the most.
      seed: of weights, order and masks.

    Raises:
      ValueError: an unknown measure, a teacher too many or too few, c ≤ 0, or an empty Θ.
    """

    steps: int
    batch_size: int
    seq_len: int
    learning_rates: tuple[float, ...]
    measure: Measure = "error"
    teacher: Checkpoint | None = None
    clip_weights: float | None = None
    eval_rows: int = 256
    seed: int = 0

    def __post_init__(self):
        check_measure(self.measure, has_teacher=self.teacher is not None)
        if not self.learning_rates:
            raise ValueError("learning_rates is empty: each candidate needs at least one")
        if self.clip_weights is not None and not self.clip_weights > 0:
            raise ValueError(f"clip_weights must be positive; got {self.clip_weights}")

    def hyper(self, rate: float) -> Hyper:
        return Hyper.of(
            learning_rate=rate, weight_decay=0.01, warmup_ratio=0.1, total_steps=self.steps
        )


def check_teacher(recipe: Recipe, corpus: Corpus) -> None:
    """Raises ValueError for a teacher that cannot read the corpus."""
    teacher, vocab_size = recipe.teacher, corpus.tokenizer.vocab_size
    if teacher is None:
        return
    if teacher.head != "masked_lm":
        raise ValueError("a teacher must be a masked LM; this checkpoint is none")
    if teacher.config.vocab_size != vocab_size or teacher.config.positions < recipe.seq_len:
        raise ValueError(
            f"the teacher has {teacher.config.vocab_size} tokens and {teacher.config.positions} "
            f"positions; the text has {vocab_size} tokens, in rows of {recipe.seq_len}"
        )


def training_batch(corpus: Corpus, recipe: Recipe, step: int) -> dict:
    """The batch of a step, the same for every candidate."""
    return masked_batch(
        corpus.train,
        step,
        seed=recipe.seed,
        batch_size=recipe.batch_size,
        seq_len=recipe.seq_len,
    )


def heldout_batch(corpus: Corpus, recipe: Recipe) -> dict:
    """The held-out batch that every candidate is measured on."""
    rows = min(recipe.eval_rows, corpus.heldout.rows(recipe.seq_len))
    return masked_batch(
        corpus.heldout, 0, seed=recipe.seed, batch_size=rows, seq_len=recipe.seq_len
    )


def unigram_loss(corpus: Corpus, batch: dict) -> float:
    """Mean cross-entropy, in nats, of token frequencies at the masked positions of a batch."""
    counts = corpus.train.frequencies() + 1
    log_p = np.log(counts / counts.sum())
    there = batch["weights"] > 0
    return float(-log_p[batch["labels"][there]].mean())


def teacher_logits(teacher: Checkpoint, batch: dict) -> np.ndarray:
    """The teacher's logits at the masked positions, [b, m, v], computed once."""
    model = MaskedLM(teacher.config)

    def run_share(params, part):
        return forward(model, params, part["ids"], part["mask"], part["positions"])

    return in_batches(parallel_map(run_share), min(32, len(batch["ids"])))(teacher.params, batch)

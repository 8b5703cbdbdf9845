# SPDX-License-Identifier: Apache-2.0
"""e(ξ) by training: s steps on the user's text with every rate of Θ, the best kept."""

from collections.abc import Sequence
from typing import Any

from bort_jax.arch import Arch
from bort_jax.data.prepared import Corpus
from bort_jax.engine.parallel import on_devices
from bort_jax.interop import Checkpoint
from bort_jax.model import BertConfig, MaskedLM, drawn_params, forward
from bort_jax.stages.extract.candidate import Recipe, candidate_errors
from bort_jax.stages.extract.measure import Measure
from bort_jax.stages.extract.shared_errors import ErrorFn


def trained_error(
    corpus: Corpus,
    *,
    steps: int,
    batch_size: int,
    seq_len: int,
    learning_rates: tuple[float, ...],
    measure: Measure = "error",
    teacher: Checkpoint | None = None,
    clip_weights: float | None = None,
    eval_rows: int = 256,
    seed: int = 0,
) -> ErrorFn:
    """Builds `error_fn(archs)`: the measure on held-out text after s steps, > 0 (arXiv 2010.08512).

    All candidates see the same batches in the same order, and one compilation serves all of Θ.
    NaN where no rate of Θ ends with a finite loss. Each candidate lives on one device; those of
    one call are compiled and trained side by side.

    Args:
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
      ValueError: an unknown measure, a teacher that does not fit, c ≤ 0, or an empty Θ.
    """
    recipe = Recipe(
        corpus=corpus,
        steps=steps,
        batch_size=batch_size,
        seq_len=seq_len,
        learning_rates=learning_rates,
        measure=measure,
        teacher=teacher,
        clip_weights=clip_weights,
        eval_rows=eval_rows,
        seed=seed,
    )

    def one(arch: Arch, device: Any) -> float:
        # Without dropout: so few steps do not overfit, and half the noise is gone.
        config = BertConfig(arch, corpus.tokenizer.vocab_size, positions=seq_len, dropout=0.0)
        model = MaskedLM(config)
        logits = lambda params, _, batch: forward(
            model, params, batch["ids"], batch["mask"], batch["positions"]
        )
        errors = candidate_errors(logits, recipe, devices=[device])
        return errors(drawn_params(model, seed=seed), [()], f"error of {arch}")[0]

    def error_fn(archs: Sequence[Arch]) -> list[float]:
        return on_devices(one, archs)

    return error_fn

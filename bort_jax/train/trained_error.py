# SPDX-License-Identifier: Apache-2.0
"""e(ξ) by training: s steps on the user's text with every rate of Θ, the best kept."""

from collections.abc import Sequence

import jax
import numpy as np
from tqdm import tqdm

from bort_jax.arch import Arch
from bort_jax.data.masking import masked_batch
from bort_jax.data.prepared import Corpus
from bort_jax.interop import Checkpoint
from bort_jax.model import BertConfig, MaskedLM, init_params
from bort_jax.train.loop import fit
from bort_jax.train.measure import Measure, check_measure, scorer
from bort_jax.train.optimizer import Hyper
from bort_jax.train.parallel import new_state, parallel_step
from bort_jax.train.pretrain import model_logits, plain_loss
from bort_jax.train.shared_errors import ErrorFn


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
    NaN where no rate of Θ ends with a finite loss.

    Args:
      clip_weights: c: after each step every weight is brought into [−c, c], which keeps the
        weights in a compact set (the strong AB^nC condition); None: no limit.

    Raises:
      ValueError: an unknown measure, a teacher that does not fit, c ≤ 0, or an empty Θ.
    """
    check_measure(measure, vocab_size=corpus.tokenizer.vocab_size, seq_len=seq_len, teacher=teacher)
    check_training(learning_rates, clip_weights)

    def one(arch: Arch) -> float:
        # Without dropout: so few steps do not overfit, and half the noise is gone.
        config = BertConfig(arch, corpus.tokenizer.vocab_size, positions=seq_len, dropout=0.0)
        model = MaskedLM(config)
        step = parallel_step(
            plain_loss(model), optimizer="adamw", clip=1.0, clip_weights=clip_weights
        )
        score = scorer(
            lambda params, batch: model_logits(model, params, batch, None),
            corpus,
            measure=measure,
            teacher=teacher,
            rows=eval_rows,
            seq_len=seq_len,
            seed=seed,
        )
        key, params = jax.random.key(seed), init_params(model, seed=seed)

        def with_rate(rate: float) -> float:
            state = new_state(params, hyper_of(rate, steps), optimizer="adamw", clip=1.0)
            batches = (
                masked_batch(corpus.train, i, seed=seed, batch_size=batch_size, seq_len=seq_len)
                for i in tqdm(
                    range(steps), desc=f"error of {arch}", unit="step", leave=False, disable=None
                )
            )
            return score(fit(state, batches, step_fn=lambda s, b: step(s, (), b, key)).params)

        return least([with_rate(rate) for rate in learning_rates])

    return lambda archs: [one(arch) for arch in archs]


def hyper_of(rate: float, steps: int) -> Hyper:
    return Hyper.of(learning_rate=rate, weight_decay=0.01, warmup_ratio=0.1, total_steps=steps)


def least(errors: Sequence[float]) -> float:
    """The smallest number; NaN if there is none."""
    finite = [error for error in errors if np.isfinite(error)]
    return min(finite, default=float("nan"))


def check_training(learning_rates: tuple[float, ...], clip_weights: float | None) -> None:
    """Raises ValueError for an empty Θ or a limit on weights that is not positive."""
    if not learning_rates:
        raise ValueError("learning_rates is empty: each candidate needs at least one")
    if clip_weights is not None and not clip_weights > 0:
        raise ValueError(f"clip_weights must be positive; got {clip_weights}")

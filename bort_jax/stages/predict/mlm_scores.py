# SPDX-License-Identifier: Apache-2.0
"""A masked LM on held-out text: against the tokens, and against a teacher."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bort_jax.data.masking import masked_batch
from bort_jax.data.shards import Shard
from bort_jax.engine.parallel import parallel_map, replicate
from bort_jax.interop import Checkpoint
from bort_jax.model import MaskedLM, distillation, forward, masked_lm
from bort_jax.stages.predict.forward import in_batches

AT_ONCE = 32  # rows


class MlmScores(NamedTuple):
    """Averages over masked positions of held-out text.

    Attributes:
      loss: nats.
      error: share of positions whose largest logit is another token.
      perplexity: exp of the loss.
      agreement: share of positions where the teacher's most likely token is the model's too.
      divergence: KL(teacher ‖ model) in nats.
    """

    loss: float
    error: float
    perplexity: float
    agreement: float | None = None
    divergence: float | None = None

    @property
    def accuracy(self) -> float:
        return 1 - self.error

    def as_dict(self) -> dict[str, float]:
        """By name, without what was not measured."""
        return {name: value for name, value in self._asdict().items() if value is not None}


def mlm_scores(
    model: MaskedLM,
    shard: Shard,
    *,
    rows: int,
    seq_len: int,
    seed: int = 0,
    teacher: Checkpoint | None = None,
    between: Callable[[], object] = lambda: None,
) -> Callable[[Any], MlmScores]:
    """Builds `params -> MlmScores` on the same masked rows at every call.

    Args:
      rows: how many rows to score at the most; a shard with fewer is scored whole.
      teacher: a masked LM of the same vocabulary, run in the model's arithmetic.
      between: called after every batch; what it raises ends the scoring.
    """
    rows = min(rows, shard.rows(seq_len))
    batch = masked_batch(shard, 0, seed=seed, batch_size=rows, seq_len=seq_len)
    beside = MaskedLM(replace(teacher.config, dtype=model.config.dtype)) if teacher else None
    run = in_batches(parallel_map(row_sums(model, beside)), min(AT_ONCE, rows), between=between)

    def score(params) -> MlmScores:
        # On the devices only while it is needed: a teacher can be as large as all the rest.
        frozen = replicate(teacher.params) if teacher else ()
        sums = {name: float(found.sum()) for name, found in run((params, frozen), batch).items()}
        return averages(sums)

    return score


def row_sums(model: MaskedLM, teacher: MaskedLM | None) -> Callable:
    """`((params, teacher's params), batch) -> sums of each row`, each [b]."""

    def sums(params, batch):
        inputs = (batch["ids"], batch["mask"], batch["positions"])
        logits = forward(model, params[0], *inputs)
        targets = forward(teacher, params[1], *inputs) if teacher else None
        return jax.vmap(one_row)(logits, batch["labels"], batch["weights"], targets)

    return sums


def one_row(logits, labels, weights, targets) -> dict[str, jax.Array]:
    """Sums of one row's masked positions; `targets` are the teacher's logits, or None."""
    sums = masked_lm(logits[None], labels[None], weights[None])
    if targets is None:
        return sums
    divergence = distillation(logits, targets, weights, temperature=1.0)
    agreed = jnp.sum((logits.argmax(-1) == targets.argmax(-1)) * weights)
    return sums | {"divergence": divergence, "agreed": agreed}


def averages(sums: dict[str, float]) -> MlmScores:
    mean = {name: value / sums["count"] for name, value in sums.items()}
    return MlmScores(
        loss=mean["mlm"],
        error=1 - mean["correct"],
        perplexity=float(np.exp(mean["mlm"])),
        agreement=mean.get("agreed"),
        divergence=mean.get("divergence"),
    )

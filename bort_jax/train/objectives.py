# SPDX-License-Identifier: Apache-2.0
"""What pretraining minimises: masked LM, alone or with distillation from a teacher."""

from collections.abc import Callable

import jax

from bort_jax.interop import Checkpoint
from bort_jax.model import MaskedLM, distillation, forward, masked_lm
from bort_jax.train.parallel import BoundStep, parallel_step
from bort_jax.train.pretrain_config import PretrainConfig


def step_function(
    model: MaskedLM,
    config: PretrainConfig,
    teacher: Checkpoint | None,
    *,
    clock: Callable[[], float] | None = None,
) -> BoundStep:
    """`(state, batch) -> (state, metrics)`, with the teacher and the key already inside."""
    if teacher is None:
        loss, frozen = plain_loss(model), ()
    else:
        _check_teacher(teacher, model, config)
        frozen = teacher.params
        loss = distilled_loss(
            model,
            MaskedLM(teacher.config),
            mlm_weight=config.mlm_weight,
            distill_weight=config.distill_weight,
            temperature=config.temperature,
        )
    step = parallel_step(
        loss,
        optimizer=config.optimizer,
        clip=config.clip,
        accumulate=config.accumulate,
        clock=clock,
    )
    return step.bound(frozen, jax.random.key(config.seed))


def plain_loss(model: MaskedLM) -> Callable:
    """Masked LM alone: `(params, frozen, batch, key) -> sums`."""

    def loss_fn(params, frozen, batch, key):
        del frozen
        sums = masked_lm(model_logits(model, params, batch, key), batch["labels"], batch["weights"])
        return _renamed(sums, loss=sums["mlm"])

    return loss_fn


def distilled_loss(
    student: MaskedLM,
    teacher: MaskedLM,
    *,
    mlm_weight: float,
    distill_weight: float,
    temperature: float,
) -> Callable:
    """Published loss: 0.1 · MLM + 0.5 · T² · KL(teacher ‖ student), `frozen` the teacher's params.

    Source: bort companion code, pretraining script.
    """

    def loss_fn(params, frozen, batch, key):
        logits = model_logits(student, params, batch, key)
        targets = model_logits(teacher, frozen, batch, None)
        sums = masked_lm(logits, batch["labels"], batch["weights"])
        divergence = distillation(logits, targets, batch["weights"], temperature=temperature)
        loss = mlm_weight * sums["mlm"] + distill_weight * divergence
        return _renamed(sums, loss=loss) | {"distillation": divergence}

    return loss_fn


def model_logits(model: MaskedLM, params, batch, key):
    """Logits [b, m, v] at the masked positions; with a key dropout is on."""
    inputs = (batch["ids"], batch["mask"], batch["positions"])
    return forward(model, params, *inputs, key=key)


def _renamed(sums: dict, *, loss) -> dict:
    return {"loss": loss, "mlm": sums["mlm"], "accuracy": sums["correct"], "count": sums["count"]}


def _check_teacher(teacher: Checkpoint, model: MaskedLM, config: PretrainConfig) -> None:
    if teacher.head != "masked_lm":
        raise ValueError(f"{config.teacher} has no masked-LM head; a teacher must have one")
    if teacher.config.vocab_size != model.config.vocab_size:
        raise ValueError(
            f"the teacher has {teacher.config.vocab_size} tokens, the student "
            f"{model.config.vocab_size}: their distributions cannot be compared"
        )
    if teacher.config.positions < config.seq_len:
        raise ValueError(
            f"the teacher reads {teacher.config.positions} tokens, the rows have {config.seq_len}"
        )

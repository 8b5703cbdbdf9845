# SPDX-License-Identifier: Apache-2.0
"""What pretraining minimises: masked LM, alone or beside what a teacher knows."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from bort_jax.data.masking import MaskedStream
from bort_jax.data.prepared import Corpus
from bort_jax.engine.parallel import BoundStep, parallel_step
from bort_jax.interop import Checkpoint
from bort_jax.model import (
    MaskedLM,
    TopK,
    distillation,
    hidden_states,
    masked_lm,
    states_and_logits,
    top_k_distillation,
)
from bort_jax.stages.pretrain.config import PretrainConfig
from bort_jax.stages.pretrain.teacher import Teacher, check_predicts, check_reads, fingerprint
from bort_jax.stages.pretrain.teacher_cache import CachedTeacherStream, open_cache

Stream = MaskedStream | CachedTeacherStream
MAP = "hidden_map"  # beside the student's own parameters


class Seen(NamedTuple):
    """What a loss can be made of.

    Attributes:
      params: the student's, and the map's.
      batch: rows, masked positions, labels, and a teacher's distributions where these are cached.
      states: the student's last hidden states, [b, s, h].
      logits: the student's, [b, m, v].
      teacher_states: the teacher's, or None.
      teacher_logits: the teacher's, or None.
    """

    params: Any
    batch: dict
    states: Any
    logits: Any
    teacher_states: Any
    teacher_logits: Any


class Term(NamedTuple):
    """A loss and its weight: `of(seen)` is a sum over masked positions."""

    weight: float
    of: Callable[[Seen], jax.Array]


def step_function(
    model: MaskedLM,
    config: PretrainConfig,
    teacher: Checkpoint | None,
    *,
    clock: Callable[[], float] | None = None,
) -> BoundStep:
    """`(state, batch) -> (state, metrics)`, with the teacher and the key already inside."""
    loss, frozen = objective(model, config, teacher)
    step = parallel_step(
        loss,
        optimizer=config.optimizer,
        clip=config.clip,
        accumulate=config.accumulate,
        clock=clock,
    )
    return step.bound(frozen, jax.random.key(config.seed))


def objective(
    model: MaskedLM, config: PretrainConfig, teacher: Checkpoint | None
) -> tuple[Callable, Any]:
    """The loss `(params, frozen, batch, key) -> sums`, and `frozen`: a teacher that it runs.

    Published: 0.1 · MLM + 0.5 · T² · KL(teacher ‖ student), T = 2 (bort companion code,
    pretraining script). Without a teacher and a cache it is the masked LM alone.
    """
    terms = teacher_terms(config, teacher)
    if not terms:
        return plain_loss(model), ()
    # A cached teacher runs only for its hidden states.
    runs = config.hidden_weight or not config.teacher_cache
    run = Teacher.of(teacher) if teacher and runs else None
    loss = weighted_loss(model, run, mlm_weight=config.mlm_weight, terms=terms)
    return loss, run.params if run else ()


def teacher_terms(config: PretrainConfig, teacher: Checkpoint | None) -> dict[str, Term]:
    """The losses that need a teacher or its cache."""
    terms = {}
    if config.distill_weight and (teacher or config.teacher_cache):
        of = cached_distillation if config.teacher_cache else live_distillation
        terms["distillation"] = Term(
            config.distill_weight, partial(of, temperature=config.temperature)
        )
    if config.hidden_weight:
        terms["hidden"] = Term(config.hidden_weight, hidden_state_loss)
    return terms


def plain_loss(model: MaskedLM) -> Callable:
    """Masked LM alone: `(params, frozen, batch, key) -> sums`."""
    return weighted_loss(model, None, mlm_weight=1.0, terms={})


def weighted_loss(
    student: MaskedLM, teacher: Teacher | None, *, mlm_weight: float, terms: dict[str, Term]
) -> Callable:
    """`(params, frozen, batch, key) -> sums`: of the masked LM, of each term, and of all weighted.

    `frozen` are the teacher's parameters; it runs once a batch, without gradient.
    """

    def loss_fn(params, frozen, batch, key):
        inputs = (batch["ids"], batch["mask"], batch["positions"])
        outputs = states_and_logits(student, params, *inputs, key=key)
        theirs = teacher.run(frozen, batch) if teacher else (None, None)
        seen = Seen(params, batch, *outputs, *jax.lax.stop_gradient(theirs))
        sums = masked_lm(seen.logits, batch["labels"], batch["weights"])
        parts = {name: term.of(seen) for name, term in terms.items()}
        weighted = [terms[name].weight * part for name, part in parts.items()]
        loss = sum(weighted, start=mlm_weight * sums["mlm"])
        return {
            "loss": loss,
            "mlm": sums["mlm"],
            "accuracy": sums["correct"],
            "count": sums["count"],
            **parts,
        }

    return loss_fn


def live_distillation(seen: Seen, *, temperature: float) -> jax.Array:
    """Distillation from a teacher that has read the same batch."""
    weights = seen.batch["weights"]
    return distillation(seen.logits, seen.teacher_logits, weights, temperature=temperature)


def cached_distillation(seen: Seen, *, temperature: float) -> jax.Array:
    """Distillation from the cached distributions that come with the batch."""
    batch = seen.batch
    kept = TopK(batch["top_ids"].astype("int32"), batch["top_log_p"], batch["log_tail"])
    return top_k_distillation(seen.logits, kept, batch["weights"], temperature=temperature)


def hidden_state_loss(seen: Seen) -> jax.Array:
    """Error of the hidden states, mapped linearly to the teacher's where they are of other size."""
    states = seen.states
    if MAP in seen.params:
        states = states.astype("float32") @ seen.params[MAP]["kernel"]
    mask, weights = seen.batch["mask"], seen.batch["weights"]
    return hidden_states(states, seen.teacher_states, mask, weights)


def with_map(params, config: PretrainConfig, teacher: Checkpoint | None):
    """The student's parameters, and the map from its hidden states to the teacher's if one is
    needed: normal, σ = 1 / √h."""
    if not config.hidden_weight or teacher is None:
        return params
    theirs, own = teacher.config.arch.hidden, params["encoder"]["embeddings"]["norm"]["scale"].size
    if theirs == own:
        return params
    drawn = np.random.default_rng(config.seed).normal(0, own**-0.5, (own, theirs))
    return params | {MAP: {"kernel": drawn.astype(np.float32)}}


def without_map(params):
    """What of the parameters is the model."""
    return {name: values for name, values in params.items() if name != MAP}


def stream_of(corpus: Corpus, config: PretrainConfig, teacher: Checkpoint | None) -> Stream:
    """The batches of a run, with a cached teacher's distributions where there is one.

    Raises:
      FileNotFoundError, ValueError: a teacher or a cache that does not fit, or a cache with fewer
        batches than the run has steps.
    """
    stream = corpus.stream(
        seed=config.seed,
        batch_size=config.batch_size,
        seq_len=config.seq_len,
        packing=config.packing,
        buckets=config.buckets,
        whole_word=config.whole_word,
    )
    if teacher:
        check_reads(teacher, corpus.tokenizer, seq_len=config.seq_len)
    if not config.teacher_cache:
        if teacher and config.distill_weight:
            check_predicts(teacher, corpus.tokenizer.vocab_size)
        return stream
    cached = open_cache(config.teacher_cache, corpus, stream, temperature=config.temperature)
    if teacher and fingerprint(teacher) != cached.cache.made_from["teacher_sha256"]:
        raise ValueError(f"{config.teacher} is not the teacher of {config.teacher_cache}")
    if config.hours is None:
        cached.check_steps(config.steps)
    return cached

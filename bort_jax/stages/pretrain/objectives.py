# SPDX-License-Identifier: Apache-2.0
"""The losses of pretraining: masked LM, alone or beside distillation and hidden states."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from bort_jax.data.masking import MaskedStream
from bort_jax.data.prepared import Corpus
from bort_jax.interop import Checkpoint
from bort_jax.interop.description import fingerprint
from bort_jax.model import (
    MaskedLM,
    TopK,
    distillation,
    hidden_states,
    masked_lm,
    states_and_logits,
    top_k_distillation,
)
from bort_jax.stages.pretrain.recipe import LossWeights
from bort_jax.stages.pretrain.teacher import Teacher, check_predicts, check_reads
from bort_jax.stages.pretrain.teacher_cache import CachedTeacherStream, open_cache

Stream = MaskedStream | CachedTeacherStream
MAP = "hidden_map"  # beside the student's own parameters


class LossInputs(NamedTuple):
    """Everything that a loss can be made of.

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
    """A loss and its weight: `of(inputs)` is a sum over masked positions."""

    weight: float
    of: Callable[[LossInputs], jax.Array]


def objective(
    model: MaskedLM, weights: LossWeights, teacher: Checkpoint | None, *, cached: bool = False
) -> tuple[Callable, Any]:
    """The loss `(params, frozen, batch, key) -> sums`, and `frozen`: a teacher that it runs.

    Published: 0.1 · MLM + 0.5 · T² · KL(teacher ‖ student), T = 2 (bort companion code,
    pretraining script). Without a teacher and a cache it is the masked LM alone.

    Args:
      cached: whether the teacher's distributions come with the batches.
    """
    terms = teacher_terms(weights, live=teacher is not None, cached=cached)
    if not terms:
        return masked_lm_loss(model), ()
    # A cached teacher runs only for its hidden states.
    runs = weights.hidden or not cached
    run = Teacher.of(teacher) if teacher and runs else None
    loss = weighted_loss(model, run, mlm_weight=weights.mlm, terms=terms)
    return loss, run.params if run else ()


def teacher_terms(weights: LossWeights, *, live: bool, cached: bool) -> dict[str, Term]:
    """The losses that need a teacher or its cache."""
    terms = {}
    if weights.distillation and (live or cached):
        loss = cached_distillation if cached else live_distillation
        of = partial(loss, temperature=weights.temperature)
        terms["distillation"] = Term(weights.distillation, of)
    if weights.hidden:
        terms["hidden"] = Term(weights.hidden, hidden_state_loss)
    return terms


def masked_lm_loss(model: MaskedLM) -> Callable:
    """Masked LM alone: `(params, frozen, batch, key) -> sums`."""
    return weighted_loss(model, None, mlm_weight=1.0, terms={})


def weighted_loss(
    student: MaskedLM, teacher: Teacher | None, *, mlm_weight: float, terms: dict[str, Term]
) -> Callable:
    """`(params, frozen, batch, key) -> sums`: of the masked LM, of each term, and of all weighted.

    `frozen` are the teacher's parameters; it runs once a batch, without gradient.
    """

    def loss_fn(params, frozen, batch, key):
        rows = (batch["ids"], batch["mask"], batch["positions"])
        outputs = states_and_logits(student, params, *rows, key=key)
        theirs = teacher.run(frozen, batch) if teacher else (None, None)
        inputs = LossInputs(params, batch, *outputs, *jax.lax.stop_gradient(theirs))
        sums = masked_lm(inputs.logits, batch["labels"], batch["weights"])
        parts = {name: term.of(inputs) for name, term in terms.items()}
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


def live_distillation(inputs: LossInputs, *, temperature: float) -> jax.Array:
    """Distillation from a teacher that has read the same batch."""
    weights = inputs.batch["weights"]
    return distillation(inputs.logits, inputs.teacher_logits, weights, temperature=temperature)


def cached_distillation(inputs: LossInputs, *, temperature: float) -> jax.Array:
    """Distillation from the cached distributions that come with the batch."""
    batch = inputs.batch
    kept = TopK(batch["top_ids"].astype("int32"), batch["top_log_p"], batch["log_tail"])
    return top_k_distillation(inputs.logits, kept, batch["weights"], temperature=temperature)


def hidden_state_loss(inputs: LossInputs) -> jax.Array:
    """Error of the hidden states, mapped linearly to the teacher's where they are of other size."""
    states = inputs.states
    if MAP in inputs.params:
        states = states.astype("float32") @ inputs.params[MAP]["kernel"]
    mask, weights = inputs.batch["mask"], inputs.batch["weights"]
    return hidden_states(states, inputs.teacher_states, mask, weights)


def with_map(params, teacher: Checkpoint, *, seed: int):
    """The student's parameters, and a map from its hidden states to the teacher's.

    The map is normal, σ = 1 / √h, and there only where the two have different sizes.
    """
    theirs, own = teacher.config.arch.hidden, params["encoder"]["embeddings"]["norm"]["scale"].size
    if theirs == own:
        return params
    kernel = np.random.default_rng(seed).normal(0, own**-0.5, (own, theirs))
    return params | {MAP: {"kernel": kernel.astype(np.float32)}}


def without_map(params):
    """The parameters of the model alone."""
    return {name: values for name, values in params.items() if name != MAP}


def teacher_stream(
    stream: MaskedStream,
    corpus: Corpus,
    weights: LossWeights,
    *,
    teacher: Checkpoint | None,
    cache: str | None,
) -> Stream:
    """The batches of a run, with a cached teacher's distributions where there is a cache.

    Args:
      teacher: checked to fit the stream, and to be the cached one.
      cache: folder of a teacher cache.

    Raises:
      FileNotFoundError, ValueError: a teacher or a cache that does not fit.
    """
    if teacher:
        check_reads(teacher, corpus.tokenizer, seq_len=stream.seq_len)
    if not cache:
        if teacher and weights.distillation:
            check_predicts(teacher, corpus.tokenizer.vocab_size)
        return stream
    cached = open_cache(cache, corpus, stream, temperature=weights.temperature)
    if teacher and fingerprint(teacher) != cached.cache.made_from["teacher_sha256"]:
        raise ValueError(f"the given teacher is not the teacher of {cache}")
    return cached

# SPDX-License-Identifier: Apache-2.0
"""Losses as sums and counts; whoever trains divides, once, after adding over devices."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

Sums = dict[str, Float[Array, ""]]

NOTHING = -1e9  # log-probability of what is left out: −∞ would have a gradient of NaN


class TopK(NamedTuple):
    """A distribution over the vocabulary by its k likeliest tokens, at one temperature.

    Attributes:
      ids: the tokens, likeliest first.
      log_p: their log-probabilities.
      log_tail: the log-probability of all other tokens together; −∞ where there are none.
    """

    ids: Int[Array, "b m k"]
    log_p: Float[Array, "b m k"]
    log_tail: Float[Array, "b m"]


def masked_lm(
    logits: Float[Array, "b m v"], labels: Int[Array, "b m"], weights: Float[Array, "b m"]
) -> Sums:
    """Cross-entropy in nats at the masked positions.

    Args:
      labels: the original tokens; anything where the weight is 0.
      weights: 1 at masked positions, 0 at fillers.

    Returns:
      sums `mlm` (nats), `correct` (positions whose largest logit is the label), `count`.
    """
    return _cross_entropy(logits, labels, weights, name="mlm")


def classification(
    logits: Float[Array, "b c"], labels: Int[Array, "b"], weights: Float[Array, "b"]
) -> Sums:
    """Cross-entropy in nats over classes: sums `loss`, `correct`, `count`."""
    return _cross_entropy(logits, labels, weights, name="loss")


def soft_classification(
    logits: Float[Array, "b c"], targets: Float[Array, "b c"], weights: Float[Array, "b"]
) -> Sums:
    """Cross-entropy in nats with soft labels, the probabilities of the classes: sums `loss`,
    `correct` (the likeliest classes agree), `count`.

    With certain labels it is `classification`, bit for bit: what has the probability 0 adds 0.
    """
    shifted = logits - jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True))
    normalizers = jnp.log(jnp.exp(shifted).sum(axis=-1))
    losses = (normalizers - (targets * shifted).sum(axis=-1)) * weights
    correct = jnp.where(logits.argmax(axis=-1) == targets.argmax(axis=-1), weights, 0)
    return {"loss": losses.sum(), "correct": correct.sum(), "count": weights.sum()}


def regression(
    values: Float[Array, "b"], targets: Float[Array, "b"], weights: Float[Array, "b"]
) -> Sums:
    """Squared error: sums `loss`, `count`."""
    # A target that carries no weight may be anything, NaN too.
    errors = jnp.where(weights > 0, values - targets, 0)
    return {"loss": jnp.sum(errors**2 * weights), "count": weights.sum()}


def distillation(
    student: Float[Array, "*b v"],
    teacher: Float[Array, "*b v"],
    weights: Float[Array, "*b"],
    *,
    temperature: float,
) -> Float[Array, ""]:
    """T² · KL(teacher ‖ student) of the distributions softened by T, summed over positions.

    T² keeps the size of the gradient independent of T (bort companion code, pretraining).
    """
    log_p = jax.nn.log_softmax(jax.lax.stop_gradient(teacher) / temperature)
    log_q = jax.nn.log_softmax(student / temperature)
    divergence = jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)
    return temperature**2 * jnp.sum(divergence * weights)


def top_k(logits: Float[Array, "b m v"], *, k: int, temperature: float) -> TopK:
    """softmax(logits / T) by its k likeliest tokens."""
    log_p = jax.nn.log_softmax(logits / temperature)
    kept, ids = jax.lax.top_k(log_p, k)
    others = jnp.where(is_top(ids, logits.shape[-1]), -jnp.inf, log_p)
    return TopK(ids, kept, jax.nn.logsumexp(others, axis=-1))


def top_k_distillation(
    student: Float[Array, "b m v"],
    teacher: TopK,
    weights: Float[Array, "b m"],
    *,
    temperature: float,
) -> Float[Array, ""]:
    """T² · KL of the teacher's k likeliest tokens and one bucket of all others, summed.

    With p the teacher's distribution at T, q the student's, K the k tokens and p', q' the masses
    outside K, a position has T² · (Σ_K p log(p / q) + p' log(p' / q')). That is the divergence of
    two distributions of k + 1 outcomes. By the log-sum inequality it is at most the whole one, it
    grows with k, and with k = v it is the whole one. Its gradient in the student's logits is
    T · (q − p) on K, and T · q · (1 − p' / q') elsewhere: the tail's mass is taught, not its shape.

    The top k and the tail of one T determine those of no other: the temperature must be the one
    that `teacher` was softened with. What is rounded (16 bits) is brought back to a sum of 1.

    Source: our reading; the published loss (`distillation`) has every token.
    """
    whole = jnp.concatenate([teacher.log_p, teacher.log_tail[..., None]], axis=-1)
    log_p = jax.nn.log_softmax(whole.astype(jnp.float32))
    log_q = jax.nn.log_softmax(student / temperature)
    # One scatter of constants: what is differentiated then is element-wise.
    top = is_top(teacher.ids, student.shape[-1])
    p = scatter_to_vocab(teacher.ids, jnp.exp(log_p[..., :-1]), student.shape[-1])
    entropy = -jnp.sum(jnp.where(jnp.isfinite(log_p), jnp.exp(log_p) * log_p, 0), axis=-1)
    log_tail = jax.nn.logsumexp(jnp.where(top, NOTHING, log_q), axis=-1)
    cross = jnp.sum(p * log_q, axis=-1) + jnp.exp(log_p[..., -1]) * log_tail
    return temperature**2 * jnp.sum((-entropy - cross) * weights)


def is_top(ids: Int[Array, "b m k"], vocab_size: int) -> Bool[Array, "b m v"]:
    return scatter_to_vocab(ids, jnp.ones(ids.shape, bool), vocab_size)


def scatter_to_vocab(ids: Int[Array, "b m k"], values, vocab_size: int):
    """`values` [b, m, k] at their tokens, zeros at the others: [b, m, v]."""
    b, m, _ = ids.shape
    rows, places = jnp.arange(b)[:, None, None], jnp.arange(m)[None, :, None]
    zeros = jnp.zeros((b, m, vocab_size), values.dtype)
    return zeros.at[rows, places, ids].set(values, unique_indices=True)


def hidden_states(
    student: Float[Array, "b s h"],
    teacher: Float[Array, "b s h"],
    mask: Bool[Array, "b s"],
    weights: Float[Array, "b m"],
) -> Float[Array, ""]:
    """Mean-squared error of the last hidden states over a row's tokens, times its masked positions.

    Whoever divides by the count of masked positions gets the mean over rows, longer ones counting
    more, as they do in the other losses; where rows are full it is the mean over all tokens.

    Source: TinyBERT (Jiao et al., 2020), equation 8, of one layer.
    """
    difference = student.astype(jnp.float32) - jax.lax.stop_gradient(teacher).astype(jnp.float32)
    squared = jnp.mean(difference**2, axis=-1)
    present = mask.astype(squared.dtype)
    rows = jnp.sum(squared * present, axis=-1) / jnp.maximum(jnp.sum(present, axis=-1), 1)
    return jnp.sum(rows * jnp.sum(weights, axis=-1))


def _cross_entropy(logits, labels, weights, *, name: str) -> Sums:
    # A label that carries no weight may be −100 or out of range, which would give NaN · 0.
    labels = jnp.where(weights > 0, labels, 0)
    fixed = jax.lax.stop_gradient(logits)
    at_label = jnp.take_along_axis(fixed, labels[..., None], axis=-1)[..., 0]
    correct = jnp.where(at_label >= fixed.max(axis=-1), weights, 0)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels) * weights
    return {name: losses.sum(), "correct": correct.sum(), "count": weights.sum()}

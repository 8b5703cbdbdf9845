# SPDX-License-Identifier: Apache-2.0
"""Losses as sums and counts; whoever trains divides, once, after adding over devices."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Sums = dict[str, Float[Array, ""]]


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


def regression(
    values: Float[Array, "b"], targets: Float[Array, "b"], weights: Float[Array, "b"]
) -> Sums:
    """Squared error: sums `loss`, `count`."""
    # A target that carries no weight may be anything, NaN too.
    errors = jnp.where(weights > 0, values - targets, 0)
    return {"loss": jnp.sum(errors**2 * weights), "count": weights.sum()}


def distillation(
    student: Float[Array, "b m v"],
    teacher: Float[Array, "b m v"],
    weights: Float[Array, "b m"],
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


def _cross_entropy(logits, labels, weights, *, name: str) -> Sums:
    # A label that carries no weight may be −100 or out of range, which would give NaN · 0.
    labels = jnp.where(weights > 0, labels, 0)
    best = jax.lax.stop_gradient(logits.max(axis=-1))
    # A comparison, not a gather: its gradient is element-wise, where a gather's is a scatter.
    is_label = jnp.arange(logits.shape[-1]) == labels[..., None]
    at_label = jnp.sum(jnp.where(is_label, logits, 0), axis=-1)
    losses = jax.nn.logsumexp(logits, axis=-1) - at_label
    correct = (at_label >= best) * weights
    return {name: jnp.sum(losses * weights), "correct": correct.sum(), "count": weights.sum()}

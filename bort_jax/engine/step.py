# SPDX-License-Identifier: Apache-2.0
"""The one training step: rate, clipping, AdamW or LAMB, projection; nothing where not finite."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bort_jax.engine.optimizer import (
    Hyper,
    clip_scale,
    initial_opt_state,
    learning_rate,
    make_optimizer,
)


class State(NamedTuple):
    """All that training changes, and the hyperparameters as arrays.

    Attributes:
      step: int32, steps done; those that were skipped count.
      params: float32 tree.
      opt_state: optax's.
      hyper: traced, so that one compiled step serves every hyperparameter set.
      seconds: float32, time used; 0 in a run that has a number of steps.
      skipped: int32, steps without a finite loss and gradient.
      in_a_row: int32, how many of these were the last ones; a run that ends with any diverged.
    """

    step: Any
    params: Any
    opt_state: Any
    hyper: Hyper
    seconds: Any
    skipped: Any
    in_a_row: Any


class UpdateRule(NamedTuple):
    """The rule by which a gradient changes the weights.

    Attributes:
      optimizer: `adamw` or `lamb`.
      clip: largest global norm of the gradient.
      clip_weights: c: after a step every weight is brought into [−c, c]; None: no limit. That the
        paper's compact set (arXiv 2010.08512, strong AB^nC) is this box, and that it holds for
        every trainable number, LayerNorm's scales too, is our reading.
      rate_factors: `params -> tree`, what the rate of each parameter is multiplied by.
    """

    optimizer: str = "adamw"
    clip: float = 1.0
    clip_weights: float | None = None
    rate_factors: Callable | None = None


def new_state(params, hyper: Hyper, *, optimizer: str) -> State:
    """A state at step 0, in numpy but for the parameters; may be called while tracing."""
    return State(
        np.int32(0),
        params,
        initial_opt_state(optimizer, params),
        hyper,
        seconds=np.float32(0),
        skipped=np.int32(0),
        in_a_row=np.int32(0),
    )


def guarded_update(
    state: State, grads, sums: dict, *, rule: UpdateRule, time: Any = None
) -> tuple[State, dict]:
    """One step on the mean loss `loss / count`.

    Where loss or gradient is not finite, neither the parameters nor the optimizer's state change,
    and the step is counted as skipped.

    Args:
      grads: the gradient of the summed loss.
      sums: scalars, with at least `loss` and `count`.
      time: where the learning rate's schedule stands; default: the steps done.

    Returns:
      the state after the step, and metrics: the sums divided by the count, `grad_norm`,
      `learning_rate`, `skipped` and `in_a_row` (see State).
    """
    metrics = {name: total / sums["count"] for name, total in sums.items() if name != "count"}
    norm = optax.global_norm(grads) / sums["count"]
    rate = learning_rate(state.hyper, state.step if time is None else time)
    # One factor for the mean and for clipping, inside the update: no gradient is written twice.
    scale = clip_scale(norm, rule.clip) / sums["count"]
    finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(norm)

    def take(state: State) -> State:
        params, opt_state = _update(state, grads, rule, rate=rate, scale=scale)
        return state._replace(params=params, opt_state=opt_state, in_a_row=jnp.int32(0))

    def skip(state: State) -> State:
        return state._replace(skipped=state.skipped + 1, in_a_row=state.in_a_row + 1)

    # A branch: a select would write weights and moments once more, a third of an update on CPU.
    state = jax.lax.cond(finite, take, skip, state)
    metrics |= {"grad_norm": norm, "learning_rate": rate}
    metrics |= {"skipped": state.skipped, "in_a_row": state.in_a_row}
    return state._replace(step=state.step + 1), metrics


def _update(state: State, grads, rule: UpdateRule, *, rate, scale) -> tuple[Any, Any]:
    """Parameters and the optimizer's state after an update."""
    transform = make_optimizer(rule.optimizer, state.hyper, rate=rate, scale=scale)
    updates, opt_state = transform.update(grads, state.opt_state, state.params)
    if rule.rate_factors:
        updates = jax.tree.map(jnp.multiply, updates, rule.rate_factors(state.params))
    params = optax.apply_updates(state.params, updates)
    if rule.clip_weights is not None:
        params = optax.projections.projection_linf_ball(params, rule.clip_weights)
    return params, opt_state


def gradient_sums(loss_fn: Callable, *, parts: int = 1) -> Callable:
    """Builds `(params, frozen, batch, key) -> (gradient of the summed loss, sums)`.

    Args:
      loss_fn: `(params, frozen, batch, key) -> sums`, a dict of scalars with at least `loss`.
      parts: gradient accumulation: micro-batches, one after the other, so that the activations of
        only one are alive.
    """

    def gradient(params, frozen, batch, key):
        def summed_loss(params):
            sums = loss_fn(params, frozen, batch, key)
            return sums["loss"], sums

        return jax.grad(summed_loss, has_aux=True)(params)

    def accumulate(params, frozen, batch, key):
        rows = jnp.arange(len(jax.tree.leaves(batch)[0]))

        def of_part(batch, rows):
            # The first row's number is the micro-batch's: each drops units of its own.
            return gradient(params, frozen, batch, jax.random.fold_in(key, rows[0]))

        size = len(rows) // parts
        return optax.microbatching.microbatch(of_part, (0, 1), size)(batch, rows)

    return gradient if parts == 1 else accumulate

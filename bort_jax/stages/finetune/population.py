# SPDX-License-Identifier: Apache-2.0
"""t fine-tunings as one program: rates, decay, lengths, seeds, heads and batches are arrays.

A member is trained as it would be alone: nothing is shared but the encoder that all start from.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bort_jax.engine.optimizer import Hyper
from bort_jax.engine.parallel import OverMembers
from bort_jax.engine.step import State, UpdateRule, gradient_sums, guarded_update, new_state

CLIP = 1.0  # largest global norm of a member's gradient


class Member(NamedTuple):
    """Per-run inputs: hyperparameters, dropout key, fresh head.

    Attributes:
      hyper: rate, decay, warm-up and length of the training.
      key: data of the key that dropout is drawn from.
      head: parameters of everything but the encoder.
    """

    hyper: Hyper
    key: Any
    head: Any


class Population(NamedTuple):
    """The programs, each over `[devices, members of a device, …]`.

    Attributes:
      begin: `(encoder, members) -> states`.
      train: `(states, members, batches [k, …], n) -> states`, after n ≤ k steps; its first
        argument is donated. A member whose last step was skipped has diverged.
      outputs: `(params, ids [m, s]) -> [m, k]` of every member, without dropout.
      choose: `(new, old, chosen) -> params`, the new ones where a member's is chosen.
    """

    begin: OverMembers
    train: OverMembers
    outputs: OverMembers
    choose: OverMembers

    @classmethod
    def of(
        cls, loss_fn: Callable, outputs_fn: Callable, *, layer_decay: float = 1.0
    ) -> "Population":
        """Builds the programs.

        Args:
          loss_fn: `(params, batch, key) -> sums`, with at least `loss` and `count`.
          outputs_fn: `(params, ids) -> [m, k]`.
          layer_decay: as in `layer_factors`.
        """
        choose = lambda new, old, chosen: jax.tree.map(
            lambda new, old: jnp.where(chosen, new, old), new, old
        )
        return cls(
            OverMembers(start_member, (None, 0)),
            OverMembers(steps_fn(loss_fn, layer_decay=layer_decay), (0, 0, 0, None), donate=True),
            OverMembers(outputs_fn, (0, None)),
            OverMembers(choose, (0, 0, 0)),
        )


def start_member(encoder, member: Member) -> State:
    """The start of a member: the shared encoder under its own head."""
    return new_state({"encoder": encoder} | member.head, member.hyper, optimizer="adamw")


def steps_fn(loss_fn: Callable, *, layer_decay: float) -> Callable:
    """Builds `(state, member, batches, n) -> state`: n steps of AdamW on the first n batches.

    Several steps in one call: on a small model a return to Python after each would cost as much as
    the step.
    """
    gradient = gradient_sums(lambda params, _, batch, key: loss_fn(params, batch, key))
    factors = partial(layer_factors, decay=layer_decay) if layer_decay != 1 else None
    rule = UpdateRule(clip=CLIP, rate_factors=factors)

    def steps(state: State, member: Member, batches, n) -> State:
        def step(i, state: State) -> State:
            key = jax.random.fold_in(jax.random.wrap_key_data(member.key), state.step)
            batch = jax.tree.map(lambda x: x[i], batches)
            grads, sums = gradient(state.params, (), batch, key)
            return guarded_update(state, grads, sums, rule=rule)[0]

        return jax.lax.fori_loop(0, n, step, state)

    return steps


def layer_factors(params, decay: float):
    """Factors of each parameter's rate: 1 for the head, `decay` for the last layer, decay² for the
    one before, and so on down to the embeddings (arXiv 1801.06146, section 3.2)."""
    layers = [name for name in params["encoder"] if name.startswith("layer_")]

    def factor(path, _) -> float:
        if path[0].key != "encoder":
            return 1.0
        _, _, number = path[1].key.partition("layer_")
        return decay ** (len(layers) - int(number) if number else len(layers) + 1)

    return jax.tree_util.tree_map_with_path(factor, params)


def nan_like(params):
    """NaN for all of a member's parameters: whatever it answers then has no score.

    The guarded step leaves a member that diverges with its last finite parameters, which would
    score like any other's.
    """
    return jax.tree.map(lambda x: np.full_like(x, np.nan), params)


def tree_bytes(tree) -> int:
    return sum(math.prod(np.shape(x)) * np.dtype(x.dtype).itemsize for x in jax.tree.leaves(tree))

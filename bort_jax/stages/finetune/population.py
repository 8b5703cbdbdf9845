# SPDX-License-Identifier: Apache-2.0
"""t fine-tunings as one program: rates, decay, lengths, seeds, heads and batches are arrays.

A member is trained as it would be alone: nothing is shared but the encoder that all start from.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bort_jax.engine.optimizer import Hyper, clipping, learning_rate, make_optimizer
from bort_jax.engine.parallel import OverMembers

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


class Trainee(NamedTuple):
    """A member's training, as far as it has come."""

    step: Any
    params: Any
    opt_state: Any


class Population(NamedTuple):
    """The programs, each over `[devices, members of a device, …]`.

    Attributes:
      begin: `(encoder, members) -> trainees`.
      train: `(trainees, members, batches [k, …], n) -> trainees`, after n ≤ k steps; its first
        argument is donated.
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


def start_member(encoder, member: Member) -> Trainee:
    """The start of a member: the shared encoder under its own head."""
    params = {"encoder": encoder} | member.head
    transform = make_optimizer("adamw", member.hyper, rate=0.0)
    return Trainee(jnp.int32(0), params, transform.init(params))


def steps_fn(loss_fn: Callable, *, layer_decay: float) -> Callable:
    """Builds `(trainee, member, batches, n) -> trainee`: n steps of AdamW on the first n batches.

    Several steps in one call: on a small model a return to Python after each would cost as much as
    the step.
    """

    def step(trainee: Trainee, member: Member, batch) -> Trainee:
        key = jax.random.fold_in(jax.random.wrap_key_data(member.key), trainee.step)

        def mean_loss(params):
            sums = loss_fn(params, batch, key)
            return sums["loss"] / sums["count"]

        grads = jax.grad(mean_loss)(trainee.params)
        rate = learning_rate(member.hyper, trainee.step)
        scale = clipping(optax.global_norm(grads), CLIP)
        transform = make_optimizer("adamw", member.hyper, rate=rate, scale=scale)
        updates, opt_state = transform.update(grads, trainee.opt_state, trainee.params)
        if layer_decay != 1:
            factors = layer_factors(trainee.params, layer_decay)
            updates = jax.tree.map(jnp.multiply, updates, factors)
        return Trainee(trainee.step + 1, optax.apply_updates(trainee.params, updates), opt_state)

    def steps(trainee: Trainee, member: Member, batches, n) -> Trainee:
        batch = lambda i: jax.tree.map(lambda x: x[i], batches)
        return jax.lax.fori_loop(0, n, lambda i, t: step(t, member, batch(i)), trainee)

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


def stack_members(trees: list, devices: int):
    """Trees of host arrays as one, `[devices, members of a device, …]`."""

    def put(*leaves):
        return np.stack(leaves).reshape(devices, -1, *np.shape(leaves[0]))

    return jax.tree.map(put, *trees)


def unstack_members(tree, count: int) -> list:
    """The first `count` members' trees, on the host."""
    tree = jax.tree.map(lambda x: np.asarray(x).reshape(-1, *x.shape[2:]), tree)
    return [jax.tree.map(lambda x, k=k: x[k], tree) for k in range(count)]


def tree_bytes(tree) -> int:
    return sum(math.prod(np.shape(x)) * np.dtype(x.dtype).itemsize for x in jax.tree.leaves(tree))

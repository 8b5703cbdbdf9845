# SPDX-License-Identifier: Apache-2.0
"""Training and scoring of one candidate as one program that is called a few times.

Train steps and scoring batches are rows of one stream: a row says whether it trains. So the
forward pass is compiled once for both, and no step returns to Python.
"""

from collections.abc import Callable
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np

from bort_jax.model import distillation, masked_lm
from bort_jax.train.optimizer import learning_rate, make_optimizer, updated
from bort_jax.train.parallel import State

SUMS = ("mlm", "correct", "count", "distillation")


def candidate_program(
    logits_fn: Callable,
    unpack: Callable,
    pack: Callable,
    *,
    clip_weights: float | None,
) -> Callable:
    def program(state: State, sums, shape, stream):
        def row(carry, batch):
            state, sums = carry

            def loss(params):
                logits = logits_fn(params, shape, batch)
                sums = masked_lm(logits, batch["labels"], batch["weights"])
                return sums["mlm"] / sums["count"], sums

            _, pullback, found = jax.vjp(loss, unpack(state.params), has_aux=True)

            def step(state):
                (grads,) = pullback(jnp.float32(1))
                rate = learning_rate(state.hyper, state.step)
                transform = make_optimizer("adamw", state.hyper, rate=rate, clip=1.0)
                updates, opt_state = transform.update(pack(grads), state.opt_state, state.params)
                params = updated(state.params, updates, limit=clip_weights)
                return State(state.step + 1, params, opt_state, state.hyper)

            state = jax.lax.cond(batch["train"], step, lambda state: state, state)
            sums = jax.tree.map(lambda a, b: jnp.where(batch["train"], a, a + b), sums, found)
            return (state, sums), None

        return jax.lax.scan(row, (state, sums), stream)[0]

    return program

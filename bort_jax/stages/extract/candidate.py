# SPDX-License-Identifier: Apache-2.0
"""Training and scoring of candidates as one program, called a few times.

Batches of training and of held-out text are rows of one stream, and a row says which it is: the
forward pass is compiled once for both, and a step returns to Python only after SEGMENT rows.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from bort_jax.data.prepared import Corpus
from bort_jax.engine.optimizer import Hyper, begun, clipping, learning_rate, limited, make_optimizer
from bort_jax.engine.parallel import State, parallel_population
from bort_jax.model import distillation, masked_lm
from bort_jax.stages.extract.measure import measure_from_sums
from bort_jax.stages.extract.recipe import (
    Recipe,
    heldout_batch,
    teacher_logits,
    training_batch,
    unigram_loss,
)

SEGMENT = 32  # rows of the stream in one call of the program
ZEROS = {name: np.float32(0) for name in ("mlm", "correct", "count", "divergence")}


def candidate_errors(
    logits_fn: Callable, corpus: Corpus, recipe: Recipe, *, devices: Sequence[Any] | None = None
) -> Callable:
    """Builds `errors(params, shapes, title) -> [e, …]`: each shape trains its own copy of `params`.

    Every shape is trained with every rate of Θ, and its least e is kept; NaN if no rate ends with
    a finite loss.

    Args:
      logits_fn: `(params, shape, batch) -> [b, m, v]`, one compilation for all shapes.
      devices: what the (shape, rate) pairs are spread over; default: all of this process.
    """
    fold = parallel_population(
        candidate_program(logits_fn, clip_weights=recipe.clip_weights), devices=devices
    )
    heldout = heldout_batch(corpus, recipe)
    unigram = unigram_loss(corpus, heldout) if recipe.measure == "excess" else 0.0
    items = segments(corpus, recipe, heldout)

    def errors(params, shapes: Sequence, title: str) -> list[float]:
        hypers = [recipe.hyper(rate) for rate in recipe.learning_rates]
        members = [(shape, hyper) for shape in shapes for hyper in hypers]
        carry = (fresh_state(params), ZEROS)
        with tqdm(desc=title, unit="part", leave=False, disable=None) as bar:
            ended = fold(carry, members, items, end=lambda carry: carry[1], watch=bar.update)
        found = [
            measure_from_sums(recipe.measure, _floats(sums), unigram=unigram) for sums in ended
        ]
        each = len(hypers)
        return [least(found[k : k + each]) for k in range(0, len(found), each)]

    return errors


def candidate_program(logits_fn: Callable, *, clip_weights: float | None) -> Callable:
    """`((state, sums), (shape, hyper), stream) -> (state, sums)`.

    Rows of the stream that train change the state; the others add to the sums.
    """

    def program(carry, member, stream):
        shape, hyper = member

        def row(carry, batch):
            state, sums = carry

            def loss(params):
                found = row_sums(logits_fn(params, shape, batch), batch)
                return found["mlm"] / jnp.maximum(found["count"], 1), found

            _, pullback, found = jax.vjp(loss, state.params, has_aux=True)
            step = lambda state: stepped(state, hyper, pullback(1.0)[0], clip_weights)
            state = jax.lax.cond(batch["train"], step, lambda state: state, state)
            kept = jax.tree.map(lambda a, b: jnp.where(batch["train"], a, a + b), sums, found)
            return (state, kept), None

        return jax.lax.scan(row, carry, stream)[0]

    return program


def stepped(state: State, hyper: Hyper, grads, clip_weights: float | None) -> State:
    """One step of AdamW with the hyperparameters of this member."""
    rate = learning_rate(hyper, state.step)
    scale = clipping(optax.global_norm(grads), 1.0)
    transform = make_optimizer("adamw", hyper, rate=rate, scale=scale)
    updates, opt_state = transform.update(grads, state.opt_state, state.params)
    params = limited(optax.apply_updates(state.params, updates), clip_weights)
    return state._replace(step=state.step + 1, params=params, opt_state=opt_state)


def row_sums(logits: jax.Array, batch: dict) -> dict:
    """Sums over the masked positions of one batch."""
    sums = masked_lm(logits, batch["labels"], batch["weights"])
    if "teacher" not in batch:
        return sums | {"divergence": jnp.float32(0)}
    divergence = distillation(logits, batch["teacher"], batch["weights"], temperature=1.0)
    return sums | {"divergence": divergence}


def fresh_state(params) -> State:
    """A state at step 0 in numpy, without running optax; the members bring the hyperparameters."""
    return State(np.int32(0), params, begun("adamw", params), cast(Any, ()))


def segments(corpus: Corpus, recipe: Recipe, heldout: dict) -> list[dict]:
    """The stream in parts of equal size; a teacher's rows are a stream of their own."""
    batches = (training_batch(corpus, recipe, step) for step in range(recipe.steps))
    training = [batch | {"train": np.True_} for batch in batches]
    if recipe.teacher is not None:
        heldout = heldout | {"teacher": teacher_logits(recipe.teacher, heldout)}
        return _parts(training) + _parts(_in_rows(heldout, recipe.batch_size))
    return _parts(training + _in_rows(heldout, recipe.batch_size))


def _in_rows(batch: dict, size: int) -> list[dict]:
    """Batches of `size`, the last filled up with rows that carry no weight."""
    n = len(batch["ids"])
    rows = []
    for start in range(0, n, size):
        at = np.arange(start, start + size)
        part = {name: values[at % n] for name, values in batch.items()}
        part["weights"] = part["weights"] * (at < n)[:, None].astype(np.float32)
        rows.append(part | {"train": np.False_})
    return rows


def _parts(rows: list[dict]) -> list[dict]:
    """Stacks of at most SEGMENT rows and of equal length: idle rows are put at the end."""
    count = -(-len(rows) // SEGMENT)
    size = -(-len(rows) // count)
    idle = rows[-1] | {"train": np.False_, "weights": np.zeros_like(rows[-1]["weights"])}
    rows = rows + [idle] * (count * size - len(rows))
    stack = lambda part: {name: np.stack([row[name] for row in part]) for name in part[0]}
    return [stack(rows[k : k + size]) for k in range(0, len(rows), size)]


def least(errors: Sequence[float]) -> float:
    """The smallest number; NaN if there is none."""
    finite = [error for error in errors if np.isfinite(error)]
    return min(finite, default=float("nan"))


def _floats(sums: dict) -> dict[str, float]:
    return {name: float(value) for name, value in sums.items()}

# SPDX-License-Identifier: Apache-2.0
"""Training and scoring of candidates as one program, called a few times.

Batches of training and of held-out text are rows of one stream, and a row says which it is: the
forward pass is compiled once for both, and a step returns to Python only after SEGMENT rows.
"""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from bort_jax.data.prepared import Corpus
from bort_jax.engine.parallel import OverMembers, at_a_time, stack_members, unstack_members
from bort_jax.engine.step import State, UpdateRule, guarded_update, new_state
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
    devices = list(devices or jax.local_devices())
    program = candidate_program(logits_fn, clip_weights=recipe.clip_weights)
    run = OverMembers(program, (0, 0, None), donate=True, devices=devices)
    heldout = heldout_batch(corpus, recipe)
    unigram = unigram_loss(corpus, heldout) if recipe.measure == "excess" else 0.0
    items = segments(corpus, recipe, heldout)

    def error(state: State, sums: dict) -> float:
        if state.in_a_row:
            return math.nan
        return measure_from_sums(recipe.measure, _floats(sums), unigram=unigram)

    def errors(params, shapes: Sequence, title: str) -> list[float]:
        start = new_state(params, recipe.hyper(0.0), optimizer="adamw")
        starts = [start._replace(hyper=recipe.hyper(rate)) for rate in recipe.learning_rates]
        members = [((start, ZEROS), shape) for shape in shapes for start in starts]
        with tqdm(desc=title, unit="part", leave=False, disable=None) as bar:
            ended = train_groups(run, members, items, size=len(devices), watch=bar.update)
        found = [error(state, sums) for state, sums in ended]
        return [least(found[k : k + len(starts)]) for k in range(0, len(found), len(starts))]

    return errors


def train_groups(
    run: OverMembers, members: Sequence, items: Sequence, *, size: int, watch: Callable
) -> list:
    """(state without its large arrays, sums) of each member, trained `size` at a time.

    Args:
      members: (state, sums) at the start, and the shape.
      watch: called after every item.
    """

    def train_group(start: int) -> list:
        # The last group is filled up with copies of its last member.
        picked = [members[min(start + k, len(members) - 1)] for k in range(size)]
        carry, shapes = (stack_members(part, size) for part in zip(*picked, strict=True))
        for item in items:
            carry = jax.block_until_ready(run(carry, shapes, item))
            watch()
        state, sums = carry
        return unstack_members((state._replace(params=(), opt_state=()), sums), size)

    with ThreadPoolExecutor(at_a_time()) as pool:
        groups = pool.map(train_group, range(0, len(members), size))
        return [ended for group in groups for ended in group][: len(members)]


def candidate_program(logits_fn: Callable, *, clip_weights: float | None) -> Callable:
    """`((state, sums), shape, stream) -> (state, sums)`.

    Rows of the stream that train change the state; the others add to the sums.
    """
    rule = UpdateRule(clip_weights=clip_weights)

    def program(carry, shape, stream):
        def row(carry, batch):
            state, sums = carry

            def loss(params):
                found = row_sums(logits_fn(params, shape, batch), batch)
                return found["mlm"], found

            total, pullback, found = jax.vjp(loss, state.params, has_aux=True)

            def step(state: State) -> State:
                loss = {"loss": total, "count": found["count"]}
                return guarded_update(state, pullback(1.0)[0], loss, rule=rule)[0]

            state = jax.lax.cond(batch["train"], step, lambda state: state, state)
            sums = jax.tree.map(lambda a, b: jnp.where(batch["train"], a, a + b), sums, found)
            return (state, sums), None

        return jax.lax.scan(row, carry, stream)[0]

    return program


def row_sums(logits: jax.Array, batch: dict) -> dict:
    """Sums over the masked positions of one batch."""
    sums = masked_lm(logits, batch["labels"], batch["weights"])
    if "teacher" not in batch:
        return sums | {"divergence": jnp.float32(0)}
    divergence = distillation(logits, batch["teacher"], batch["weights"], temperature=1.0)
    return sums | {"divergence": divergence}


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

# SPDX-License-Identifier: Apache-2.0
"""Training and scoring of candidates as one program, called a few times.

Batches of training and of held-out text are rows of one stream, and a row says which it is: the
forward pass is compiled once for both, and a step returns to Python only after SEGMENT rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from bort_jax.data.masking import masked_batch
from bort_jax.data.prepared import Corpus
from bort_jax.engine.optimizer import Hyper, begun, clipping, learning_rate, limited, make_optimizer
from bort_jax.engine.parallel import State, parallel_population
from bort_jax.interop import Checkpoint
from bort_jax.model import distillation, masked_lm
from bort_jax.stages.extract.measure import (
    Measure,
    check_measure,
    measured,
    teacher_logits,
    unigram_loss,
)

SEGMENT = 32  # rows of the stream in one call of the program
ZEROS = {name: np.float32(0) for name in ("mlm", "correct", "count", "divergence")}


@dataclass(frozen=True)
class Recipe:
    """How every candidate is trained and what is measured: `trained_error` says what is what.

    Raises:
      ValueError: an unknown measure, a teacher that does not fit, c ≤ 0, or an empty Θ.
    """

    corpus: Corpus
    steps: int
    batch_size: int
    seq_len: int
    learning_rates: tuple[float, ...]
    measure: Measure
    teacher: Checkpoint | None
    clip_weights: float | None
    eval_rows: int
    seed: int

    def __post_init__(self):
        check_measure(
            self.measure,
            vocab_size=self.corpus.tokenizer.vocab_size,
            seq_len=self.seq_len,
            teacher=self.teacher,
        )
        if not self.learning_rates:
            raise ValueError("learning_rates is empty: each candidate needs at least one")
        if self.clip_weights is not None and not self.clip_weights > 0:
            raise ValueError(f"clip_weights must be positive; got {self.clip_weights}")

    def hyper(self, rate: float) -> Hyper:
        return Hyper.of(
            learning_rate=rate, weight_decay=0.01, warmup_ratio=0.1, total_steps=self.steps
        )

    def training_rows(self) -> list[dict]:
        """The batches of all steps."""
        sizes = dict(seed=self.seed, batch_size=self.batch_size, seq_len=self.seq_len)
        batches = (masked_batch(self.corpus.train, i, **sizes) for i in range(self.steps))
        return [batch | {"train": np.True_} for batch in batches]

    def heldout(self) -> dict:
        """The held-out batch that every candidate is measured on."""
        rows = min(self.eval_rows, self.corpus.heldout.rows(self.seq_len))
        return masked_batch(
            self.corpus.heldout, 0, seed=self.seed, batch_size=rows, seq_len=self.seq_len
        )


def candidate_errors(
    logits_fn: Callable, recipe: Recipe, *, devices: Sequence[Any] | None = None
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
    heldout = recipe.heldout()
    unigram = unigram_loss(recipe.corpus, heldout) if recipe.measure == "excess" else 0.0
    items = segments(recipe, heldout)

    def errors(params, shapes: Sequence, title: str) -> list[float]:
        hypers = [recipe.hyper(rate) for rate in recipe.learning_rates]
        members = [(shape, hyper) for shape in shapes for hyper in hypers]
        carry = (fresh_state(params), ZEROS)
        with tqdm(desc=title, unit="part", leave=False, disable=None) as bar:
            ended = fold(carry, members, items, end=lambda carry: carry[1], watch=bar.update)
        found = [measured(recipe.measure, _floats(sums), unigram=unigram) for sums in ended]
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


def segments(recipe: Recipe, heldout: dict) -> list[dict]:
    """The stream in parts of equal size; a teacher's rows are a stream of their own."""
    training = recipe.training_rows()
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

# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning: hyperparameter sets and a data set in, a set of parameters for each out."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count, islice
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from bort_jax.engine.optimizer import Hyper, check_numbers
from bort_jax.engine.parallel import replicate
from bort_jax.interop import Checkpoint
from bort_jax.model import (
    DTYPES,
    Classifier,
    head_loss,
    output_names,
    param_structs,
    random_like,
    row_outputs,
)
from bort_jax.stages.finetune.distillation import Distillation, distillation_loss, inherit_head
from bort_jax.stages.finetune.early_stopping import EarlyStopping, Tuned
from bort_jax.stages.finetune.group_size import members_at_once
from bort_jax.stages.finetune.groups import GroupTrainer, TuningJob
from bort_jax.stages.finetune.population import Member, Population
from bort_jax.stages.finetune.teacher_answers import TeacherAnswers
from bort_jax.stages.predict.forward import class_logits
from bort_jax.tasks import Points, head_decisions
from bort_jax.tasks.task import is_missing

COLUMNS = 16  # token rows are cut to a multiple of this


class Theta(NamedTuple):
    """One hyperparameter set θ of fine-tuning."""

    seed: int
    learning_rate: float
    weight_decay: float
    warmup_ratio: float
    batch_size: int


@dataclass(frozen=True)
class FinetuneRecipe:
    """Settings that all of Θ have in common.

    Attributes:
      steps: training steps, whatever the size of the data.
      epochs: instead of `steps`: passes over the data.
      dropout: everywhere BERT has it.
      dtype: `float32` or `bfloat16`, as in `BertConfig`.
      layer_decay: layer-wise learning-rate decay: each layer's rate is this share of the next
        one's (arXiv 1801.06146); 1: all have the same.
      class_weights: inverse-frequency class weights in the loss.
      distillation: the losses of a training with a teacher, to which every row has an answer; None:
        labels alone.
      at_once: members of a population that a device trains in one program, at the most; None: as
        `members_at_once` says.

    Raises:
      ValueError: a setting is outside its range.
    """

    steps: int = 0
    epochs: float = 0.0
    dropout: float = 0.1
    dtype: str = "float32"
    layer_decay: float = 1.0
    class_weights: bool = False
    distillation: Distillation | None = None
    at_once: int | None = None

    def __post_init__(self):
        if (self.steps > 0) == (self.epochs > 0):
            raise ValueError(f"give steps or epochs; got {self.steps} and {self.epochs:g}")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}; got {self.dtype!r}")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay must lie in (0, 1]; got {self.layer_decay:g}")
        check_numbers(self)
        if self.distillation:
            self.distillation.validate()

    def total_steps(self, theta: Theta, rows: int) -> int:
        return self.steps or max(1, round(self.epochs * -(-rows // theta.batch_size)))


@dataclass(frozen=True)
class FineTuner:
    """The program that turns (θ, points) into classifier parameters.

    One compilation serves every θ with the same batch size and every data set, for rates, decay,
    seeds and lengths of the run are traced. Each run is what it would be alone, to rounding.

    Attributes:
      start: the pretrained checkpoint; its encoder is kept, and its head where a teacher is learnt
        from and the head is one for the same labels.
      labels: names of the outputs: of the classes, or of the one number.
      head: `classification`, `regression` or `choice`.
      recipe: settings that all runs have in common.
      logits_fn: as `class_logits` builds it, which every other prediction uses too.
      trainer: trains populations.
    """

    start: Checkpoint
    labels: tuple[str, ...]
    head: str
    recipe: FinetuneRecipe
    logits_fn: Callable
    trainer: GroupTrainer

    @classmethod
    def of(
        cls,
        start: Checkpoint,
        labels: tuple[str, ...],
        *,
        head: str = "classification",
        **recipe,
    ) -> "FineTuner":
        """Builds the program.

        Args:
          labels: names of the classes; of no account for other heads.
          recipe: the fields of `FinetuneRecipe`.

        Raises:
          ValueError: an unknown head, a setting outside its range, or a checkpoint without a
            tokenizer.
        """
        given = FinetuneRecipe(**recipe)
        config = replace(start.config, dropout=given.dropout, dtype=given.dtype)
        names = output_names(head, labels)
        model, pad = Classifier(config, len(names)), start.required_tokenizer.special.pad

        loss = head_loss(model, head, pad=pad)
        if given.distillation:
            loss = distillation_loss(model, head, given.distillation, pad=pad)
        population = Population.of(
            loss,
            lambda params, ids: row_outputs(model, params, ids, pad=pad),
            layer_decay=given.layer_decay,
        )
        at_once = given.at_once or members_at_once(given.dropout, hidden=config.arch.hidden)
        return cls(
            start=replace(start, config=config),
            labels=names,
            head=head,
            recipe=given,
            logits_fn=class_logits(model, pad=pad),
            trainer=GroupTrainer(population, start.params["encoder"], at_once=at_once),
        )

    def fit(self, theta: Theta, points: Points) -> Any:
        """Trains a copy of the start with θ; returns a tree of numpy parameters."""
        return next(self.fit_all([theta], points))

    def fit_all(self, thetas: Sequence[Theta], points: Points) -> Iterator[Any]:
        """Trains a copy of the start with each θ; their parameters in the order of Θ.

        As many as the devices hold are trained together. Nothing is trained before it is asked for;
        what was trained together with it waits for its turn.
        """
        return (tuned.params for tuned in self.tune_all(thetas, points))

    def tune_all(
        self,
        thetas: Sequence[Theta],
        points: Points,
        *,
        stopping: EarlyStopping | None = None,
        answers: TeacherAnswers | None = None,
    ) -> Iterator[Tuned]:
        """As `fit_all`, perhaps with early stopping.

        Args:
          answers: the teacher's, where the recipe has a distillation, to points of which some may
            have no label.
        """
        points = points._replace(x=trim_columns(points.x, self._pad))
        ready: dict[int, Tuned] = {}
        for k, theta in enumerate(thetas):
            if k not in ready:
                size = theta.batch_size  # a program's batches have one shape
                alike = [j for j, other in enumerate(thetas) if other.batch_size == size]
                alike = [j for j in alike if j >= k and j not in ready]
                jobs = [self.job(thetas[j], points, answers=answers) for j in alike]
                ready |= zip(alike, self.trainer.first(jobs, stopping=stopping), strict=False)
            yield ready.pop(k)

    def job(
        self, theta: Theta, points: Points, *, answers: TeacherAnswers | None = None
    ) -> TuningJob:
        """The fine-tuning with θ, as a population's program takes it."""
        steps = self.recipe.total_steps(theta, len(points.y))
        hyper = Hyper.of(
            learning_rate=theta.learning_rate,
            weight_decay=theta.weight_decay,
            warmup_ratio=theta.warmup_ratio,
            total_steps=steps,
        )

        def member() -> Member:
            key = np.asarray(jax.random.key_data(jax.random.key(theta.seed)))
            return Member(hyper, key, self.first_head(theta.seed))

        weights = self.class_weights(points)
        batches = lambda: labelled_batches(points, theta, weights=weights, answers=answers)
        return TuningJob(member, batches, steps)

    def first_head(self, seed: int) -> Any:
        """Parameters of everything but the encoder: fresh ones, but for a student whose own answers
        are to become the teacher's."""
        inherited = inherit_head(self.start, self.labels, self.head)
        if self.recipe.distillation and inherited:
            return inherited
        structs = {k: v for k, v in self._structs.items() if k != "encoder"}
        return random_like(structs, seed=seed)

    def class_weights(self, points: Points) -> Float[np.ndarray, " c"] | None:
        """The weight of a row of each class: n / (c · rows of the class); None: all the same."""
        if not self.recipe.class_weights:
            return None
        labels = points.y[points.y >= 0]
        counts = np.bincount(labels, minlength=len(self.labels))
        present = (counts > 0).sum()
        return (len(labels) / (present * np.maximum(counts, 1))).astype(np.float32)

    def outputs(self, params, x: Int[np.ndarray, "*rows s"]) -> Float[np.ndarray, "m k"]:
        """The head's outputs, a line for each row of tokens."""
        return self.logits_fn(replicate(params), x)

    def predict(self, params, x: Int[np.ndarray, "*rows s"]) -> np.ndarray:
        """The most likely class or choice of each example, or its score; NaN where the training
        has diverged."""
        return head_decisions(self.outputs(params, x), self.head, count=len(x))

    def correct(self, params, points: Points) -> Bool[np.ndarray, " n"] | Float[np.ndarray, " n"]:
        """Which examples are predicted right; all NaN where the training has diverged."""
        return self.correct_outputs(self.outputs(params, points.x), points)

    def correct_outputs(
        self, outputs: Float[np.ndarray, "m k"], points: Points
    ) -> Bool[np.ndarray, " n"] | Float[np.ndarray, " n"]:
        """As `correct`, of outputs that are at hand."""
        predicted = head_decisions(outputs, self.head, count=len(points.x))
        return predicted if np.isnan(predicted).any() else predicted == points.y

    def accuracy(self, params, points: Points) -> float:
        """Share of examples that are predicted right; NaN where the training has diverged."""
        return float(self.correct(params, points).mean())

    def checkpoint(self, params, facts: Mapping[str, str]) -> Checkpoint:
        """The classifier in the family of the start; `facts` are for its model card."""
        return replace(
            self.start,
            params=params,
            labels=self.labels,
            headless=False,
            problem=self.head,
            facts={**self.start.facts, **facts},
            notes=(),
        )

    @property
    def _pad(self) -> int:
        return self.start.required_tokenizer.special.pad

    @cached_property
    def _structs(self) -> Any:
        return param_structs(Classifier(self.start.config, len(self.labels)))


def trim_columns(x: Int[np.ndarray, "*rows s"], pad: int) -> Int[np.ndarray, "*rows t"]:
    """Rows without the columns in which all are padding, kept to a multiple of COLUMNS."""
    used = np.flatnonzero((x != pad).reshape(-1, x.shape[-1]).any(axis=0))
    longest = int(used[-1]) + 1 if len(used) else 1
    return np.ascontiguousarray(x[..., : -(-longest // COLUMNS) * COLUMNS])


def labelled_batches(
    points: Points,
    theta: Theta,
    *,
    weights: Float[np.ndarray, " c"] | None = None,
    answers: TeacherAnswers | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Endless epochs, each a permutation from (seed, epoch); a last, short batch has weights 0.

    Args:
      weights: of a row of each class; None: 1.
      answers: a teacher's to all rows. A row's weight then stands in `label_weights`, 0 without a
        label, and `weights` say what is a row.
    """
    of_rows = row_weights(points.y, weights)
    for picked, real in row_batches(theta, len(points.y)):
        batch = {"ids": points.x[picked], "labels": points.y[picked]}
        if points.targets is not None:
            batch["targets"] = points.targets[picked]
        if answers:
            batch |= answers.take(picked) | {"label_weights": real * of_rows[picked]}
        yield batch | {"weights": real if answers else real * of_rows[picked]}


def row_batches(
    theta: Theta, n: int
) -> Iterator[tuple[Int[np.ndarray, " b"], Float[np.ndarray, " b"]]]:
    """The numbers of a batch's rows, of n, and 0 for those that only fill up a last one."""
    size = theta.batch_size
    for epoch in count():
        order = np.random.default_rng((theta.seed, epoch)).permutation(n)
        for start in range(0, n, size):
            real = (np.arange(size) < n - start).astype(np.float32)
            yield np.resize(order[start : start + size], size), real


def visited_rows(
    thetas: Sequence[Theta], n: int, *, recipe: FinetuneRecipe
) -> Int[np.ndarray, " m"]:
    """Which of n rows any of the trainings reads, ascending."""
    batches = (
        picked
        for theta in thetas
        for picked, _ in islice(row_batches(theta, n), recipe.total_steps(theta, n))
    )
    return np.unique(np.concatenate(list(batches)))


def row_weights(
    y: Int[np.ndarray, " n"] | Float[np.ndarray, " n"], weights: Float[np.ndarray, " c"] | None
) -> Float[np.ndarray, " n"]:
    """The weight of each row in the loss of labels; 0 where it has none."""
    of_rows = np.ones(len(y), np.float32) if weights is None else weights[y]
    return np.where(np.array([is_missing(label) for label in y]), 0, of_rows).astype(np.float32)

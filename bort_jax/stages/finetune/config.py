# SPDX-License-Identifier: Apache-2.0
"""The options of a fine-tuning, what is wrong with them, and what they are made of."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bort_jax.engine.joining import Joining
from bort_jax.interop import Checkpoint
from bort_jax.stages.finetune.early_stopping import EarlyStopping
from bort_jax.stages.finetune.tuner import FineTuner, Theta
from bort_jax.tasks import Examples, Points, Task, TaskOptions, find_task, headline

SCORES = {"validation": "best_validation", "test": "test"}  # on the model card


@dataclass(frozen=True)
class Config(TaskOptions, Joining):
    """A fine-tuning. Lists are written [a,b]; what may be a list is tried with every other.

    Attributes:
      tasks: instead of `task`: several test sets, each in a folder of its own below `out`.
      model: checkpoint folder to start from.
      init_from: a fine-tuned model to start from instead, under a fresh head, as RTE, MRPC, STS-B
        and CB may from MNLI's; with `tasks`, for those of them alone.
      out: run folder; the best classifier is written to `OUT/model`.
      steps: gradient steps of each fine-tuning, whatever the size of the data.
      epochs: instead of `steps`: passes over the train split.
      batch_size: rows (questions of a task with choices) in a step, or a list.
      seq_len: tokens in a row; longer texts are cut.
      learning_rates: peaks to try.
      seeds: of head, order and dropout; the spread over them is reported.
      weight_decay: decoupled; one, or a list.
      warmup_ratio: share of the steps with a rising rate; one, or a list.
      dropout: everywhere BERT has it.
      dtype: of the operands of products: float32 or bfloat16, faster where the device has units
        for it.
      layer_decay: the rate of each layer is this share of the rate of the next; 1: all the same.
      balance: rows of rare classes weigh more, so that all classes weigh the same.
      patience: end a run after so many evaluations without a new best, and keep its best; 0: go on
        to the last step and keep that.
      evaluate_every: steps from one evaluation to the next, where there is patience.
    """

    tasks: tuple[str, ...] = ()
    model: str = ""
    init_from: str = ""
    out: str = "runs/finetune"
    steps: int = 500
    epochs: float = 0.0
    batch_size: int | tuple[int, ...] = 16
    seq_len: int = 128
    learning_rates: tuple[float, ...] = (1e-4,)
    seeds: tuple[int, ...] = (0,)
    weight_decay: float | tuple[float, ...] = 0.01
    warmup_ratio: float | tuple[float, ...] = 0.1
    dropout: float = 0.1
    dtype: str = "float32"
    layer_decay: float = 1.0
    balance: bool = False
    patience: int = 0
    evaluate_every: int = 50


def stop_rule(config: Config, dev: "HeldOut", scores_fn) -> EarlyStopping | None:
    if not config.patience:
        return None
    score_fn = lambda outputs: headline(scores_fn(outputs))
    return EarlyStopping(dev.x, score_fn, config.evaluate_every, config.patience)


def tuner_of(config: Config, task: Task, start: Checkpoint) -> FineTuner:
    return FineTuner.of(
        start,
        task.labels,
        head=task.head,
        steps=0 if config.epochs else config.steps,
        epochs=config.epochs,
        dropout=config.dropout,
        dtype=config.dtype,
        layer_decay=config.layer_decay,
        balance=config.balance,
    )


HEADS = ("classification", "regression", "choice")


def trainable(config: TaskOptions, *, heads: Sequence[str] = HEADS[:1]) -> Task:
    """The task; raises ValueError where it has no train split or not one of the `heads`."""
    task = config.record()
    if task.head not in heads:
        raise ValueError(
            f"{task.name or 'the task'} needs a {task.head} head; here it must be "
            f"{' or '.join(heads)}"
        )
    if task.scored_by and not task.rows[0]:
        raise ValueError(
            f"{task.name} has no train split: the model of {task.scored_by} predicts it"
        )
    return task


def check_settings(config: Config, task: Task) -> None:
    """Raises ValueError where settings do not go together, before anything is read."""
    starting_point(config, task)
    if not thetas(config):
        raise ValueError("learning_rates and seeds must each name at least one value")
    if config.balance and task.head != "classification":
        raise ValueError(f"balance is of classes; {task.name or 'the task'} has a {task.head} head")
    if config.patience and config.evaluate_every < 1:
        raise ValueError(f"evaluate_every must be at least 1; got {config.evaluate_every}")


def starting_point(config: Config, task: Task) -> str:
    """The checkpoint folder that is trained further."""
    if config.model and config.init_from:
        raise ValueError("give one of --model and --init-from")
    if config.init_from and task.suite and not task.init_from:
        raise ValueError(f"{task.name} is not one of the tasks that start from another's model")
    return config.init_from or config.model


class HeldOut(NamedTuple):
    """Rows to score on: their examples, and their tokens `[n, s]`, or `[n, c, s]` for choices."""

    examples: Examples
    x: np.ndarray


def held_out(config: Config, split: str, tuner: FineTuner) -> HeldOut:
    examples = config.read(split)
    tokenizer = tuner.start.required_tokenizer
    return HeldOut(examples, examples.encode(tokenizer, seq_len=config.seq_len).x)


def encoded(config, split: str, tuner: FineTuner) -> Points:
    return config.read(split).encode(tuner.start.required_tokenizer, seq_len=config.seq_len)


def thetas(config: Config) -> list[Theta]:
    """Every combination, the seed last."""
    choices = map(
        as_list,
        (config.learning_rates, config.weight_decay, config.warmup_ratio, config.batch_size),
    )
    return [Theta(seed, *values) for *values, seed in product(*choices, config.seeds)]


def as_list(value) -> tuple:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def one_of_many(config: Config, reference: str) -> Config:
    """The fine-tuning of one of several tasks."""
    if config.task or config.data:
        raise ValueError("give one of --data FOLDER, --task SUITE/TASK and --tasks [SUITE/TASK,…]")
    task, folder = find_task(reference), reference.strip("/").replace("/", "-")
    from_another = bool(config.init_from and (task.init_from or not config.model))
    return replace(
        config,
        tasks=(),
        task=reference,
        out=str(Path(config.out) / folder),
        model="" if from_another else config.model,
        init_from=config.init_from if from_another else "",
    )

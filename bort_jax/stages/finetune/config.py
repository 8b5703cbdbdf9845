# SPDX-License-Identifier: Apache-2.0
"""The options of a fine-tuning, what is wrong with them, and what they are made into."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from bort_jax.engine.joining import Joining
from bort_jax.engine.optimizer import check_numbers
from bort_jax.stages.finetune.distillation import Distillation
from bort_jax.stages.finetune.tuner import FinetuneRecipe, Theta
from bort_jax.tasks import Task, TaskOptions, find_task

HEADS = ("classification", "regression", "choice")


@dataclass(frozen=True)
class Config(TaskOptions, Joining):
    """A fine-tuning. Lists are written [a,b]; every combination of them is trained.

    Attributes:
      tasks: instead of `task`: several test sets, each in a folder of its own below `out`.
      model: checkpoint folder to start from. Its head is left behind; with a teacher, one for the
        task's labels is kept.
      init_from: a fine-tuned model to start from instead, under a fresh head. RTE, MRPC, STS-B and
        CB may start from MNLI's; with `tasks`, only these do.
      out: run folder; the best model is written to `OUT/model`.
      steps: training steps of each run, whatever the size of the data.
      epochs: instead of `steps`: passes over the train split.
      batch_sizes: rows (questions of a task with choices) in a step.
      seq_len: tokens in a row; longer texts are cut.
      learning_rates: peaks of the schedule.
      seeds: of head, order of the rows and dropout; the spread over them is reported.
      weight_decays: decoupled, as in AdamW.
      warmup_ratios: share of the steps with a rising learning rate.
      dropout: everywhere BERT has it.
      dtype: of the operands of matrix products: float32, or bfloat16 where the device is faster
        with it.
      layer_decay: layer-wise learning-rate decay: each layer has this share of the next layer's
        rate; 1: none.
      class_weights: inverse-frequency class weights in the loss.
      teacher: checkpoint folder of a model that was fine-tuned on the task: distillation from its
        answers, computed once and kept in `OUT/teacher`, and from its last hidden states, where
        both have one tokenizer and one hidden size.
      unlabelled: text, or rows with the task's columns, that the teacher answers too; labels in it
        are not read.
      temperature: T of T²·KL(teacher ‖ student).
      label_weight: with a teacher, of the loss of labels; that of its answers has the weight 1.
      hidden_weight: with a teacher, of the error of the last hidden states.
      patience: early stopping: a run ends after so many evaluations without a new best, and keeps
        its best; 0: none.
      eval_every: steps from one evaluation to the next, with `patience`.
      score_test: score the best model on test; false: leave test to a later comparison.
    """

    tasks: tuple[str, ...] = ()
    model: str = ""
    init_from: str = ""
    out: str = "runs/finetune"
    steps: int = 500
    epochs: float = 0.0
    batch_sizes: tuple[int, ...] = (16,)
    seq_len: int = 128
    learning_rates: tuple[float, ...] = (1e-4,)
    seeds: tuple[int, ...] = (0,)
    weight_decays: tuple[float, ...] = (0.01,)
    warmup_ratios: tuple[float, ...] = (0.1,)
    dropout: float = 0.1
    dtype: str = "float32"
    layer_decay: float = 1.0
    class_weights: bool = False
    teacher: str = ""
    unlabelled: str = ""
    temperature: float = Distillation().temperature
    label_weight: float = Distillation().label_weight
    hidden_weight: float = Distillation().hidden_weight
    patience: int = 0
    eval_every: int = 50
    score_test: bool = True


def recipe(config: Config) -> FinetuneRecipe:
    """Raises ValueError where a setting is outside its range."""
    weights = (config.temperature, config.label_weight, config.hidden_weight)
    distillation = Distillation(*weights) if config.teacher else None
    return FinetuneRecipe(
        steps=0 if config.epochs else config.steps,
        epochs=config.epochs,
        dropout=config.dropout,
        dtype=config.dtype,
        layer_decay=config.layer_decay,
        class_weights=config.class_weights,
        distillation=distillation,
    )


def thetas(config: Config) -> list[Theta]:
    """Every combination, the seed last."""
    rates, decays = config.learning_rates, config.weight_decays
    every = product(rates, decays, config.warmup_ratios, config.batch_sizes, config.seeds)
    return [Theta(seed, rate, decay, ratio, size) for rate, decay, ratio, size, seed in every]


def check_settings(config: Config, task: Task) -> None:
    """Raises ValueError where settings do not go together, before anything is read."""
    starting_point(config, task)
    recipe(config)
    if not thetas(config):
        raise ValueError("every list of hyperparameters, such as seeds, must name a value")
    check_numbers(config)
    if config.class_weights and task.head != "classification":
        name = task.name or "the task"
        raise ValueError(f"class_weights are for classes; {name} has a {task.head} head")
    if config.unlabelled and not config.teacher:
        raise ValueError("unlabelled rows need a --teacher that answers them")
    if config.patience and config.eval_every < 1:
        raise ValueError(f"eval_every must be at least 1; got {config.eval_every}")


def starting_point(config: Config, task: Task) -> str:
    """The checkpoint folder that is trained further; raises ValueError where none is named."""
    if bool(config.model) == bool(config.init_from):
        raise ValueError("give one of --model and --init-from: the checkpoint that is fine-tuned")
    if config.init_from and task.suite and not task.init_from:
        raise ValueError(f"{task.name} is not one of the tasks that start from another's model")
    return config.init_from or config.model


def trainable(options: TaskOptions, *, heads: Sequence[str] = HEADS[:1]) -> Task:
    """The task; raises ValueError where it has no train split or not one of the `heads`."""
    task = options.record()
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


def one_of_many(config: Config, reference: str) -> Config:
    """The fine-tuning of one of several tasks."""
    if config.task or config.data:
        raise ValueError("give one of --data FOLDER, --task SUITE/TASK and --tasks [SUITE/TASK,…]")
    if config.teacher:
        raise ValueError("one --teacher answers one task: give --task SUITE/TASK")
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

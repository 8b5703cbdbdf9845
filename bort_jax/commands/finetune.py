# SPDX-License-Identifier: Apache-2.0
"""Every hyperparameter set with every seed, on one task or on several; the best on validation is
kept, the test split is scored once. The same command resumes: no finished run is done again. On
several hosts, start it on each, as `pretrain`: the runs are dealt out, the first process writes."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bort_jax.commands.joining import PLACE, Joining
from bort_jax.data.tasks import (
    Examples,
    Points,
    Task,
    TaskOptions,
    arranged,
    decide,
    find_task,
    headline,
    score,
)
from bort_jax.interop import Checkpoint, load, save
from bort_jax.report import page
from bort_jax.report.terminal import say, show_box, show_table
from bort_jax.train.finetune import FineTuner, Theta
from bort_jax.train.processes import kept_by_leader
from bort_jax.train.run_folder import claim, write_json
from bort_jax.train.tuning import Stopping

SCORES = {"validation": "best_validation", "test": "test"}  # on the model card
HEADER = ("learning rate", "decay", "warm-up", "batch", "validation mean", "std", "seeds")
RUNS = "runs.json"  # a record of each finished run


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


def run(config: Config) -> dict:
    config.join()
    with kept_by_leader(Path(config.out)) as out:
        here = replace(config, out=str(out))
        return run_many(here) if config.tasks else run_one(here)


def run_many(config: Config) -> dict:
    """One task after the other; a table of all at the end."""
    parts = {reference: one_of_many(config, reference) for reference in config.tasks}
    for part in parts.values():  # what is wrong with the last is said before the first is trained
        check_settings(part, trainable(part, heads=HEADS))
    summaries = {}
    for reference, part in parts.items():
        say(f"== {reference}")
        summaries[reference] = run_one(part)
    show_many(config, summaries)
    write_json(Path(config.out) / "results.json", summaries)
    return summaries


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


def run_one(config: Config) -> dict:
    """Trains what is left of the runs, and writes the best model, the results and a page."""
    task = trainable(config, heads=HEADS)
    check_settings(config, task)
    start = load(starting_point(config, task))
    check_length(config.seq_len, start)
    out = claim(config.out, config, free=("out", *PLACE))
    if (out / "results.json").is_file():
        return finished(out, " and ".join(task.metrics))
    tuner = tuner_of(config, task, start)
    train, dev = encoded(config, "train", tuner), held_out(config, "validation", tuner)
    runs = finish_runs(config, tuner, train=train, dev=dev, out=out)
    best = load(out / "model").params
    summary = {"best_validation": max(map(rank, runs)), "runs": runs, "by_set": by_set(runs)}
    test = held_out(config, "test", tuner) if config.has("test") else None
    if test and test.examples.labelled:  # leaderboards keep the labels: `submit` is for those
        outputs = tuner.outputs(best, test.x)
        summary["test_metrics"] = scores_of(outputs, task, examples=test.examples)
        summary["test"] = headline(summary["test_metrics"])
    save(tuner.checkpoint(best, facts_of(summary, config)), out / "model")
    write_json(out / "results.json", summary)
    show(summary, out, " and ".join(task.metrics))
    return summary


def finish_runs(
    config: Config, tuner: FineTuner, *, train: Points, dev: "HeldOut", out: Path
) -> list[dict]:
    """Records of all runs. Those on disk are read; the others are trained and each written there
    as it ends, the best model before its record."""
    task = config.record()
    scores_fn = lambda outputs: scores_of(outputs, task, examples=dev.examples)
    records = json.loads((out / RUNS).read_text()) if (out / RUNS).is_file() else []
    wanted = thetas(config)
    done = {json.dumps(record["theta"]) for record in records}
    left = [theta for theta in wanted if json.dumps(theta._asdict()) not in done]
    say(f"{len(train.y):,} train rows, {len(wanted)} runs" + f", {len(done)} done" * bool(done))
    best = max(map(rank, records), default=-np.inf)
    stopping = stop_rule(config, dev, scores_fn)
    tuned = tuner.tune_all(left, train, stopping=stopping)
    for theta, (params, steps) in zip(left, tuned, strict=True):
        scores = scores_fn(tuner.outputs(params, dev.x))
        record = {
            "theta": theta._asdict(),
            "steps": steps,
            "validation": headline(scores),
            "metrics": scores,
        }
        if rank(record) > best or not records:
            best = rank(record)
            save(tuner.checkpoint(params, {}), out / "model")
        records.append(record)
        write_json(out / RUNS, records)
        say(f"{len(records)} of {len(wanted)}: {told(theta)}: {record['validation']:.4f}")
    return records


def rank(record: dict) -> float:
    """The score on validation, below all others where it is none."""
    return float(np.nan_to_num(record["validation"], nan=-1e9))


def stop_rule(config: Config, dev: "HeldOut", scores_fn) -> Stopping | None:
    if not config.patience:
        return None
    score_fn = lambda outputs: headline(scores_fn(outputs))
    return Stopping(dev.x, score_fn, config.evaluate_every, config.patience)


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


def scores_of(outputs: np.ndarray, task: Task, *, examples: Examples) -> dict[str, float]:
    """The task's metrics of a head that has the task's own classes."""
    outputs = arranged(outputs, task, labels=task.labels)
    return score(decide(outputs, task, examples=examples), task, examples=examples)


def facts_of(summary: dict, config: Config) -> dict[str, str]:
    """What the model card says of the run."""
    metrics = " and ".join(config.record().metrics)
    scores = {name: summary[key] for name, key in SCORES.items() if key in summary}
    facts = {f"{metrics}, {name}": f"{100 * score:.1f} %" for name, score in scores.items()}
    best = max(summary["runs"], key=rank)
    rows = f"{best['theta']['batch_size']} rows of {config.source}"
    return facts | {"fine-tuned": f"{best['steps']} steps of {rows}"}


def finished(out: Path, metrics: str) -> dict:
    """The results of a run that was completed before."""
    say(f"{out} is finished; its results:")
    summary = json.loads((out / "results.json").read_text())
    show(summary, out, metrics)
    return summary


def check_length(seq_len: int, start) -> None:
    if seq_len > start.config.positions:
        raise ValueError(
            f"seq_len {seq_len} is longer than the model's {start.config.positions} positions"
        )


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


def told(theta: Theta) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in theta._asdict().items())


def by_set(runs: Sequence[dict]) -> list[dict]:
    """Mean and standard deviation over seeds for each hyperparameter set, the best first."""
    scores: dict[tuple, list[float]] = {}
    for run in runs:
        names = {name: value for name, value in run["theta"].items() if name != "seed"}
        scores.setdefault(tuple(names.items()), []).append(run["validation"])
    found = [dict(names) | spread(values) for names, values in scores.items()]
    return sorted(found, key=lambda row: -np.nan_to_num(row["mean"], nan=-1e9))


def spread(values: Sequence[float]) -> dict:
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return {"mean": float(np.mean(values)), "std": deviation, "seeds": len(values)}


def show(summary: dict, out: Path, metrics: str) -> None:
    rows = [tuple(row.values()) for row in summary["by_set"]]
    show_table(f"{metrics} on validation, over seeds", HEADER, rows)
    page.write_page(out / "report.html", "Fine-tuning", [page.table(HEADER, rows)])
    test = f", on test {summary['test']:.4f}" if "test" in summary else ""
    show_box(
        "fine-tuning",
        [
            f"best {metrics} on validation {summary['best_validation']:.4f}{test}",
            f"model: {out}/model (stock transformers loads it)",
            f"next: bort-jax evaluate --model {out}/model --data FILE",
        ],
    )


def show_many(config: Config, summaries: dict[str, dict]) -> None:
    """A line a task: its best hyperparameter set over seeds, and the best run."""
    header = ("task", "metrics", *HEADER, "best run", "test")
    rows = [
        (
            reference,
            " and ".join(find_task(reference).metrics),
            *summary["by_set"][0].values(),
            summary["best_validation"],
            summary.get("test", "–"),
        )
        for reference, summary in summaries.items()
    ]
    show_table("the best set of each task, mean over seeds, on validation", header, rows)
    page.write_page(Path(config.out) / "report.html", "Fine-tuning", [page.table(header, rows)])
    models = ",".join(f"{name}={one_of_many(config, name).out}/model" for name in summaries)
    data = f" --data-dir {config.data_dir}" if config.data_dir else ""
    show_box("fine-tuning", [f"{len(rows)} tasks: {config.out}/report.html"])
    say(f"next: bort-jax submit --models '[{models}]'{data} --partial")  # unbroken, to be copied

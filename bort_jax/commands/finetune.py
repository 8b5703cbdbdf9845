# SPDX-License-Identifier: Apache-2.0
"""Every rate with every seed; the best on validation is kept, the test split is scored once."""

import json
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bort_jax.data.tasks import (
    Examples,
    Points,
    Task,
    TaskOptions,
    arranged,
    decide,
    headline,
    score,
)
from bort_jax.interop import load, save
from bort_jax.report import page
from bort_jax.report.terminal import say, show_box, show_table
from bort_jax.train.finetune import FineTuner, Theta
from bort_jax.train.run_folder import claim, write_json

SCORES = {"validation": "best_validation", "test": "test"}  # on the model card


@dataclass(frozen=True)
class Config(TaskOptions):
    """A fine-tuning. Lists are written [a,b].

    Attributes:
      model: checkpoint folder to start from.
      init_from: a fine-tuned model to start from instead, under a fresh head, as RTE, MRPC, STS-B
        and CB may from MNLI's.
      out: run folder; the best classifier is written to `OUT/model`.
      steps: gradient steps of each fine-tuning, whatever the size of the data.
      batch_size: rows in a step.
      seq_len: tokens in a row; longer texts are cut.
      learning_rates: peaks to try.
      seeds: of head, order and dropout; the spread over them is reported.
      weight_decay: decoupled.
      warmup_ratio: share of the steps with a rising rate.
      dropout: everywhere BERT has it.
    """

    model: str = ""
    init_from: str = ""
    out: str = "runs/finetune"
    steps: int = 500
    batch_size: int = 16
    seq_len: int = 128
    learning_rates: tuple[float, ...] = (1e-4,)
    seeds: tuple[int, ...] = (0,)
    weight_decay: float = 0.01
    warmup_ratio: float = 0.1
    dropout: float = 0.1


def run(config: Config) -> dict:
    task = trainable(config)
    start = load(starting_point(config, task))
    check_length(config.seq_len, start)
    out = claim(config.out, config)
    if (out / "results.json").is_file():
        return finished(out, " and ".join(task.metrics))
    tuner = FineTuner.of(start, task.labels, steps=config.steps, dropout=config.dropout)
    train, dev = encoded(config, "train", tuner), held_out(config, "validation", tuner)
    say(
        f"{len(train.y):,} train rows: {config.steps * config.batch_size / len(train.y):.1f} epochs"
    )
    best, results = None, []
    for theta in thetas(config):
        params = tuner.fit(theta, train, title=f"rate {theta.learning_rate} seed {theta.seed}")
        scores = scores_of(tuner.logits_fn(params, dev.x), task, examples=dev.examples)
        results.append({**theta._asdict(), "validation": headline(scores), "metrics": scores})
        if best is None or headline(scores) > best[1]:
            best = (params, headline(scores))
    if best is None:
        raise ValueError("learning_rates and seeds must each name at least one value")
    summary = {"best_validation": best[1], "runs": results, "by_rate": by_rate(results)}
    test = held_out(config, "test", tuner) if config.has("test") else None
    if test and test.examples.labelled:  # leaderboards keep the labels: `submit` is for those
        outputs = tuner.logits_fn(best[0], test.x)
        summary["test_metrics"] = scores_of(outputs, task, examples=test.examples)
        summary["test"] = headline(summary["test_metrics"])
    facts = facts_of(summary, config)
    save(tuner.checkpoint(best[0], facts), out / "model")
    write_json(out / "results.json", summary)
    show(summary, out, " and ".join(task.metrics))
    return summary


def trainable(config: TaskOptions) -> Task:
    """The task; raises ValueError where it has no train split or another head than classes."""
    task = config.record()
    if task.head != "classification":
        raise ValueError(f"{task.name} needs a {task.head} head; only classes can be fine-tuned")
    if task.scored_by and not task.rows[0]:
        raise ValueError(
            f"{task.name} has no train split: the model of {task.scored_by} predicts it"
        )
    return task


def starting_point(config: Config, task: Task) -> str:
    """The checkpoint folder that is trained further."""
    if config.model and config.init_from:
        raise ValueError("give one of --model and --init-from")
    if config.init_from and task.suite and not task.init_from:
        raise ValueError(f"{task.name} is not one of the tasks that start from another's model")
    return config.init_from or config.model


class HeldOut(NamedTuple):
    """Rows to score on: their examples, and their tokens `[n, s]`."""

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
    rows = f"{config.batch_size} rows of {config.source}"
    return facts | {"fine-tuned": f"{config.steps} steps of {rows}"}


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
    return [
        Theta(seed, rate, config.weight_decay, config.warmup_ratio, config.batch_size)
        for rate, seed in product(config.learning_rates, config.seeds)
    ]


def by_rate(results: list[dict]) -> list[dict]:
    """Mean and standard deviation over seeds for each rate."""
    rates = sorted({result["learning_rate"] for result in results})
    scores = {
        rate: [r["validation"] for r in results if r["learning_rate"] == rate] for rate in rates
    }
    return [
        {"learning_rate": rate, "mean": float(np.mean(s)), "std": float(np.std(s)), "seeds": len(s)}
        for rate, s in scores.items()
    ]


def show(summary: dict, out: Path, metrics: str) -> None:
    header = ("learning rate", "validation mean", "std", "seeds")
    rows = [tuple(row.values()) for row in summary["by_rate"]]
    show_table(f"{metrics} on validation, over seeds", header, rows)
    page.write_page(out / "report.html", "Fine-tuning", [page.table(header, rows)])
    test = f", on test {summary['test']:.4f}" if "test" in summary else ""
    show_box(
        "fine-tuning",
        [
            f"best {metrics} on validation {summary['best_validation']:.4f}{test}",
            f"model: {out}/model (stock transformers loads it)",
            f"next: bort-jax evaluate --model {out}/model --data FILE",
        ],
    )

# SPDX-License-Identifier: Apache-2.0
"""Every rate with every seed; the best on validation is kept, the test split is scored once."""

import json
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from bort_jax.data.tasks import Points, TaskOptions
from bort_jax.interop import load, save
from bort_jax.report import page
from bort_jax.report.terminal import say, show_box, show_table
from bort_jax.train.finetune import FineTuner, Theta
from bort_jax.train.run_folder import claim, write_json

SCORES = {"accuracy, validation": "best_validation", "accuracy, test": "test"}  # on the model card


@dataclass(frozen=True)
class Config(TaskOptions):
    """A fine-tuning. Lists are written [a,b].

    Attributes:
      model: checkpoint folder to start from.
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
    start = load(config.model)
    check_length(config.seq_len, start)
    out = claim(config.out, config)
    if (out / "results.json").is_file():
        return finished(out)
    tuner = FineTuner.of(
        start, tuple(map(str, config.labels)), steps=config.steps, dropout=config.dropout
    )
    train, dev = encoded(config, "train", tuner), encoded(config, "validation", tuner)
    say(
        f"{len(train.y):,} train rows: {config.steps * config.batch_size / len(train.y):.1f} epochs"
    )
    best, results = None, []
    for theta in thetas(config):
        params = tuner.fit(theta, train, title=f"rate {theta.learning_rate} seed {theta.seed}")
        accuracy = tuner.accuracy(params, dev)
        results.append({**theta._asdict(), "validation": accuracy})
        if best is None or accuracy > best[1]:
            best = (params, accuracy)
    if best is None:
        raise ValueError("learning_rates and seeds must each name at least one value")
    summary = {"best_validation": best[1], "runs": results, "by_rate": by_rate(results)}
    if config.has("test"):
        summary["test"] = tuner.accuracy(best[0], encoded(config, "test", tuner))
    scores = {name: summary[key] for name, key in SCORES.items() if key in summary}
    facts = {name: f"{100 * score:.1f} %" for name, score in scores.items()}
    rows = f"{config.batch_size} rows of {Path(config.data).name}"
    facts["fine-tuned"] = f"{config.steps} steps of {rows}"
    save(tuner.checkpoint(best[0], facts), out / "model")
    write_json(out / "results.json", summary)
    show(summary, out)
    return summary


def finished(out: Path) -> dict:
    """The results of a run that was completed before."""
    say(f"{out} is finished; its results:")
    summary = json.loads((out / "results.json").read_text())
    show(summary, out)
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


def show(summary: dict, out: Path) -> None:
    header = ("learning rate", "validation mean", "std", "seeds")
    rows = [tuple(row.values()) for row in summary["by_rate"]]
    show_table("accuracy on validation, over seeds", header, rows)
    page.write_page(out / "report.html", "Fine-tuning", [page.table(header, rows)])
    test = f", on test {summary['test']:.4f}" if "test" in summary else ""
    show_box(
        "fine-tuning",
        [
            f"best accuracy on validation {summary['best_validation']:.4f}{test}",
            f"model: {out}/model (stock transformers loads it)",
            f"next: bort-jax evaluate --model {out}/model --data FILE",
        ],
    )

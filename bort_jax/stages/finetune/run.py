# SPDX-License-Identifier: Apache-2.0
"""Every hyperparameter set with every seed, on one task or on several."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from bort_jax.engine.joining import PLACE
from bort_jax.engine.processes import kept_by_leader
from bort_jax.interop import load, save
from bort_jax.report.terminal import say
from bort_jax.stages.finetune.config import (
    HEADS,
    SCORES,
    Config,
    HeldOut,
    check_settings,
    encoded,
    held_out,
    one_of_many,
    starting_point,
    stop_rule,
    thetas,
    trainable,
    tuner_of,
)
from bort_jax.stages.finetune.page import score_text, show, show_many, told
from bort_jax.stages.finetune.tuner import FineTuner
from bort_jax.stages.predict.outputs import check_length, scores_of
from bort_jax.storage.run_folder import claim, write_json
from bort_jax.tasks import Points, headline

RUNS = "runs.json"  # a record of each finished run


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
        record = {"theta": theta._asdict(), "steps": steps, **scored(scores)}
        if rank(record) > best:
            best = rank(record)
            save(tuner.checkpoint(params, {}), out / "model")
        records.append(record)
        write_json(out / RUNS, records)
        say(f"{len(records)} of {len(wanted)}: {told(theta)}: {score_text(record['validation'])}")
    if best == -np.inf:
        rates = ", ".join(f"{rate:g}" for rate in sorted({t.learning_rate for t in wanted}))
        raise ValueError(f"every run diverged, with learning rates {rates}: try smaller ones")
    return records


def scored(scores: dict[str, float]) -> dict:
    """The scores of a run as its record has them; none where it has diverged."""
    validation = headline(scores)
    if np.isnan(validation):
        return {"validation": None, "metrics": {}}
    return {"validation": validation, "metrics": scores}


def rank(record: dict) -> float:
    """The score on validation; of a run that has diverged below all others."""
    return -np.inf if record["validation"] is None else record["validation"]


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


def by_set(runs: Sequence[dict]) -> list[dict]:
    """Mean and standard deviation over seeds for each hyperparameter set, the best first.

    A set that diverged with one of its seeds has neither, and comes last.
    """
    scores: dict[tuple, list[float | None]] = {}
    for run in runs:
        names = {name: value for name, value in run["theta"].items() if name != "seed"}
        scores.setdefault(tuple(names.items()), []).append(run["validation"])
    found = [dict(names) | spread(values) for names, values in scores.items()]
    return sorted(found, key=lambda row: np.inf if row["mean"] is None else -row["mean"])


def spread(values: Sequence[float | None]) -> dict:
    finite = [value for value in values if value is not None]
    if len(finite) < len(values):
        return {"mean": None, "std": None, "seeds": len(values)}
    deviation = float(np.std(finite, ddof=1)) if len(finite) > 1 else 0.0
    return {"mean": float(np.mean(finite)), "std": deviation, "seeds": len(finite)}

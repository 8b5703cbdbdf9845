# SPDX-License-Identifier: Apache-2.0
"""Records of finished runs: each is written as it ends, so that no run is done twice."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bort_jax.interop import save
from bort_jax.report.terminal import say
from bort_jax.stages.finetune.early_stopping import EarlyStopping
from bort_jax.stages.finetune.page import score_text, theta_text
from bort_jax.stages.finetune.splits import Splits
from bort_jax.stages.finetune.teacher_answers import TeacherAnswers
from bort_jax.stages.finetune.tuner import FineTuner, Theta
from bort_jax.storage.checks import expect, explain_damage
from bort_jax.storage.files import write_json
from bort_jax.tasks import headline

RUNS = "runs.json"


def finish_runs(
    tuner: FineTuner,
    thetas: Sequence[Theta],
    splits: Splits,
    *,
    out: Path,
    stopping: EarlyStopping | None = None,
    answers: TeacherAnswers | None = None,
) -> list[dict]:
    """Records of all runs. Those in OUT/runs.json are read; the others are trained and written
    there one by one, the best model before its record.

    Raises:
      ValueError: every run diverged.
    """
    records = read_runs(out / RUNS)
    done = {json.dumps(record["theta"]) for record in records}
    left = [theta for theta in thetas if json.dumps(theta._asdict()) not in done]
    finished = f", {len(done)} done" if done else ""
    taught = f" with a teacher's answers ({answers.parts.folder})" if answers else ""
    say(f"{len(splits.train.y):,} train rows{taught}, {len(thetas)} runs{finished}")
    tuned = tuner.tune_all(left, splits.train, stopping=stopping, answers=answers)
    for theta, (params, steps) in zip(left, tuned, strict=True):
        scores = splits.dev.scores(tuner.outputs(params, splits.dev.x))
        record = {"theta": theta._asdict(), "steps": steps, **score_fields(scores)}
        if rank(record) > best_score(records):
            save(tuner.checkpoint(params, {}), out / "model")
        records.append(record)
        write_json(out / RUNS, records)
        result = score_text(record["validation"])
        say(f"{len(records)} of {len(thetas)}: {theta_text(theta)}: {result}")
    if best_score(records) == -np.inf:
        rates = ", ".join(f"{rate:g}" for rate in sorted({t.learning_rate for t in thetas}))
        raise ValueError(f"every run diverged, with learning rates {rates}: try smaller ones")
    return records


def read_runs(file: Path) -> list[dict]:
    """The records of finished runs, if there are any; ValueError where the file is damaged."""
    if not file.is_file():
        return []
    with explain_damage(file):
        records = json.loads(file.read_bytes())
        for record in records:
            sound = Theta(**record["theta"]) and rank(record) <= np.inf
            expect(sound and isinstance(record["metrics"], dict), f"{record} is no run")
    return records


def score_fields(scores: dict[str, float]) -> dict:
    """A record's scores; none where the run has diverged."""
    validation = headline(scores)
    if np.isnan(validation):
        return {"validation": None, "metrics": {}}
    return {"validation": validation, "metrics": scores}


def rank(record: dict) -> float:
    """The score on validation; of a run that has diverged below all others."""
    return -np.inf if record["validation"] is None else record["validation"]


def best_score(records: Sequence[dict]) -> float:
    return max(map(rank, records), default=-np.inf)


def summarise(records: Sequence[dict], test: dict[str, float] | None) -> dict:
    """The results: of all runs on validation, of the best one on test, where that is scored."""
    summary = {
        "best_validation": best_score(records),
        "runs": records,
        "by_set": by_set(records),
    }
    return summary | ({"test_metrics": test, "test": headline(test)} if test else {})


def by_set(records: Sequence[dict]) -> list[dict]:
    """Mean and standard deviation over seeds for each hyperparameter set, the best first.

    A set that diverged with one of its seeds has neither, and comes last.
    """
    scores: dict[tuple, list[float | None]] = {}
    for record in records:
        names = {name: value for name, value in record["theta"].items() if name != "seed"}
        scores.setdefault(tuple(names.items()), []).append(record["validation"])
    found = [dict(names) | over_seeds(values) for names, values in scores.items()]
    return sorted(found, key=lambda row: np.inf if row["mean"] is None else -row["mean"])


def over_seeds(values: Sequence[float | None]) -> dict:
    finite = [value for value in values if value is not None]
    if len(finite) < len(values):
        return {"mean": None, "std": None, "seeds": len(values)}
    deviation = float(np.std(finite, ddof=1)) if len(finite) > 1 else 0.0
    return {"mean": float(np.mean(finite)), "std": deviation, "seeds": len(finite)}


def model_card(summary: dict, *, metrics: str, source: str) -> dict[str, str]:
    """Facts for the model card: the best run's scores, and the steps and rows that made it."""
    scores = {"validation": summary["best_validation"], "test": summary.get("test")}
    facts = {
        f"{metrics}, {split}": f"{100 * score:.1f} %"
        for split, score in scores.items()
        if score is not None
    }
    best = max(summary["runs"], key=rank)
    rows = f"{best['theta']['batch_size']} rows of {source}"
    return facts | {"fine-tuned": f"{best['steps']} steps of {rows}"}

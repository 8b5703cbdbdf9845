# SPDX-License-Identifier: Apache-2.0
"""The end of a run: plain fine-tuning against Agora on what Agora never read."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bort_jax.agora import AgoraState, Uncast
from bort_jax.report.terminal import say
from bort_jax.stages.agora.material import Material
from bort_jax.stages.finetune.tuner import FineTuner, Theta
from bort_jax.storage.checks import expect, require_count
from bort_jax.tasks import Examples, Points, decide, score
from bort_jax.tasks.checker import check_zip, raise_problems
from bort_jax.tasks.submission import submission_lines, write_zip


def compare(
    tuner: FineTuner,
    state: AgoraState,
    material: Material,
    *,
    thetas: Mapping[str, Theta],
    seeds: Sequence[int],
    keep_fn: Callable[[Any], None],
) -> dict:
    """Scores plain fine-tuning and Agora with the same seeds and steps on report-dev and test.

    Plain trains on the given rows, Agora on the last set; the score of each is the mean over seeds.
    Test labels are read here and nowhere else.

    Args:
      thetas: the θ of `plain` and of `agora`.
      seeds: of the fine-tunings of each side.
      keep_fn: called with Agora's model that is best on steer-dev.

    Returns:
      for each side its θ, train rows, and by seed accuracies (of cast labels) and official scores
      on report-dev and test; no test scores where its labels are withheld.
    """
    splits = {"report": material.report.examples}
    if material.test and material.test.has_labels:
        splits["test"] = material.test
    held = {name: Held(rows, Points(*material.points(rows))) for name, rows in splits.items()}
    given = state.train.take(slice(state.given_rows))
    trained = {"plain": given._replace(targets=None), "agora": state.train}
    summary: dict = {"test_rows": len(held["test"].points.y) if "test" in held else 0}
    for side, data in trained.items():
        theta = thetas[side]
        params = list(tuner.fit_all([theta._replace(seed=k) for k in seeds], Points(*data)))
        scores = scores_of(tuner, params, material, held)
        summary[side] = {"theta": theta._asdict(), "train_rows": len(data.y), **scores}
        if side == "agora":
            steer = [tuner.accuracy(one, Points(*material.steer.points)) for one in params]
            keep_fn(params[int(np.nanargmax(steer))])
    return summary


def check_scores(summary: dict) -> None:
    """Raises KeyError, TypeError or ValueError where a kept file is not what `compare` returned."""
    rows = require_count(summary["test_rows"])
    for side in ("plain", "agora"):
        found = summary[side]
        require_count(found["train_rows"])
        expect(isinstance(found["theta"], dict), f"no θ of {side}")
        check_accuracies(found["report"])
        if rows:
            check_accuracies(found["test"])
        expect(rows > 0 or not found["test"], "scores of a test without rows")


def check_accuracies(scores: list) -> None:
    """Raises ValueError where there are none, or one is no fraction, nor NaN of a diverged fit."""
    known = [type(one) in (int, float) and (0 <= one <= 1 or np.isnan(one)) for one in scores]
    expect(bool(scores) and all(known), f"{scores!r} are no accuracies")


class Held(NamedTuple):
    """A split that Agora never read."""

    examples: Examples
    points: Points


def scores_of(
    tuner: FineTuner, models: Iterable, material: Material, held: Mapping[str, Held]
) -> dict[str, list]:
    """Accuracies and official scores of each model on each split."""
    found: dict = {"report": [], "test": [], "report_scores": [], "test_scores": []}
    for params in models:
        for name, (examples, points) in held.items():
            outputs = tuner.outputs(params, points.x)
            found[name].append(float(tuner.correct_outputs(outputs, points).mean()))
            found[f"{name}_scores"].append(official_scores(outputs, material, examples))
    return found


def official_scores(
    outputs: np.ndarray, material: Material, examples: Examples
) -> dict[str, float]:
    """The task's own metrics; none where it was cast into another task."""
    if not isinstance(material.cast, Uncast):
        return {}
    predicted = decide(outputs, material.task, examples=examples)
    return score(predicted, material.task, examples=examples)


def write_submission(out: Path, tuner: FineTuner, params, material: Material) -> None:
    """Writes and checks the leaderboard's file of a test split whose labels are withheld."""
    task, test = material.task, material.test
    if not test or test.has_labels or not task.form.file or not isinstance(material.cast, Uncast):
        return
    outputs = tuner.outputs(params, material.points(test).x)
    lines = submission_lines(decide(outputs, task, examples=test), task, examples=test)
    file = write_zip(out / "submission" / f"{task.suite}.zip", {task.form.file: lines})
    raise_problems(check_zip(file, [task], examples={task.form.file: test}))
    say(f"{file}: {task.form.file} by the best model, to be merged with the suite's other files")

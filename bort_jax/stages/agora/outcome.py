# SPDX-License-Identifier: Apache-2.0
"""The end of a run: plain fine-tuning against Agora on what Agora never read."""

from pathlib import Path

import numpy as np

from bort_jax.agora import AgoraState, Uncast
from bort_jax.report.terminal import say
from bort_jax.stages.agora.material import Material
from bort_jax.stages.agora.models import full_theta
from bort_jax.stages.finetune.tuner import FineTuner
from bort_jax.tasks import Examples, Points, decide, score
from bort_jax.tasks.checker import check_zip, raise_problems
from bort_jax.tasks.submission import submission_lines, write_zip


def compare(config, tuner: FineTuner, state: AgoraState, *, material: Material) -> dict:
    """Plain fine-tuning and Agora with the same seeds, steps and Θ, on report-dev and test.

    Each side uses the θ that steer-dev chose for it: plain the best of round 1, which is
    fine-tuning with all of Θ, and Agora the best of all rounds. Test labels are read here and
    nowhere else.

    Returns:
      for each side its θ, train rows, and by seed accuracies (of cast labels) and official scores
      on report-dev and test; no test scores where its labels are withheld.
    """
    splits = {"report": material.report.examples}
    if material.test and material.test.labelled:
        splits["test"] = material.test
    points = {name: material.points(examples) for name, examples in splits.items()}
    given = Points(*(part[: state.given] for part in state.train))
    sides = {
        "plain": (state.rounds[0].best, given),
        "agora": (state.champion.theta, Points(*state.best_train)),
    }
    summary: dict = {"test_rows": len(points["test"].y) if "test" in points else 0}
    for side, (theta, data) in sides.items():
        chosen = full_theta(theta, config)
        found: dict = {"report": [], "test": [], "report_scores": [], "test_scores": []}
        for seed in config.final_seeds:
            params = tuner.fit(chosen._replace(seed=seed), data)
            for name, held in points.items():
                found[name].append(tuner.accuracy(params, Points(*held)))
                outputs = tuner.outputs(params, held.x)
                found[f"{name}_scores"].append(official(outputs, material, splits[name]))
        summary[side] = {"theta": chosen._asdict(), "train_rows": len(data.y), **found}
    return summary


def official(outputs: np.ndarray, material: Material, examples: Examples) -> dict[str, float]:
    """The task's own metrics; none of a task that was cast into another."""
    if not isinstance(material.cast, Uncast):
        return {}
    predicted = decide(outputs, material.task, examples=examples)
    return score(predicted, material.task, examples=examples)


def submission(out: Path, tuner: FineTuner, params, *, material: Material) -> None:
    """A test split whose labels are withheld gets the leaderboard's file in a zip, checked."""
    task, test = material.task, material.test
    if not test or test.labelled or not task.form.file or not isinstance(material.cast, Uncast):
        return
    outputs = tuner.outputs(params, material.points(test).x)
    lines = submission_lines(decide(outputs, task, examples=test), task, examples=test)
    file = write_zip(out / "submission" / f"{task.suite}.zip", {task.form.file: lines})
    raise_problems(check_zip(file, [task], examples={task.form.file: test}))
    say(f"{file}: {task.form.file} by the best model, to be merged with the suite's other files")

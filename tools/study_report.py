# SPDX-License-Identifier: Apache-2.0
"""Tables, pictures and submissions of the finished draws of `agora_study.py`."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from bort_jax.report.paired import Scores, gain, with_mean
from bort_jax.report.plots import BLUE, GREEN, GREY, ORANGE
from bort_jax.report.terminal import say, show_table
from bort_jax.tasks import find_task, headline, read_task
from bort_jax.tasks.checker import check_zip
from bort_jax.tasks.submission import write_zip

ARMS = ("plain", "distillation", "random", "Agora", "dev appended")
PAIRS = (
    ("Agora", "plain"),
    ("distillation", "plain"),
    ("random", "plain"),
    ("dev appended", "plain"),
    ("Agora", "distillation"),
    ("Agora", "random"),
)
SPLITS = ("held-out", "report-dev")


def sentence(found: dict) -> str:
    """A seed in one line, without the held-out rows: settings are not to be chosen by them."""
    of = lambda scored: f"{headline(scored['report-dev']):.3f}"
    scores = ", ".join(f"{arm} {of(found['arms'][arm])}" for arm in ARMS)
    about = f"{found['spent']} fine-tunings an arm, {found['budget']} points added"
    return f"report-dev: {scores}; Socrates {of(found['Socrates'])}; {about}"


def report(results: Mapping[str, list[dict]], out: Path) -> None:
    """The tables so far, and the picture."""
    for split in SPLITS:
        scores = {reference: points_by_arm(found, split) for reference, found in results.items()}
        show_table(f"{split}, points", ("task", *ARMS), mean_rows(scores, ARMS))
        pairs = [f"{ours} − {theirs}" for ours, theirs in PAIRS]
        show_table(f"{split}, paired differences", ("task", *pairs), gain_rows(scores, PAIRS))
        drawn = gains(scores, over="plain", ylabel=f"points above plain, {split}")
        drawn.savefig(out / f"gains-{split}.png", dpi=110, bbox_inches="tight")


def points_by_arm(found: Sequence[dict], split: str) -> dict[str, list[float]]:
    """The task's headline metric, by seed, in points."""
    return {arm: [100 * headline(one["arms"][arm][split]) for one in found] for arm in ARMS}


def write_submissions(
    out: Path, references: Sequence[str], *, data_dir: str, seeds: Sequence[int]
) -> None:
    """A zip for each arm, seed and suite, checked against the test splits.

    Raises:
      ValueError: the checker finds something wrong with one.
    """
    tasks = {reference: find_task(reference) for reference in references}
    tests = {r: read_task(task, data_dir, "test") for r, task in tasks.items()}
    for seed in seeds:
        kept = {r: _lines_of(out, r, seed) for r in tasks}
        for arm in ARMS:
            for suite in dict.fromkeys(task.suite for task in tasks.values()):
                mine = {r: task for r, task in tasks.items() if task.suite == suite}
                lines = {task.form.file: kept[r][arm] for r, task in mine.items()}
                file = out / "submissions" / f"{arm.replace(' ', '-')}-seed-{seed}" / f"{suite}.zip"
                examples = {task.form.file: tests[r] for r, task in mine.items()}
                problems = check_zip(write_zip(file, lines), list(mine.values()), examples=examples)
                if problems:
                    raise ValueError(f"{file}: {problems[0]}")
    say(f"{out}/submissions: {len(seeds) * len(ARMS)} submissions, nothing wrong with them")


def _lines_of(out: Path, reference: str, seed: int) -> dict[str, list[str]]:
    return json.loads((out / reference.replace("/", "-") / f"seed-{seed}.lines").read_text())


def gains(scores: Scores, *, over: str, ylabel: str):
    """Draws the gains of each arm over one of them, by task, with 95 % intervals over seeds."""
    drawn, axis = plt.subplots(figsize=(10, 4.2))
    tasks = with_mean(scores)
    arms = [arm for arm in next(iter(tasks.values())) if arm != over]
    for place, (arm, color) in enumerate(zip(arms, (BLUE, ORANGE, GREY, GREEN), strict=False)):
        found = [gain(task[arm], task[over]) for task in tasks.values()]
        axis.errorbar(
            np.arange(len(found)) + 0.16 * (place - (len(arms) - 1) / 2),
            [one.mean for one in found],
            [one.margin for one in found],
            fmt="o", color=color, capsize=3, label=arm,
        )  # fmt: skip
    axis.axhline(0, color="black", linewidth=0.8)
    axis.set_xticks(range(len(tasks)), list(tasks))
    axis.set_ylabel(ylabel)
    axis.grid(axis="y", alpha=0.25)
    axis.legend(frameon=False, ncols=len(arms), loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return drawn


def mean_rows(scores: Scores, arms: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """For each task mean ± standard deviation of each arm."""
    for task, found in with_mean(scores).items():
        values = [np.asarray(found[arm]) for arm in arms]
        yield task, *(f"{value.mean():.1f} ± {value.std(ddof=1):.1f}" for value in values)


def gain_rows(scores: Scores, pairs: Sequence[tuple[str, str]]) -> Iterator[tuple[str, ...]]:
    """For each task the gain of the first of each pair over the second."""
    for task, found in with_mean(scores).items():
        yield task, *(str(gain(found[ours], found[theirs])) for ours, theirs in pairs)

# SPDX-License-Identifier: Apache-2.0
"""What `agora_study.py` prints and writes of the draws that are finished."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from bort_jax.data.tasks import find_task, headline, read_task
from bort_jax.data.tasks.checker import check_zip
from bort_jax.data.tasks.submission import write_zip
from bort_jax.report import plots
from bort_jax.report.paired import gain_rows, mean_rows
from bort_jax.report.terminal import say, show_table

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
        drawn = plots.gains(scores, over="plain", ylabel=f"points above plain, {split}")
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

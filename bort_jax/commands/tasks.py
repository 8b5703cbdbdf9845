# SPDX-License-Identifier: Apache-2.0
"""`list`: the 23 test sets. `check`: what of them a data folder has, and what is wrong with it."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bort_jax.report.terminal import say, show_table
from bort_jax.suggest import nearest
from bort_jax.tasks import TASKS, Task, suite_tasks
from bort_jax.tasks.suites import other_folders
from bort_jax.tasks.survey import Survey, survey

POSITIONAL = {"action": "list or check"}
ACTIONS = ("list", "check")


@dataclass(frozen=True)
class Config:
    """The test sets to list or check. Lists are written [a,b].

    Attributes:
      action: `list` or `check`.
      data_dir: folder that holds them as SUITE/TASK/SPLIT.parquet (or .jsonl, .csv), for `check`.
      suites: glue, superglue or race; the others are left out.
    """

    action: str
    data_dir: str = ""
    suites: tuple[str, ...] = ()


def run(config: Config) -> list[Survey]:
    """The surveys of `check`, nothing of `list`; raises ValueError where something is wrong."""
    for suite in config.suites:
        suite_tasks(suite)  # raises where there is none of that name
    if config.action == "list":
        show_list([t for t in TASKS.values() if not config.suites or t.suite in config.suites])
        return []
    if config.action != "check":
        raise ValueError(f"no action {config.action!r}{nearest(config.action, ACTIONS)}")
    if not Path(config.data_dir or "no folder").is_dir():
        raise ValueError(f"check wants --data-dir FOLDER; {config.data_dir!r} is none")
    return check(config)


def show_list(tasks: Iterable[Task]) -> None:
    header = ("task", "name", "train", "validation", "test", "metrics", "head", "files", "model of")
    rows = [
        (
            task.reference,
            task.name,
            *task.rows,
            ", ".join(task.metrics),
            f"{task.outputs} classes" if task.head == "classification" else task.head,
            ", ".join(task.place.folders),
            task.scored_by,
        )
        for task in tasks
    ]
    title = "the test sets: official sizes; files are DATA_DIR/SUITE/FOLDER/SPLIT.parquet"
    show_table(title, header, rows)


def check(config: Config) -> list[Survey]:
    """Prints a line a task and every problem; raises ValueError if there is any."""
    found = list(survey(config.data_dir, suites=config.suites))
    by_task: dict[tuple, list[Survey]] = {}
    for part in found:
        by_task.setdefault((part.task.reference, part.task.place.folders), []).append(part)
    header = ("task", "train", "validation", "test", "files")
    show_table(f"{config.data_dir}", header, map(table_row, by_task.values()))
    for folder in other_folders(config.data_dir)[1]:
        say(f"{config.data_dir}/{folder}: belongs to no task")
    problems = [problem for part in found for problem in part.problems]
    for problem in problems:
        say(problem)
    if problems:
        raise ValueError(f"{config.data_dir}: {len(problems)} problems, listed above")
    say(f"{sum(p.file is not None for p in found)} splits are there, nothing wrong with them")
    return found


def table_row(parts: list[Survey]) -> tuple[str, ...]:
    cells = {part.split: cell(part) for part in parts}
    files = sorted({str(part.file.parent) for part in parts if part.file})
    splits = [cells.get(split, "") for split in ("train", "validation", "test")]
    return (parts[0].task.reference, *splits, ", ".join(files))


def cell(part: Survey) -> str:
    """The number of rows, and the official one where that is another."""
    official = part.task.rows[("train", "validation", "test").index(part.split)]
    if part.file is None:
        return "missing"
    rows = f"{part.rows:,}" + (f" of {official:,}" if part.rows != official else "")
    return rows + (", no labels" if part.rows and part.unlabelled == part.rows else "")

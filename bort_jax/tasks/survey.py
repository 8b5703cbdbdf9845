# SPDX-License-Identifier: Apache-2.0
"""Surveys a data folder: which of the 23 test sets it has, and what is wrong with them."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bort_jax.tasks.read import find_file, read_row, row_filter, rows_of
from bort_jax.tasks.suites import TASKS, other_folders
from bort_jax.tasks.task import SPLITS, Item, Task, is_missing

SHOWN = 5  # problems of a file that are told one by one


class Survey(NamedTuple):
    """A split of a task as it was found.

    Attributes:
      task: the task; of a variant its folder is the only one.
      split: train, validation or test.
      file: its file; None where it is missing.
      rows: rows of the task in it.
      unlabelled: rows without a label.
      problems: what is wrong, a sentence each; each names the file and the row.
    """

    task: Task
    split: str
    file: Path | None = None
    rows: int = 0
    unlabelled: int = 0
    problems: tuple[str, ...] = ()


def survey(data_dir: str | Path, *, suites: tuple[str, ...] = ()) -> Iterator[Survey]:
    """Reads every split of every task and of its variants, one by one.

    Args:
      suites: leave the others out; none: all of them.
    """
    variants, _ = other_folders(data_dir)
    for task in (*TASKS.values(), *variants):
        if not suites or task.suite in suites:
            official = dict(zip(SPLITS, task.rows, strict=True))
            yield from (survey_split(task, data_dir, s) for s in SPLITS if official[s])


def survey_split(task: Task, data_dir: str | Path, split: str) -> Survey:
    """Reads a split as training and scoring would, and goes on after what is wrong."""
    try:
        file = find_file(task, data_dir, split)
    except FileNotFoundError:
        return Survey(task, split)
    rows = unlabelled = wrong = 0
    problems: list[str] = []
    ids: dict = {}
    try:
        for where, row in rows_of(file, task, keep=row_filter(task, data_dir, split)):
            rows += 1
            try:
                items, label = read_row(where, row, task, required=split != "test")
            except ValueError as error:
                wrong += 1
                problems += [str(error)] * (wrong <= SHOWN)
                continue
            unlabelled += all(is_missing(label if i.label is None else i.label) for i in items)
            if split == "test":
                problems += _id_faults(items, task, where, ids)
    except ValueError as error:  # the file breaks off here
        problems.append(str(error))
    more = [f"{file}: {wrong - SHOWN:,} more rows like these"] if wrong > SHOWN else []
    return Survey(task, split, file, rows, unlabelled, (*problems[: 2 * SHOWN], *more))


def _id_faults(items: list[Item], task: Task, where: str, ids: dict) -> list[str]:
    """A test row whose id a submission file could not tell from another's."""
    key = items[0].key.id
    if key is None:
        return [f"{where}: no column 'idx', which the submission file needs"] if not ids else []
    if key in ids and task.form.layout != "race":
        return [f"{where}: id {key} is that of {ids[key]}"]
    ids[key] = where
    return []

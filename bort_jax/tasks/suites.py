# SPDX-License-Identifier: Apache-2.0
"""The 23 test sets, found by name."""

from dataclasses import replace
from pathlib import Path

from bort_jax.suggest import nearest
from bort_jax.tasks import glue, race, superglue
from bort_jax.tasks.task import Task

TASKS = {task.reference: task for task in (*glue.TASKS, *superglue.TASKS, *race.TASKS)}
SUITES = tuple(dict.fromkeys(task.suite for task in TASKS.values()))


def suite_tasks(suite: str) -> list[Task]:
    """The tasks of a suite, in the order of the papers.

    Raises:
      ValueError: no such suite.
    """
    if suite not in SUITES:
        raise ValueError(f"no suite {suite!r}{nearest(suite, SUITES)}")
    return [task for task in TASKS.values() if task.suite == suite]


def find_task(reference: str) -> Task:
    """The task that `suite/name` means.

    The name is that of the table (`glue/sst2`), of the papers (`glue/SST-2`), or of a folder of the
    data that begins with either (`glue/sst2_sentences`): the same task with other files.
    `glue/mnli` is MNLI-m, which shares its train split with MNLI-mm.

    Raises:
      ValueError: no such task; the message has the nearest and all of them.
    """
    suite, _, name = reference.strip("/").partition("/")
    tasks = [task for task in TASKS.values() if task.suite == suite]
    for task in tasks:
        if name.lower() in (task.key, task.name.lower()):
            return task
    folders = [(folder, task) for task in tasks for folder in task.place.folders if folder != "."]
    # The longest name first, so `mnli_matched_small` is not a variant of `mnli`.
    for folder, task in sorted(folders, key=lambda pair: -len(pair[0])):
        if name == folder:
            return task
        if name.startswith(folder + "_"):
            return variant(task, name)
    raise ValueError(f"no task {reference!r}{nearest(reference, TASKS)}")


def variant(task: Task, folder: str) -> Task:
    """The task with its files in another folder."""
    return replace(task, place=replace(task.place, folders=(folder,)))


def other_folders(data_dir: str | Path) -> tuple[list[Task], list[str]]:
    """Folders beside the usual ones: variants of tasks, and those that belong to none."""
    usual = {(task.suite, folder) for task in TASKS.values() for folder in task.place.folders}
    places = [(suite, place.name) for suite in SUITES for place in Path(data_dir, suite).glob("*/")]
    found, unknown = [], []
    for suite, folder in sorted(set(places) - usual):
        try:
            found.append(find_task(f"{suite}/{folder}"))
        except ValueError:
            unknown.append(f"{suite}/{folder}")
    return found, unknown

# SPDX-License-Identifier: Apache-2.0
"""The leaderboards' files: predicted and written, one zip a suite, or checked."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from zipfile import ZipFile

from bort_jax.interop import read
from bort_jax.report.terminal import say
from bort_jax.stages.predict.outputs import check_length, outputs_fn
from bort_jax.tasks import Examples, Task, decide, find_file, find_task, read_task, suite_tasks
from bort_jax.tasks.checker import UNREADABLE, check_file, check_zip, raise_problems
from bort_jax.tasks.submission import submission_lines, write_zip
from bort_jax.tasks.suites import SUITES, TASKS


class Predicted(NamedTuple):
    """A task, the checkpoint folder that predicts it, and whether the user named the task."""

    task: Task
    model: str
    named: bool


def tasks_to_predict(models: Sequence[str]) -> list[Predicted]:
    """Every task that can be predicted, in the order of the table.

    Args:
      models: TASK=CHECKPOINT. A diagnostic set has the model of the task that it belongs to, unless
        it is named itself.

    Raises:
      ValueError: an entry is not TASK=CHECKPOINT, or a task has two.
    """
    given: dict[str, Predicted] = {}
    for entry in models:
        reference, equals, folder = entry.partition("=")
        if not (equals and folder):
            raise ValueError(f"--models wants TASK=CHECKPOINT, got {entry!r}")
        task = find_task(reference)
        if task.reference in given:
            raise ValueError(f"--models names {task.name} of {task.suite} twice")
        given[task.reference] = Predicted(task, folder, named=True)
    found = []
    for reference, task in TASKS.items():
        if reference in given:
            found.append(given[reference])
        elif task.scored_by in given:
            found.append(Predicted(task, given[task.scored_by].model, named=False))
    return found


def drop_missing(tasks: Sequence[Predicted], data_dir: str, *, partial: bool) -> list[Predicted]:
    """The tasks whose test split is there, before any is predicted.

    With `partial`, a diagnostic set that only comes along with another task's model may be missing.

    Raises:
      FileNotFoundError: a test split is missing.
    """
    found = []
    for one in tasks:
        try:
            if data_dir:
                find_file(one.task, data_dir, "test")
            found.append(one)
        except FileNotFoundError as missing:
            if one.named or not partial:
                raise
            say(f"left out: {missing}")
    return found


def check_complete(suite: str, tasks: Sequence[Predicted]) -> None:
    """Refuses a suite with gaps before anything is predicted."""
    present = {one.task.reference for one in tasks}
    missing = [task.name for task in suite_tasks(suite) if task.reference not in present]
    if missing:
        raise ValueError(
            f"the leaderboard of {suite} wants all its files; there is no model for "
            f"{', '.join(missing)}: name them in --models, or give --partial"
        )


def write_suite(
    suite: str, tasks: Sequence[Predicted], *, data_dir: str, out: Path, seq_len: int
) -> Path:
    """Predicts the suite's tasks, writes its zip, and checks the zip."""
    lines, examples = {}, {}
    tasks = [one for one in tasks if one.task.suite == suite]
    for task, model, _ in tasks:
        say(f"{task.suite}/{task.name} by {model}")
        name = task.form.file
        examples[name] = read_task(task, data_dir, "test")
        lines[name] = prediction_lines(task, model, examples[name], seq_len=seq_len)
    file = write_zip(out / f"{suite}.zip", lines)
    raise_problems(check_zip(file, [one.task for one in tasks], examples=examples))
    return file


def prediction_lines(task: Task, model: str, examples: Examples, *, seq_len: int) -> list[str]:
    checkpoint = read(model)
    check_length(seq_len, checkpoint)
    outputs = outputs_fn(checkpoint, task, seq_len=seq_len)(examples)
    return submission_lines(decide(outputs, task, examples=examples), task, examples=examples)


def check_submission(
    file: Path, *, data_dir: str, variants: Sequence[str] = (), partial: bool = False
) -> None:
    """Checks a zip against its suite, or a file by its name; raises ValueError for what is wrong.

    Args:
      data_dir: folder with the test splits; without one, official numbers of rows count.
      variants: tasks whose test split is not in the usual folder.
      partial: whether a zip may lack tasks.
    """
    if not file.is_file():
        raise FileNotFoundError(f"no file {file}")
    named = {task.reference: task for task in map(find_task, variants)}
    if file.suffix == ".zip":
        tasks = tasks_of_zip(file, partial=partial)
        problems = check_zip(file, tasks, examples=read_test_splits(tasks, named, data_dir))
    else:
        tasks = [task for task in TASKS.values() if task.form.file == file.name]
        problems = check_file(file, examples=read_test_splits(tasks, named, data_dir))
    raise_problems(problems)


def tasks_of_zip(file: Path, *, partial: bool) -> list[Task]:
    """The tasks of the suite that a zip's names come from."""
    try:
        with ZipFile(file) as archive:
            names = set(archive.namelist())
    except UNREADABLE as error:
        raise ValueError(f"{file}: not a zip that can be read: {error}") from error
    shared = lambda suite: len(names & {task.form.file for task in suite_tasks(suite)})
    suite = max(SUITES, key=shared)
    return [task for task in suite_tasks(suite) if not partial or task.form.file in names]


def read_test_splits(
    tasks: Sequence[Task], named: dict[str, Task], data_dir: str
) -> dict[str, Examples]:
    """The test splits that are there, by file name."""
    found = {}
    for task in tasks if data_dir else ():
        try:
            found[task.form.file] = read_task(named.get(task.reference, task), data_dir, "test")
        except FileNotFoundError as missing:
            if task.reference in named:
                raise
            say(f"{task.form.file} is held to the official number of rows: {missing}")
    return found

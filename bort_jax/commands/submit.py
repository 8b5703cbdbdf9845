# SPDX-License-Identifier: Apache-2.0
"""Predicts test sets and writes the leaderboards' files, one zip a suite; or checks such a file.

AX is predicted by MNLI's model, AX-b and AX-g by SuperGLUE RTE's, MNLI-mm by MNLI-m's, unless they
are given models of their own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bort_jax.interop import read
from bort_jax.report.terminal import say, show_box
from bort_jax.stages.predict.outputs import check_length, outputs_of
from bort_jax.tasks import Examples, Task, decide, find_file, find_task, read_task, suite_tasks
from bort_jax.tasks.checker import check_file, check_zip, refuse
from bort_jax.tasks.submission import submission_lines, write_zip
from bort_jax.tasks.suites import SUITES, TASKS


@dataclass(frozen=True)
class Config:
    """What to predict, or what to check. Lists are written [a,b].

    Attributes:
      models: TASK=CHECKPOINT for each task, such as glue/rte=runs/rte/model; a folder of the data
        such as glue/sst2_sentences is a task too.
      data_dir: folder that holds the test splits as SUITE/TASK/test.parquet; without it, the
        Hugging Face hub.
      out: folder for `glue.zip`, `superglue.zip` and `race.zip`.
      partial: write a zip, or accept one, that lacks tasks of its suite.
      check: a zip, or a file of one, to check and nothing else.
      tasks: for `check`: tasks whose test split is not in the usual folder, such as glue/qqp_tiny.
      seq_len: tokens in a row.
    """

    models: tuple[str, ...] = ()
    data_dir: str = ""
    out: str = "runs/submit"
    partial: bool = False
    check: str = ""
    tasks: tuple[str, ...] = ()
    seq_len: int = 128


def run(config: Config) -> list[Path]:
    """Writes and checks a zip for each suite that has models; raises ValueError where one fails."""
    if bool(config.check) == bool(config.models):
        raise ValueError("give one of --models [TASK=CHECKPOINT,…] and --check FILE")
    if config.check:
        check(config)
        return []
    chosen = at_hand(predictors(config.models), config)
    suites = [suite for suite in SUITES if any(task.suite == suite for task, _ in chosen)]
    for suite in suites:
        check_complete(suite, chosen, partial=config.partial)
    written = [write_suite(suite, chosen, config) for suite in suites]
    show_box("submission", [*map(str, written), "the checker found nothing wrong with it"])
    return written


def predictors(models: Sequence[str]) -> list[tuple[Task, str]]:
    """Every task that can be predicted, with its checkpoint, in the order of the table.

    Raises:
      ValueError: an entry is not TASK=CHECKPOINT, or a task has two.
    """
    given: dict[str, tuple[Task, str]] = {}
    for entry in models:
        reference, equals, folder = entry.partition("=")
        if not (equals and folder):
            raise ValueError(f"--models wants TASK=CHECKPOINT, got {entry!r}")
        task = find_task(reference)
        if task.reference in given:
            raise ValueError(f"--models names {task.name} of {task.suite} twice")
        given[task.reference] = task, folder
    chosen = []
    for reference, task in TASKS.items():
        if reference in given:
            chosen.append(given[reference])
        elif task.scored_by in given:
            chosen.append((task, given[task.scored_by][1]))
    return chosen


def at_hand(chosen: Sequence[tuple[Task, str]], config: Config) -> list[tuple[Task, str]]:
    """The tasks whose test split is there, before any is predicted.

    With `partial`, a diagnostic set that only comes along with another task's model may be missing.

    Raises:
      FileNotFoundError: a test split is missing.
    """
    named = {find_task(entry.partition("=")[0]).reference for entry in config.models}
    kept = []
    for task, folder in chosen:
        try:
            if config.data_dir:
                find_file(task, config.data_dir, "test")
            kept.append((task, folder))
        except FileNotFoundError as missing:
            if task.reference in named or not config.partial:
                raise
            say(f"left out: {missing}")
    return kept


def check_complete(suite: str, chosen: Sequence[tuple[Task, str]], *, partial: bool) -> None:
    """Refuses a suite with gaps before anything is predicted."""
    present = {task.reference for task, _ in chosen}
    missing = [task.name for task in suite_tasks(suite) if task.reference not in present]
    if missing and not partial:
        raise ValueError(
            f"the leaderboard of {suite} wants all its files; there is no model for "
            f"{', '.join(missing)}: name them in --models, or give --partial"
        )


def write_suite(suite: str, chosen: Sequence[tuple[Task, str]], config: Config) -> Path:
    """Predicts the suite's tasks, writes its zip, and checks what was written."""
    lines, examples = {}, {}
    tasks = [(task, folder) for task, folder in chosen if task.suite == suite]
    for task, folder in tasks:
        say(f"{task.suite}/{task.name} by {folder}")
        name = task.form.file
        examples[name] = read_task(task, config.data_dir, "test")
        lines[name] = predicted_lines(task, folder, examples[name], seq_len=config.seq_len)
    file = write_zip(Path(config.out) / f"{suite}.zip", lines)
    refuse(check_zip(file, [task for task, _ in tasks], examples=examples))
    return file


def predicted_lines(task: Task, folder: str, examples: Examples, *, seq_len: int) -> list[str]:
    checkpoint = read(folder)
    check_length(seq_len, checkpoint)
    outputs = outputs_of(checkpoint, task, examples=examples, seq_len=seq_len)
    return submission_lines(decide(outputs, task, examples=examples), task, examples=examples)


def check(config: Config) -> None:
    """Checks a zip against its suite, or a file by its name."""
    file = Path(config.check)
    if not file.is_file():
        raise FileNotFoundError(f"no file {file}")
    named = {task.reference: task for task in map(find_task, config.tasks)}
    if file.suffix != ".zip":
        tasks = [task for task in TASKS.values() if task.form.file == file.name]
        problems = check_file(file, examples=splits(tasks, named, config.data_dir))
    else:
        tasks = tasks_of_zip(file, partial=config.partial)
        problems = check_zip(file, tasks, examples=splits(tasks, named, config.data_dir))
    refuse(problems)
    say(f"{file}: nothing wrong with it")


def tasks_of_zip(file: Path, *, partial: bool) -> list[Task]:
    """The tasks of the suite that a zip's names come from."""
    from zipfile import BadZipFile, ZipFile

    try:
        with ZipFile(file) as archive:
            names = set(archive.namelist())
    except BadZipFile as error:
        raise ValueError(f"{file}: not a zip that can be read: {error}") from error
    shared = lambda suite: len(names & {task.form.file for task in suite_tasks(suite)})
    suite = max(SUITES, key=shared)
    return [task for task in suite_tasks(suite) if not partial or task.form.file in names]


def splits(tasks: Sequence[Task], named: dict[str, Task], data_dir: str) -> dict[str, Examples]:
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

# SPDX-License-Identifier: Apache-2.0
"""Checks submissions: names, headers, row counts, ids and label strings, by line.

Nothing is unpacked to disk, sizes are bounded before anything is read, and content is only parsed.
"""

import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile, ZipFile, ZipInfo

from bort_jax.report.terminal import say
from bort_jax.suggest import nearest
from bort_jax.tasks.submission import HEADER, READERS, Malformed
from bort_jax.tasks.suites import TASKS
from bort_jax.tasks.task import Examples, Task

LARGEST_FILE = 64 * 2**20  # QQP's official file has 4 MB, RACE-H's 10
LARGEST_ZIP = 256 * 2**20
MOST_FILES = 64
UNREADABLE = (  # what zipfile raises of a damaged file
    BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, UnicodeDecodeError,
    struct.error, zlib.error,
)  # fmt: skip
SHOWN = 5  # problems of a file that are told one by one


class Entry(NamedTuple):
    """An answer as a file gives it: its line, its id, and the answer."""

    line: int
    id: Any
    answer: Any


class Problem(NamedTuple):
    """Something wrong: in which file, on which line (0: the file as a whole), and what."""

    file: str
    line: int
    message: str

    def __str__(self) -> str:
        line = f", line {self.line}" if self.line else ""
        return f"{self.file}{line}: {self.message}"


def check_zip(
    file: str | Path, tasks: Sequence[Task], *, examples: Mapping[str, Examples]
) -> list[Problem]:
    """Checks a suite's zip.

    Args:
      tasks: the tasks whose files must be there, and no others.
      examples: the test splits by file name (`RTE.tsv`). A task without one is held to the
        official number of rows.
    """
    wanted = {task.form.file: task for task in tasks}
    try:
        with ZipFile(file) as archive:
            problems = _member_problems(archive.infolist(), wanted)
            if problems:
                return problems
            present = set(archive.namelist())
            for name, task in wanted.items():
                if name in present:
                    content = archive.read(name)
                    problems += check_content(content, task, examples=examples.get(name))
    except UNREADABLE as error:
        return [Problem(str(file), 0, f"not a zip that can be read: {error}")]
    return problems + [Problem(name, 0, "is missing") for name in wanted if name not in present]


def check_file(
    file: str | Path, *, examples: Mapping[str, Examples], tasks: Sequence[Task] = ()
) -> list[Problem]:
    """Checks one file of a suite by its name."""
    names = {task.form.file: task for task in (*TASKS.values(), *tasks)}
    file = Path(file)
    if file.name not in names:
        return [Problem(file.name, 0, f"is no submission file{nearest(file.name, names)}")]
    if file.stat().st_size > LARGEST_FILE:
        return [Problem(file.name, 0, f"larger than {LARGEST_FILE:,} bytes")]
    return check_content(file.read_bytes(), names[file.name], examples=examples.get(file.name))


def check_content(content: bytes, task: Task, *, examples: Examples | None) -> list[Problem]:
    """Checks the content of a task's file, against its test split where that is given."""
    problem = lambda line, message: Problem(task.form.file, line, message)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        return [problem(line, "not UTF-8")]
    entries: list[Entry] = []
    problems: list[Problem] = []
    for line, read in _parse_lines(text, task):
        if isinstance(read, Malformed):
            problems.append(problem(line, str(read)))
        else:
            entries += read
    problems += [problem(*found) for found in _answer_problems(entries, task, examples)]
    problems += [problem(*found) for found in _id_problems(entries, task, examples)]
    return _shorten(sorted(problems, key=lambda p: (p.line == 0, p.line)))


def _member_problems(members: list[ZipInfo], wanted: Mapping[str, Task]) -> list[Problem]:
    """Problems of a zip, before any of it is read."""
    if len(members) > MOST_FILES:
        return [Problem("zip", 0, f"{len(members)} files, expected {len(wanted)}")]
    if sum(member.file_size for member in members) > LARGEST_ZIP:
        return [Problem("zip", 0, f"larger than {LARGEST_ZIP:,} bytes unpacked")]
    problems, seen = [], set()
    for member in members:
        name = member.filename
        if name not in wanted:
            problems.append(Problem(repr(name), 0, f"does not belong here{nearest(name, wanted)}"))
        elif name in seen:
            problems.append(Problem(name, 0, "is in the zip twice"))
        elif member.flag_bits & 1:
            problems.append(Problem(name, 0, "is encrypted"))
        elif member.file_size > LARGEST_FILE:
            problems.append(Problem(name, 0, f"larger than {LARGEST_FILE:,} bytes"))
        seen.add(name)
    return problems


def _parse_lines(text: str, task: Task) -> Iterator[tuple[int, list[Entry] | Malformed]]:
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    first = 1
    if task.form.layout == "tsv":
        first, header = 2, lines.pop(0) if lines else ""
        if header != HEADER:
            yield 1, Malformed(f"the header must be {HEADER!r}, got {header[:80]!r}")
    read = READERS[task.form.layout]
    for number, line in enumerate(lines, start=first):
        try:
            yield number, [Entry(number, *pair) for pair in read(line)]
        except Malformed as error:
            yield number, error


def _answer_problems(
    entries: list[Entry], task: Task, examples: Examples | None
) -> Iterator[tuple[int, str]]:
    candidates: dict[Any, set[str]] = {}
    for key in examples.keys if examples and task.form.layout == "record" else ():
        candidates.setdefault(key.id, set()).add(key.text)
    for entry in entries:
        trouble = _wrong_answer(entry.answer, task)
        if not trouble and entry.answer not in candidates.get(entry.id, {entry.answer}):
            trouble = f"{entry.answer!r} is not one of the passage's entities"
        if trouble:
            yield entry.line, trouble


def _wrong_answer(answer: Any, task: Task) -> str:
    """Why an answer is none that the leaderboard reads, or nothing."""
    if task.head == "regression":
        return _wrong_score(answer, *map(float, task.labels))
    if task.form.layout == "record":
        text = isinstance(answer, str) and bool(answer.strip())
        return "" if text else f"the label must be a text, got {str(answer)[:80]!r}"
    choices = task.form.answers
    if task.form.layout == "tsv":
        choices = tuple(map(str, choices))
    # In JSON 1 and "1" and true are three things, and only one of them is asked for.
    if any(type(answer) is type(choice) and answer == choice for choice in choices):
        return ""
    return f"label {str(answer)[:80]!r} is not one of {', '.join(map(repr, choices))}"


def _wrong_score(answer: str, low: float, high: float) -> str:
    try:
        value = float(answer)
    except ValueError:
        value = float("nan")
    return (
        ""
        if low <= value <= high
        else (f"{answer[:80]!r} is not a number from {low:g} to {high:g}")
    )


def _id_problems(
    entries: list[Entry], task: Task, examples: Examples | None
) -> Iterator[tuple[int, str]]:
    seen: dict[Any, int] = {}
    for entry in entries:
        if entry.id in seen:
            yield entry.line, f"{_id_text(entry.id)} is on line {seen[entry.id]} already"
        seen.setdefault(entry.id, entry.line)
    if examples is None:
        official = task.rows[2]
        if len(seen) != official:
            yield 0, f"{len(seen):,} answers, the official test split has {official:,}"
        return
    wanted = _wanted_ids(task, examples)
    for number, line in seen.items():
        if number not in wanted:
            yield line, f"{_id_text(number)} is not in the test split"
    missing = [_id_text(number) for number in wanted if number not in seen]
    if missing:
        few = ", ".join(missing[:SHOWN]) + (", …" if len(missing) > SHOWN else "")
        yield 0, f"no answer for {len(missing):,} of {len(wanted):,}: {few}"


def _wanted_ids(task: Task, examples: Examples) -> dict:
    """The ids of the test split, in its order."""
    if task.form.layout != "race":
        return dict.fromkeys(key.id for key in examples.keys)
    questions: dict[Any, int] = {}
    wanted = {}
    for key in examples.keys:
        wanted[key.id, questions.setdefault(key.id, 0)] = None
        questions[key.id] += 1
    return wanted


def _id_text(number: Any) -> str:
    if isinstance(number, tuple) and isinstance(number[0], str):
        return f"question {number[1] + 1} of {number[0]}"
    if isinstance(number, tuple):
        return "paragraph {}, question {}, answer {}".format(*number)
    return f"id {number}"


def _shorten(problems: list[Problem]) -> list[Problem]:
    if len(problems) <= SHOWN:
        return problems
    rest = [p for p in problems if not p.line][: SHOWN - 1]
    lines = [p for p in problems if p.line][: SHOWN - len(rest)]
    more = len(problems) - len(lines) - len(rest)
    shown = [*lines, *rest]
    return shown + [Problem(problems[0].file, 0, f"and {more:,} more problems")] * bool(more)


def raise_problems(problems: Sequence[Problem]) -> None:
    """Prints each problem; raises ValueError where there are any."""
    for problem in problems:
        say(str(problem))
    if problems:
        raise ValueError(f"{len(problems)} problems, listed above; the first: {problems[0]}")

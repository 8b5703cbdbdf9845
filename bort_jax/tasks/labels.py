# SPDX-License-Identifier: Apache-2.0
"""Label names: those that are given, those that a train split holds, and what is odd in a split."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from bort_jax.report.terminal import say
from bort_jax.tasks.read import rows_of
from bort_jax.tasks.task import WHOLE, Examples, Task

MOST = 1 << 16  # that `config.json` is read with
MANY = 1000  # more than these are not taken from a file unasked


def check_names(names: Sequence[str]) -> tuple[str, ...]:
    """The names, texts as typed.

    Raises:
      ValueError: none, a name twice, an empty one, or more than a model holds.
    """
    if not 1 <= len(names) <= MOST:
        raise ValueError(
            f"labels must name at most {MOST:,} classes, and some; got {list(names)[:8]}"
        )
    if any(not name.strip() for name in names):
        raise ValueError(f"labels must not be empty; got {list(names)[:8]}")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"labels must differ; {twice[0]!r} is there {len(twice)} times")
    return tuple(names)


def names_in(file: str | Path, label: str) -> tuple[str, ...]:
    """The labels of a train split, sorted, whole numbers by value; said once.

    Raises:
      ValueError: a row without a label, fewer than two labels, or a thousand.
    """
    path = Path(file)
    changed = path.stat().st_mtime_ns if path.is_file() else 0
    return _names_in(file, label, changed)


@cache
def _names_in(file: str | Path, label: str, changed: int) -> tuple[str, ...]:
    found = _distinct(rows_of(file, Task(columns=(), label=label)), label)
    number = lambda name: (int(name), name)
    names = sorted(found, key=number if all(map(WHOLE.fullmatch, found)) else None)
    if len(names) < 2:
        raise ValueError(f"{file}: every row has the label {names[0]!r}; give --labels")
    say(f"labels, from {file}: {', '.join(names)}")
    return check_names(names)


def _distinct(rows: Iterable[tuple[str, Mapping]], label: str) -> set[str]:
    found: set[str] = set()
    for where, row in rows:
        if row.get(label) in (None, "") or isinstance(row[label], (list, dict)):
            raise ValueError(f"{where}: no label in column {label!r}")
        found.add(str(row[label]))
        if len(found) > MANY:
            raise ValueError(
                f"{where}: more than {MANY} different values in {label!r}, which is the label "
                "column; give --label, --labels, or --head regression with the ends of its scale"
            )
    return found


def check_splits(task: Task, splits: Mapping[str, Examples]) -> None:
    """Notes classes without train rows, and splits of one class only.

    Raises:
      ValueError: there is one class only.
    """
    if task.head == "classification" and len(task.labels) < 2:
        raise ValueError(f"labels must name two classes or more; got {list(task.labels)}")
    if task.head != "classification":
        return
    for split, examples in splits.items():
        there = np.unique(examples.labels[examples.labels >= 0])
        if len(there) == 1:
            say(f"NOTE: every row of {split} has the label {task.labels[int(there[0])]}")
        missing = sorted(set(range(len(task.labels))) - {*there.tolist()})
        if split == "train" and missing and len(there) > 1:
            say(f"NOTE: no train row has the label {', '.join(task.labels[k] for k in missing)}")

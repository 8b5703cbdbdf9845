# SPDX-License-Identifier: Apache-2.0
"""A task's rows from files or from the Hugging Face hub; what is wrong names file and row."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from bort_jax.data.corpus import read_rows
from bort_jax.data.reader import known_endings, not_read
from bort_jax.data.scan import split_file, split_parts
from bort_jax.storage.hub import DataName, is_data
from bort_jax.tasks.task import SPLITS, UNLABELLED, Examples, Item, OneReading, Row, Task, label_of


def find_split(folder: str | Path, split: str) -> str | Path:
    """The file of a split: `<folder>/<split>` with a known ending, or a pattern for its files as
    the hub has them; or the split of a data set `hub:NAME` by its name.

    Raises:
      FileNotFoundError: there is none.
      ValueError: there is more than one.
    """
    if is_data(folder):
        return _hub_split(str(folder), split)
    found = split_file(folder, split) or split_parts(folder, split)
    if found is None:
        raise FileNotFoundError(
            f"no {split} split: expected {Path(folder, split)} with an ending of "
            f"{known_endings()}{tabs_hint(folder, split)}"
        )
    return found


def tabs_hint(folder: str | Path, split: str) -> str:
    """The end of a message where GLUE's own file of a split is there, which is not read."""
    tabs = Path(folder, f"{split}.tsv")
    return f"; {tabs}: {not_read(tabs)}" if tabs.is_file() else ""


def find_file(task: Task, data_dir: str | Path, split: str) -> Path:
    """The file of a suite's task: `<data-dir>/<suite>/<folder>/<split>` with a known ending.

    Raises:
      FileNotFoundError: none of the task's folders has it.
    """
    if found := _found(task, data_dir, split):
        return found[0]
    places = [Path(data_dir) / task.suite / folder for folder in task.place.folders]
    hint = "".join(tabs_hint(place, split) for place in places)
    there = " or ".join(map(str, places))
    raise FileNotFoundError(f"no {split} split of {task.name} in {there}{hint}")


def read_task(task: Task, data_dir: str | Path, split: str) -> Examples:
    """Reads a split of a suite's task from a data folder, or from the hub where that is empty.

    Only the test split may lack labels.

    Raises:
      FileNotFoundError: the split is not there.
      ValueError: as `read_examples`.
    """
    required = split != "test"
    if not str(data_dir):
        return examples_of(_hub_rows(task, split), task, required=required)
    file = find_file(task, data_dir, split)
    rows = rows_of(file, task, keep=row_filter(task, data_dir, split))
    return examples_of(rows, task, required=required)


def read_examples(file: str | Path, task: Task, *, required: bool = True) -> Examples:
    """Reads and checks every row of a file.

    Args:
      required: refuse rows without a label.

    Raises:
      ValueError: a column is missing, a text is empty, or a label is outside the declared set;
        the message names the file and the row.
    """
    return examples_of(rows_of(file, task), task, required=required)


def examples_of(rows: Iterable[tuple[str, Row]], task: Task, *, required: bool) -> Examples:
    """The examples of rows that come with the words that name them."""
    items: list[Item] = []
    labels: list[int | float] = []
    names = OneReading(task)
    for where, row in rows:
        found, label = read_row(where, row, task, required=required)
        names.check(where, row)
        items += found
        labels += [label if item.label is None else item.label for item in found]
    if not items:
        raise ValueError(f"no rows of {task.name or 'the task'}")
    kind = np.float32 if task.head == "regression" else np.int32
    texts, keys = tuple(item.texts for item in items), tuple(item.key for item in items)
    return Examples(texts, np.array(labels, dtype=kind), keys)


def read_row(where: str, row: Row, task: Task, *, required: bool) -> tuple[list[Item], int | float]:
    """Reads a row's examples and its label; raises ValueError with `where` before the reason."""
    try:
        items = task.items(row, task)
        if required and any(item.label == UNLABELLED for item in items):
            raise ValueError(f"no label in column {task.label!r}")
        own = any(item.label is None for item in items)
        return items, label_of(row, task, required=required) if own else UNLABELLED
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def rows_of(
    source: str | Path, task: Task | None = None, *, keep: Callable[[Row], bool] | None = None
) -> Iterator[tuple[str, Row]]:
    """The rows of a file or folder, each with the words that name it.

    Args:
      task: whose columns are read; none: all columns.

    Raises:
      ValueError: a row that cannot be read, or no rows.
    """
    found = False
    for where, row in read_rows(source, columns=task and task.columns_read):
        try:
            kept = keep is None or keep(row)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        if kept:
            found = True
            yield where, row
    if not found:
        raise ValueError(f"{source}: no rows" + (" of this task" if keep else ""))


def row_filter(task: Task, data_dir: str | Path, split: str) -> Callable[[Row], bool] | None:
    """Says which rows of the split's file are the task's; None: all of them."""
    found = _found(task, data_dir, split)
    shared = bool(found) and found[1]
    trains = split == "train" and not task.place.keep_train
    return task.place.keep if shared and not trains else None


def _found(task: Task, data_dir: str | Path, split: str) -> tuple[Path, bool] | None:
    """The best place that a split is in, and whether other tasks' rows may stand there too."""
    if split not in SPLITS:
        raise ValueError(f"no split {split!r}; there are {', '.join(SPLITS)}")
    for folder in task.place.folders:
        stems = [split + task.place.ending] if split != "train" and task.place.ending else []
        for stem in [*stems, split]:
            file = split_file(Path(data_dir) / task.suite / folder, stem)
            if file:
                return file, stem == split and not folder.startswith(task.key)
    return None


def _hub_split(source: str, split: str) -> str:
    import datasets

    name = DataName.parse(source).pinned()._replace(split=split)
    try:
        splits = datasets.get_dataset_split_names(name.name, name.subset, revision=name.revision)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(f"cannot read {source}: {error}") from error
    if split not in splits:
        raise FileNotFoundError(f"no {split} split of {source}: it has {', '.join(splits)}")
    return str(name)


def _hub_rows(task: Task, split: str) -> Iterator[tuple[str, Row]]:
    import datasets  # slow to import

    path, config = task.place.hub
    stem = split if split == "train" else split + task.place.ending
    rows = datasets.load_dataset(path, config, split=stem)
    for number, row in enumerate(rows, start=1):
        yield f"{path}/{config} {split}, row {number}", row  # pyright: ignore

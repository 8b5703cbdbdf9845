# SPDX-License-Identifier: Apache-2.0
"""Where a task's rows are and what their columns mean, as options of a command."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bort_jax.data.corpus import open_source
from bort_jax.report.terminal import say
from bort_jax.storage.hub import is_data
from bort_jax.tasks.labels import check_names, names_in
from bort_jax.tasks.read import find_file, find_split, read_examples, read_task
from bort_jax.tasks.suites import find_task
from bort_jax.tasks.task import SPLITS, Examples, Task, is_missing

OWN_METRICS = {"classification": ("accuracy",), "regression": ("Pearson", "Spearman")}


def own_task(
    columns: Sequence[str], label: str, labels: Sequence[Any], *, head: str = "classification"
) -> Task:
    """A task of one's own.

    Raises:
      ValueError: another head than classification and regression, names that `check_names`
        refuses, or a scale without two ends.
    """
    if head not in OWN_METRICS:
        raise ValueError(f"head must be one of {', '.join(OWN_METRICS)}; got {head!r}")
    names = tuple(map(str, labels))
    names = check_names(names) if head == "classification" else _scale(names)
    return Task(tuple(columns), label, names, head=head, metrics=OWN_METRICS[head])


def _scale(ends: tuple[str, ...]) -> tuple[str, ...]:
    with suppress(ValueError):
        if len(ends) == 2 and float(ends[0]) < float(ends[1]):
            return ends
    raise ValueError(f"labels must be the two ends of the scale, such as [0,5]; got {list(ends)}")


@dataclass(frozen=True)
class TaskOptions:
    """A labelled data set: one's own (`data`), or one of the 23 test sets (`task`).

    Attributes:
      data: folder with train, validation and, if there is one, test (.parquet, .jsonl, .json or
        .csv, compressed or not).
      columns: one text column, or two of a pair.
      label: label column; a file's rows hold names of `labels` or, where no name is a whole
        number, indices.
      labels: names of the classes, in the order of the indices; none: what the train split holds,
        sorted. For regression the two ends of the scale, such as [0,5].
      head: `classification`, or `regression` where `label` holds numbers.
      task: instead of `data`: a test set such as glue/rte (`bort-jax tasks list`), which knows its
        columns, labels and metrics.
      data_dir: folder that holds `task` as SUITE/TASK/SPLIT.parquet; without it, the Hugging Face
        hub.
    """

    data: str = ""
    columns: tuple[str, ...] = ("text",)
    label: str = "label"
    labels: tuple[str, ...] = ()
    head: str = "classification"
    task: str = ""
    data_dir: str = ""

    def record(self) -> Task:
        """The task.

        Raises:
          ValueError: neither or both of `data` and `task` are given, no such task, or an unknown
            head.
        """
        if bool(self.data) == bool(self.task):
            raise ValueError("give one of --data FOLDER and --task SUITE/TASK")
        if self.task:
            return find_task(self.task)
        labels = self.labels
        if not labels and self.head == "classification":
            labels = ("0", "1")  # where there is no train split, which reading it says
            with suppress(FileNotFoundError):
                labels = names_in(find_split(self.data, "train"), self.label)
        return own_task(self.columns, self.label, labels, head=self.head)

    @property
    def source(self) -> str:
        """The data's name on a model card."""
        return self.task or self.data.rstrip("/").rpartition("/")[2]

    def read(self, split: str) -> Examples:
        """Reads and checks a split, of which only test may lack labels.

        Raises:
          FileNotFoundError: there is no such split.
          ValueError: a row cannot be read; the message names it.
        """
        task = self.record()
        if self.task:
            return read_task(task, self.data_dir, split)
        return read_examples(find_split(self.data, split), task, required=split != "test")

    def content(self) -> dict[str, dict[str, str]]:
        """SHA-256 of each split's files, by name; none of a dataset of the hub."""
        files = {split: self._file(split) for split in SPLITS if self.has(split) and self._is_here}
        return {split: open_source(file).description()["files"] for split, file in files.items()}

    @property
    def _is_here(self) -> bool:
        return bool(self.data_dir if self.task else self.data and not is_data(self.data))

    def _file(self, split: str) -> str | Path:
        task = self.record()
        return find_file(task, self.data_dir, split) if self.task else find_split(self.data, split)

    def read_labelled(self, split: str) -> Examples | None:
        """As `read`; None where there is no such split, or rows of it lack their labels, which is
        said: leaderboards keep them, and `submit` is for those."""
        found = self.read(split) if self.has(split) else None
        if found is None or found.has_labels:
            return found
        missing = sum(map(is_missing, found.labels))
        say(f"NOTE: {missing:,} of {len(found.labels):,} rows of {split} have no label: not scored")
        return None

    def has(self, split: str) -> bool:
        """Whether there is such a split; on the hub, whether the official set has one."""
        task = self.record()
        if self.task and not self.data_dir:
            return bool(task.rows[("train", "validation", "test").index(split)])
        try:
            return bool(self._file(split))
        except FileNotFoundError:
            return False

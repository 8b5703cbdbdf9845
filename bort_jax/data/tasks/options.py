# SPDX-License-Identifier: Apache-2.0
"""Where a task's rows are and what their columns mean, as options of a command."""

from dataclasses import dataclass

from bort_jax.data.tasks.read import find_file, find_split, read_examples, read_task
from bort_jax.data.tasks.suites import find_task
from bort_jax.data.tasks.task import Examples, Task


@dataclass(frozen=True)
class TaskOptions:
    """A labelled data set: one's own (`data`), or one of the 23 test sets (`task`).

    Attributes:
      data: folder with train, validation and, if there is one, test (.parquet, .jsonl or .csv).
      columns: one text column, or two of a pair.
      label: label column; rows hold names or indices of `labels`.
      labels: names of the classes, in the order of the indices.
      task: instead of `data`: a test set such as glue/rte (`bort-jax tasks list`), which knows its
        columns, labels and metrics.
      data_dir: folder that holds `task` as SUITE/TASK/SPLIT.parquet; without it, the Hugging Face
        hub.
    """

    data: str = ""
    columns: tuple[str, ...] = ("text",)
    label: str = "label"
    labels: tuple[str, ...] = ("0", "1")
    task: str = ""
    data_dir: str = ""

    def record(self) -> Task:
        """The task.

        Raises:
          ValueError: neither or both of `data` and `task` are given, or no such task.
        """
        if bool(self.data) == bool(self.task):
            raise ValueError("give one of --data FOLDER and --task SUITE/TASK")
        if self.task:
            return find_task(self.task)
        return Task(tuple(self.columns), self.label, tuple(map(str, self.labels)))

    @property
    def source(self) -> str:
        """What the data is called on a model card."""
        return self.task or self.data.rstrip("/").rpartition("/")[2]

    def read(self, split: str) -> Examples:
        """Reads and checks a split; raises FileNotFoundError or ValueError."""
        task = self.record()
        if self.task:
            return read_task(task, self.data_dir, split)
        return read_examples(find_split(self.data, split), task)

    def has(self, split: str) -> bool:
        """Whether there is such a split; on the hub, whether the official set has one."""
        task = self.record()
        if self.task and not self.data_dir:
            return bool(task.rows[("train", "validation", "test").index(split)])
        try:
            return bool(
                find_file(task, self.data_dir, split) if self.task else find_split(self.data, split)
            )
        except FileNotFoundError:
            return False

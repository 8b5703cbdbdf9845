# SPDX-License-Identifier: Apache-2.0
"""Where a task's rows are and what their columns mean, as options of a command."""

from dataclasses import dataclass
from pathlib import Path

from bort_jax.data.tasks.task import Examples, Task, find_split, read_examples


@dataclass(frozen=True)
class TaskOptions:
    """A labelled data set.

    Attributes:
      data: folder with train, validation and, if there is one, test (.parquet, .jsonl or .csv).
      columns: one text column, or two of a pair.
      label: label column; rows hold names or indices of `labels`.
      labels: names of the classes, in the order of the indices.
    """

    data: str
    columns: tuple[str, ...] = ("text",)
    label: str = "label"
    labels: tuple[str, ...] = ("0", "1")

    def read(self, split: str) -> Examples:
        """Reads and checks a split; raises FileNotFoundError or ValueError."""
        task = Task(tuple(self.columns), self.label, tuple(map(str, self.labels)))
        return read_examples(find_split(self.data, split), task)

    def has(self, split: str) -> bool:
        try:
            return find_split(Path(self.data), split).is_file()
        except FileNotFoundError:
            return False

# SPDX-License-Identifier: Apache-2.0
"""Labelled tasks as frozen records."""

from bort_jax.data.tasks.options import TaskOptions
from bort_jax.data.tasks.task import (
    Examples,
    Points,
    Split,
    Task,
    find_split,
    read_examples,
    split_dev,
)

__all__ = [
    "Examples",
    "Points",
    "Split",
    "Task",
    "TaskOptions",
    "find_split",
    "read_examples",
    "split_dev",
]

# SPDX-License-Identifier: Apache-2.0
"""Labelled tasks as frozen records: one's own, and the 23 test sets of GLUE, SuperGLUE and RACE."""

from bort_jax.data.tasks.options import TaskOptions, own_task
from bort_jax.data.tasks.read import find_file, find_split, read_examples, read_task
from bort_jax.data.tasks.scoring import arranged, decide, headline, score
from bort_jax.data.tasks.sides import token_sides
from bort_jax.data.tasks.split import Split, example_texts, split_dev
from bort_jax.data.tasks.suites import TASKS, find_task, suite_tasks
from bort_jax.data.tasks.task import Examples, Key, Points, Task

__all__ = [
    "TASKS",
    "Examples",
    "Key",
    "Points",
    "Split",
    "Task",
    "TaskOptions",
    "arranged",
    "decide",
    "find_file",
    "example_texts",
    "find_split",
    "find_task",
    "headline",
    "own_task",
    "read_examples",
    "read_task",
    "score",
    "split_dev",
    "suite_tasks",
    "token_sides",
]

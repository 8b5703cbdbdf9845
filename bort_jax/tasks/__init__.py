# SPDX-License-Identifier: Apache-2.0
"""Labelled tasks as frozen records: one's own, and the 23 test sets of GLUE, SuperGLUE and RACE."""

from bort_jax.tasks.options import TaskOptions, own_task
from bort_jax.tasks.read import find_file, find_split, read_examples, read_task
from bort_jax.tasks.scoring import align_outputs, decide, head_decisions, headline, score
from bort_jax.tasks.suites import TASKS, find_task, suite_tasks
from bort_jax.tasks.task import Examples, Key, Points, Task

__all__ = [
    "TASKS",
    "Examples",
    "Key",
    "Points",
    "Task",
    "TaskOptions",
    "align_outputs",
    "decide",
    "find_file",
    "find_split",
    "find_task",
    "head_decisions",
    "headline",
    "own_task",
    "read_examples",
    "read_task",
    "score",
    "suite_tasks",
]

# SPDX-License-Identifier: Apache-2.0
"""A pretrained parent and labelled rows in, a small classifier out: the parent is fine-tuned where
it is no classifier yet, the best shape inside it is extracted, refitted and distilled, and a table
says what that was worth. Every stage has a folder, and the same command resumes."""

from bort_jax.stages.compress.config import Config
from bort_jax.stages.compress.run import run

__all__ = ["Config", "run"]

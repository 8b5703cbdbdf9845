# SPDX-License-Identifier: Apache-2.0
"""Rounds of fine-tuning, data augmentation near mistakes, and pseudo-labels by a second model,
with fewer hyperparameter sets each round. Half of validation guides, the other half only reports.
The test split is scored once, at the end, for plain fine-tuning and for Agora with the same seeds.
On several hosts, start the same command on each, as `pretrain`: they share a round's runs."""

from bort_jax.stages.agora.config import Config
from bort_jax.stages.agora.run import run

__all__ = ["Config", "run"]

# SPDX-License-Identifier: Apache-2.0
"""Rounds of fine-tuning, mistakes, new points labelled by Socrates, fewer hyperparameter
sets. Half of the validation split steers, the other half only reports; the test split is
scored once, at the end, for plain fine-tuning and for Agora with the same seeds. On several hosts,
start the same command on each, as `pretrain`: a round's fine-tunings are dealt out."""

from bort_jax.stages.agora.config import Config
from bort_jax.stages.agora.run import run

__all__ = ["Config", "run"]

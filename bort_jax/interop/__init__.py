# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that stock tools load, and those that stock tools wrote."""

from bort_jax.interop.checkpoint import Checkpoint
from bort_jax.interop.gluonnlp import load_params
from bort_jax.interop.huggingface import hf_class, load, save

__all__ = ["Checkpoint", "hf_class", "load", "load_params", "save"]

# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that stock tools load, and those that stock tools wrote."""

from bort_jax.interop.checkpoint import Checkpoint
from bort_jax.interop.formats import checkpoint_folder, load, read
from bort_jax.interop.gluonnlp import load_params
from bort_jax.interop.hf_config import hf_class
from bort_jax.interop.huggingface import save

__all__ = [
    "Checkpoint",
    "checkpoint_folder",
    "hf_class",
    "load",
    "load_params",
    "read",
    "save",
]

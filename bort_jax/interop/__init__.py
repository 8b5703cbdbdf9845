# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that stock tools load."""

from bort_jax.interop.huggingface import Checkpoint, load, save

__all__ = ["Checkpoint", "load", "save"]

# SPDX-License-Identifier: Apache-2.0
"""Agora: fine-tuning where data is scarce, on callables; no models, no devices."""

from bort_jax.agora.generate import Tau, mlm_tau
from bort_jax.agora.loop import Agora, AgoraState, Copy, Dataset, Round, agora, start
from bort_jax.agora.theta import describe, grid, prune

__all__ = [
    "Agora",
    "AgoraState",
    "Copy",
    "Dataset",
    "Round",
    "Tau",
    "agora",
    "describe",
    "grid",
    "mlm_tau",
    "prune",
    "start",
]

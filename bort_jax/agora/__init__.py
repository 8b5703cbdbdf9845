# SPDX-License-Identifier: Apache-2.0
"""Agora: fine-tuning where data is scarce, on callables; no models, no devices."""

from bort_jax.agora.casting import OneAgainstRest, Thresholds, Uncast, most_positive
from bort_jax.agora.generate import (
    Parents,
    Tau,
    Window,
    changed_share,
    euclidean,
    generator,
    row_keys,
)
from bort_jax.agora.loop import (
    Agora,
    AgoraState,
    Copy,
    Dataset,
    Generated,
    Mistakes,
    Origin,
    Round,
    agora,
    replay,
    start,
)
from bort_jax.agora.protocol import Guard, Leak, once
from bort_jax.agora.socrates import Trust, balanced, certain, confident, remembered, trust
from bort_jax.agora.store import Store, resumable
from bort_jax.agora.taus import ball_tau, mix_tau, mlm_tau, neighbour_tau
from bort_jax.agora.theta import describe, grid, prune, worst_run

__all__ = [
    "Agora",
    "AgoraState",
    "Copy",
    "Dataset",
    "Generated",
    "Guard",
    "Leak",
    "Mistakes",
    "OneAgainstRest",
    "Origin",
    "Parents",
    "Round",
    "Store",
    "Tau",
    "Thresholds",
    "Trust",
    "Uncast",
    "Window",
    "agora",
    "balanced",
    "ball_tau",
    "certain",
    "confident",
    "changed_share",
    "describe",
    "euclidean",
    "generator",
    "grid",
    "mix_tau",
    "mlm_tau",
    "most_positive",
    "neighbour_tau",
    "once",
    "prune",
    "remembered",
    "replay",
    "resumable",
    "row_keys",
    "start",
    "trust",
    "worst_run",
]

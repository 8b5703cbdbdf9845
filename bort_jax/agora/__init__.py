# SPDX-License-Identifier: Apache-2.0
"""Agora: fine-tuning with data augmentation and pseudo-labels where labels are scarce.

It works on callables and imports neither models nor devices.
"""

from bort_jax.agora.casting import OneVsRest, Thresholds, Uncast, most_positive
from bort_jax.agora.dataset import Dataset, one_hot
from bort_jax.agora.folds import cross_validate
from bort_jax.agora.generate import (
    Parents,
    Tau,
    Window,
    changed_fraction,
    euclidean,
    generator,
    row_keys,
)
from bort_jax.agora.ledger import Ledger, Pace, Texts, Unanswered, read_answer
from bort_jax.agora.lift import Lift, mistake_lift, nearest_rows
from bort_jax.agora.loop import Agora, agora, replay, start
from bort_jax.agora.protocol import Guard, Leak, score_once
from bort_jax.agora.records import AgoraState, Copy, Generated, Mistakes, Origin, Round
from bort_jax.agora.retrieve import Candidates, Retrieval, retriever, spread_budget
from bort_jax.agora.socrates import (
    Trust,
    assess,
    at_temperature,
    balance_classes,
    cache_labels,
    drop_unsure,
    fit_temperature,
    hard_labels,
)
from bort_jax.agora.store import Store, resume
from bort_jax.agora.taus import ball_tau, mix_tau, mlm_tau, neighbour_tau
from bort_jax.agora.theta import describe, grid, prune, worst_run

__all__ = [
    "Agora",
    "AgoraState",
    "Candidates",
    "Copy",
    "Dataset",
    "Generated",
    "Guard",
    "Leak",
    "Ledger",
    "Lift",
    "Mistakes",
    "OneVsRest",
    "Origin",
    "Pace",
    "Parents",
    "Retrieval",
    "Round",
    "Store",
    "Tau",
    "Texts",
    "Thresholds",
    "Trust",
    "Unanswered",
    "Uncast",
    "Window",
    "agora",
    "assess",
    "at_temperature",
    "balance_classes",
    "ball_tau",
    "cache_labels",
    "changed_fraction",
    "cross_validate",
    "describe",
    "drop_unsure",
    "euclidean",
    "fit_temperature",
    "generator",
    "grid",
    "hard_labels",
    "mix_tau",
    "mlm_tau",
    "most_positive",
    "mistake_lift",
    "nearest_rows",
    "neighbour_tau",
    "one_hot",
    "prune",
    "read_answer",
    "replay",
    "resume",
    "retriever",
    "row_keys",
    "score_once",
    "spread_budget",
    "start",
    "worst_run",
]

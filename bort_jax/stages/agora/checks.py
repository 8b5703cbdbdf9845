# SPDX-License-Identifier: Apache-2.0
"""The checks before a run, on its data, its student and its pool."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from bort_jax.agora import Agora, mistake_lift
from bort_jax.agora.diagnostics import (
    Finding,
    headroom,
    pool_distance,
    pool_size,
    weak_classes,
)
from bort_jax.stages.agora.material import Material
from bort_jax.stages.agora.plain import Plain
from bort_jax.stages.agora.pool.store import Encoder, Pool


def checks_of(
    plain: Plain, calls: Agora, judged: Sequence[tuple[np.ndarray, np.ndarray]], material: Material
) -> list[Finding]:
    """Of Socrates and the student.

    Args:
      judged: his answers on rows of steer-dev and of report-dev, and their labels.
    """
    (answers, labels), _ = judged
    every, all_labels = (np.concatenate(part) for part in zip(*judged, strict=True))
    found = [
        headroom(float((answers.argmax(axis=1) == labels).mean()), plain.accuracy),
        weak_classes(every, all_labels, tuple(material.cast.labels)),
    ]
    if calls.neighbours is not None:
        lift = mistake_lift(calls.neighbours, ~plain.correct)
        found.append(Finding("mistake lift", str(lift or "unknown")))
    return found


def pool_checks(pool: Pool, encoder: Encoder, material: Material, budget: int) -> list[Finding]:
    """Of the pool: is it of the task's kind, and worth choosing from.

    Args:
      budget: calls; 0: no limit.
    """
    steer = encoder.vectors(encoder.tokens(material.steer.examples))
    found = [pool_distance(steer, pool_sample(pool, len(steer)))]
    return found + [pool_size(len(pool), budget)] * bool(budget)


def pool_sample(pool: Pool, count: int) -> Float[np.ndarray, "n h"]:
    """Vectors of some texts, drawn at random."""
    rows = np.random.default_rng(0).choice(len(pool), min(count, len(pool)), replace=False)
    parts = []
    for start, vectors in pool.blocks():
        mine = rows[(start <= rows) & (rows < start + len(vectors))] - start
        parts.append(np.asarray(vectors[mine], np.float32))
    return np.concatenate(parts)

# SPDX-License-Identifier: Apache-2.0
"""Before anything new is asked of Socrates: plain fine-tuning, and the checks of a run."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from bort_jax.agora import Agora, mistake_lift
from bort_jax.agora.diagnostics import (
    Finding,
    headroom,
    pool_distance,
    pool_size,
    weak_classes,
)
from bort_jax.agora.theta import Theta as Pairs
from bort_jax.stages.agora.grid import Grid
from bort_jax.stages.agora.material import Material
from bort_jax.stages.agora.pool.store import Encoder, Pool
from bort_jax.storage.checks import expect, explain_damage
from bort_jax.storage.files import read_json, write_json

MOST_SETS = 8  # of Θ, evenly spaced


class Plain(NamedTuple):
    """The best fine-tuning on the given rows alone.

    Attributes:
      theta: its set.
      correct: which rows of steer-dev it classifies correctly.
    """

    theta: Pairs
    correct: Bool[np.ndarray, " n"]

    @property
    def accuracy(self) -> float:
        return float(self.correct.mean())


def plain_of(grid: Grid, calls: Agora, material: Material, file: Path) -> Plain:
    """Fine-tunes on the given rows with some sets of Θ, or reads what was found before.

    Raises:
      ValueError: every fine-tuning diverged.
    """
    if not file.is_file():
        found = fit_plain(grid, calls, material)
        write_json(file, {"theta": found.theta, "correct": found.correct.tolist()})
    with explain_damage(file):
        kept = read_json(file)
        correct = np.array(kept["correct"], bool)
        expect(correct.shape == material.steer.rows.shape, "another number of rows")
        return Plain(tuple((str(name), value) for name, value in kept["theta"]), correct)


def fit_plain(grid: Grid, calls: Agora, material: Material) -> Plain:
    sets, steer = some_sets(grid.sets()), material.steer.points
    models = calls.fit_fn(sets, material.train)
    tried = [(theta, calls.score_fn(one, steer)) for theta, one in zip(sets, models, strict=True)]
    scored = [(theta, correct) for theta, correct in tried if not np.isnan(correct).any()]
    if not scored:
        raise ValueError(
            f"all {len(tried)} fine-tunings on the train rows diverged: none has a finite loss; "
            "give smaller learning rates"
        )
    theta, correct = max(scored, key=lambda one: one[1].mean())
    return Plain(theta, correct.astype(bool))


def some_sets(sets: Sequence[Pairs]) -> list[Pairs]:
    """All sets of a small Θ, evenly spaced ones of a large one."""
    places = np.linspace(0, len(sets) - 1, min(len(sets), MOST_SETS)).round().astype(int)
    return [sets[place] for place in places]


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

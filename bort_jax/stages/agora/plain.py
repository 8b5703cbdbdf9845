# SPDX-License-Identifier: Apache-2.0
"""Plain fine-tuning before anything is asked of Socrates: what there is to gain, and where."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from bort_jax.agora.theta import Theta as Pairs
from bort_jax.stages.agora.grid import Grid
from bort_jax.stages.agora.material import Material
from bort_jax.stages.finetune.tuner import FineTuner
from bort_jax.storage.files import read_json, write_json
from bort_jax.tasks import Points

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


def plain_of(grid: Grid, tuner: FineTuner, material: Material, file: Path) -> Plain:
    """Fine-tunes on the given rows with some sets of Θ, or reads what was found before.

    Raises:
      ValueError: every fine-tuning diverged.
    """
    if not file.is_file():
        found = fit_plain(grid, tuner, material)
        write_json(file, {"theta": found.theta, "correct": found.correct.tolist()})
    kept = read_json(file)
    return Plain(tuple(map(tuple, kept["theta"])), np.array(kept["correct"], bool))


def fit_plain(grid: Grid, tuner: FineTuner, material: Material) -> Plain:
    sets = some_sets(grid.sets())
    models = tuner.fit_all([grid.full(theta) for theta in sets], Points(*material.train))
    steer = Points(*material.steer.points)
    tried = [(theta, tuner.correct(one, steer)) for theta, one in zip(sets, models, strict=True)]
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

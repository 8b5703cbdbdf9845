# SPDX-License-Identifier: Apache-2.0
"""Accuracy by calls of Socrates: Agora after each round, beside random texts of the same pool."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from bort_jax.agora import Agora, AgoraState, Dataset, Generated, Origin
from bort_jax.agora.loop import label_and_append
from bort_jax.stages.agora.outcome import check_accuracies
from bort_jax.storage.checks import require_count


class CurvePoint(NamedTuple):
    """Accuracies on report-dev after so many calls, one a seed."""

    calls: int
    train_rows: int
    scores: list[float]

    @classmethod
    def read(cls, kept: dict[str, Any]) -> "CurvePoint":
        """A point of a kept file; raises TypeError or ValueError where it is none."""
        point = cls(**kept)
        require_count(point.calls)
        require_count(point.train_rows)
        check_accuracies(point.scores)
        return point


ScoreFn = Callable[[Dataset], list[float]]


def agora_curve(
    state: AgoraState, score_fn: ScoreFn, *, first: list[float], last: list[float]
) -> list[CurvePoint]:
    """A point before the first call and one for each round that asked.

    Args:
      score_fn: a train set to accuracies of models that are fitted to it, one a seed.
      first: those of plain fine-tuning.
      last: those of the whole set: the run's score.
    """
    calls, points = 0, {0: CurvePoint(0, state.given_rows, first)}
    for one in state.rounds:
        calls += one.asked
        if 0 < calls < state.asked:
            train = state.train.take(slice(one.train_size))
            points[calls] = CurvePoint(calls, one.train_size, score_fn(train))
        elif one.asked:
            points[calls] = CurvePoint(calls, len(state.train.y), last)
    return list(points.values())


def random_curve(
    state: AgoraState,
    x: np.ndarray,
    score_fn: ScoreFn,
    *,
    calls: Agora,
    beside: Sequence[CurvePoint],
) -> list[CurvePoint]:
    """Random texts in one and the same order, as many as Agora asked about at each of its points.

    Args:
      x: random texts of the pool, as points.
      calls: Agora's callables: the same Socrates labels, the same rule keeps.
    """
    given, points = state.train.take(slice(state.given_rows)), [beside[0]]
    for point in beside[1:]:
        some = x[: point.calls]
        none = np.zeros(len(some))
        origin = Origin(none.astype(int), ("random",) * len(some), none, none)
        train, _ = label_and_append(given, Generated(some, origin), calls=calls)
        points.append(CurvePoint(point.calls, len(train.y), score_fn(train)))
    return points

# SPDX-License-Identifier: Apache-2.0
"""The arms of `agora_study.py`: uses of the same rows, the same Socrates and as many calls."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from study_sets import Draw, Table
from study_students import Student

from bort_jax.agora import (
    Agora,
    Dataset,
    Retrieval,
    agora,
    at_temperature,
    fit_temperature,
    nearest_rows,
    retriever,
    row_keys,
    spread_budget,
    start,
)

SEEDS = 3  # of the last fine-tuning; the score is their mean
FIRST = 0.25  # of dev, near which Agora's first points are


class Ground(NamedTuple):
    """All that an arm may use.

    Attributes:
      label_fn: Socrates, at his temperature: points to probabilities.
      student_of: a seed to a student.
    """

    table: Table
    vectors: Float[np.ndarray, "n h"]
    draw: Draw
    label_fn: Callable[[np.ndarray], Float[np.ndarray, "n c"]]
    student_of: Callable[[int], Student]

    def labelled(self, rows: Int[np.ndarray, " n"]) -> Dataset:
        """Rows with their true labels."""
        return Dataset(rows[:, None], self.table.labels[rows].astype(np.int32))

    def asked(self, rows: Int[np.ndarray, " n"]) -> Dataset:
        """Rows with Socrates' answers."""
        return Dataset.of_answers(rows[:, None], self.label_fn(rows[:, None]))

    def right(self, model, rows: Int[np.ndarray, " n"], student: Student) -> np.ndarray:
        return student.chances(model, rows).argmax(axis=1) == self.table.labels[rows]


def socrates_of(ground: Ground, student: Student) -> Callable:
    """He learns the taught half; his temperature is fitted on dev."""
    theta = student.thetas[len(student.thetas) // 2]
    model = next(iter(student.fit_all([theta], ground.labelled(ground.draw.taught))))
    answers = lambda x: student.chances(model, x[:, 0])
    dev = ground.draw.dev
    return at_temperature(answers, fit_temperature(answers(dev[:, None]), ground.table.labels[dev]))


def arms_of(ground: Ground, calls: int) -> dict[str, Callable[[], Dataset]]:
    """The train set of each arm, made when it is asked for."""
    draw, scarce = ground.draw, ground.labelled(ground.draw.scarce)
    inside = draw.pool[ground.table.labels[draw.pool] >= 0]
    return {
        "plain": lambda: scarce,
        "train + dev": lambda: scarce.append(ground.labelled(draw.dev)),
        "pool at random": lambda: scarce.append(ground.asked(draw.pool[:calls])),
        "pool by doubt": lambda: scarce.append(ground.asked(most_doubted(ground, calls))),
        "near any dev": lambda: agora_set(ground, calls, parents="all"),
        "near mistakes": lambda: agora_set(ground, calls, parents="mistakes"),
        "Agora": lambda: agora_set(ground, calls, parents="lift"),
        "true labels": lambda: scarce.append(ground.labelled(inside[:calls])),
        "whole pool": lambda: scarce.append(ground.asked(draw.pool)),
    }


def score(ground: Ground, train: Dataset) -> float:
    """Test accuracy, the mean over seeds, with the θ that is best on dev."""
    found = []
    for seed in range(SEEDS):
        student = ground.student_of(seed)
        models = list(student.fit_all(student.thetas, train))
        best = max(models, key=lambda one: ground.right(one, ground.draw.dev, student).mean())
        found.append(ground.right(best, ground.draw.test, student).mean())
    return float(np.mean(found))


def margin(chances: Float[np.ndarray, "n c"]) -> Float[np.ndarray, " n"]:
    ranked = np.sort(chances, axis=1)
    return ranked[:, -1] - ranked[:, -2]


def most_doubted(ground: Ground, calls: int) -> Int[np.ndarray, " n"]:
    """The pool's rows that plain fine-tuning doubts most."""
    student, scarce = ground.student_of(0), ground.labelled(ground.draw.scarce)
    models = list(student.fit_all(student.thetas, scarce))
    best = max(models, key=lambda one: ground.right(one, ground.draw.dev, student).mean())
    doubt = margin(student.chances(best, ground.draw.pool))
    return ground.draw.pool[np.argsort(doubt, kind="stable")[:calls]]


def agora_set(ground: Ground, calls: int, *, parents: str) -> Dataset:
    """The last set of a run of Agora: τ retrieve within the budget."""
    draw, student = ground.draw, ground.student_of(0)
    retrieval = Retrieval(
        search_fn=lambda rows, k, used: nearest(ground, draw.dev[rows], k, used),
        read_fn=lambda found: draw.pool[found][:, None],
        doubt_fn=lambda model, x: margin(student.chances(model, x[:, 0])),
        samples_per_error=1,
    )
    callables = Agora(
        fit_fn=student.fit_all,
        score_fn=lambda model, dev: ground.right(model, dev.x[:, 0], student),
        generate_fn=retriever(retrieval, keys_fn=row_keys),
        label_fn=ground.label_fn,
        parents=parents,
        neighbours=nearest_rows(ground.vectors[draw.dev]),
        first_fraction=FIRST,
        allowance_fn=spread_budget(calls),
    )
    first = start(ground.labelled(draw.scarce), student.thetas)
    *_, last = agora(first, ground.labelled(draw.dev), calls=callables)
    return last.train


def nearest(ground: Ground, queries: Int[np.ndarray, " q"], k: int, used) -> tuple:
    """The nearest k unused pool rows of each, by cosine; row −1 where there are no more."""
    alike = ground.vectors[queries] @ ground.vectors[ground.draw.pool].T
    alike[:, list(used)] = -np.inf
    rows = np.argsort(-alike, axis=1, kind="stable")[:, :k]
    found = np.take_along_axis(alike, rows, axis=1)
    return np.where(np.isneginf(found), -1, rows), np.maximum(1 - found, 0).astype(float)

# SPDX-License-Identifier: Apache-2.0
"""The arms of `agora_study.py`: uses of the same rows, the same Socrates and as many calls."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
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
from bort_jax.agora.theta import Theta as Pairs

FIRST = 0.25  # of dev, near which Agora's first points are


class Ground(NamedTuple):
    """All that an arm may use.

    Attributes:
      answers: Socrates' probabilities at his temperature; NaN for the rows that he learnt from.
    """

    table: Table
    vectors: Float[np.ndarray, "n h"]
    draw: Draw
    student: Student
    answers: Float[np.ndarray, "n c"]

    def label_fn(self, x: Int[np.ndarray, "n 1"]) -> Float[np.ndarray, "n c"]:
        """Socrates: points to probabilities."""
        return self.answers[x[:, 0]]

    def labelled(self, rows: Int[np.ndarray, " n"]) -> Dataset:
        """Rows with their true labels."""
        return Dataset(rows[:, None], self.table.labels[rows].astype(np.int32))

    def asked(self, rows: Int[np.ndarray, " n"]) -> Dataset:
        """Rows with Socrates' answers."""
        return Dataset.of_answers(rows[:, None], self.label_fn(rows[:, None]))

    def right(self, model, rows: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """Which rows a model has right."""
        return self.student.chances(model, rows).argmax(axis=1) == self.table.labels[rows]

    def best(self, thetas: Sequence[Pairs], train: Dataset) -> Any:
        """The model that is best on dev."""
        models = list(self.student.fit_all(thetas, train))
        return max(models, key=lambda one: self.right(one, self.draw.dev).mean())


def socrates_answers(table: Table, draw: Draw, student: Student) -> Float[np.ndarray, "n c"]:
    """He learns the taught half and answers for all else; his temperature is fitted on dev."""
    theta = student.thetas[len(student.thetas) // 2]
    taught = Dataset(draw.taught[:, None], table.labels[draw.taught].astype(np.int32))
    model = next(iter(student.fit_all([theta], taught)))
    raw = lambda x: student.chances(model, x[:, 0])
    temperature = fit_temperature(raw(draw.dev[:, None]), table.labels[draw.dev])
    others = np.setdiff1d(np.arange(len(table.labels)), draw.taught)
    answers = np.full((len(table.labels), table.classes), np.nan, np.float32)
    answers[others] = at_temperature(raw, temperature)(others[:, None])
    return answers


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
    """Test accuracy: the mean over the groups of Θ."""
    best = [ground.best(group, train) for group in ground.student.groups]
    return float(np.mean([ground.right(model, ground.draw.test).mean() for model in best]))


def margin(chances: Float[np.ndarray, "n c"]) -> Float[np.ndarray, " n"]:
    ranked = np.sort(chances, axis=1)
    return ranked[:, -1] - ranked[:, -2]


def most_doubted(ground: Ground, calls: int) -> Int[np.ndarray, " n"]:
    """The pool's rows that plain fine-tuning doubts most."""
    best = ground.best(ground.student.thetas, ground.labelled(ground.draw.scarce))
    doubt = margin(ground.student.chances(best, ground.draw.pool))
    return ground.draw.pool[np.argsort(doubt, kind="stable")[:calls]]


def agora_set(ground: Ground, calls: int, *, parents: str) -> Dataset:
    """The last set of a run of Agora: τ retrieve within the budget."""
    draw, student = ground.draw, ground.student
    retrieval = Retrieval(
        search_fn=lambda rows, k, used: nearest(ground, draw.dev[rows], k, used),
        read_fn=lambda found: draw.pool[found][:, None],
        doubt_fn=lambda model, x: margin(student.chances(model, x[:, 0])),
        samples_per_error=1,
    )
    callables = Agora(
        fit_fn=student.fit_all,
        score_fn=lambda model, dev: ground.right(model, dev.x[:, 0]),
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

# SPDX-License-Identifier: Apache-2.0
"""Answers a file of any size in steady memory, in the order of its rows."""

from pathlib import Path
from typing import NamedTuple

from bort_jax.data.corpus import open_source
from bort_jax.report.terminal import progress_bar
from bort_jax.stages.predict.predictors import Predictor
from bort_jax.tasks.stream import (
    ReadRow,
    examples_in,
    read_each,
    skip_answered,
    stop_at_wrong,
    windows,
)

WINDOW = 1024  # examples: rows of like lengths are found among so many, and a kill costs as many


class Answered(NamedTuple):
    """A file of answers: how many it has, and how many rows of this call could not be read."""

    file: Path
    answers: int
    wrong: int


def answer_file(predictor: Predictor, source: str, out: Path, *, keep_wrong: bool) -> Answered:
    """Answers the rows that have no answer yet in the predictor's file of `out`.

    Args:
      keep_wrong: whether an answer says why a row cannot be read.

    Raises:
      ValueError: a row cannot be read, and `keep_wrong` is not given; the rows before it were
        answered.
    """
    answers = predictor.open(out / predictor.file)
    try:
        done, kept, rows = skip_answered(read_each(source, predictor.task), answers.rows)
        answers.truncate(kept)
        rows = rows if keep_wrong else stop_at_wrong(rows, hint="--bad-rows keep goes on")
        wrong = 0
        total = open_source(source).about_rows()
        with progress_bar("predict", total=total, done=done, unit="row") as bar:
            for window in windows(rows, WINDOW):
                answers.add(answer_window(window, predictor))
                wrong += sum(bool(row.wrong) for row in window)
                bar.update(len(window))
    finally:
        answers.close()
    return Answered(out / predictor.file, answers.rows, wrong)


def answer_window(window: list[ReadRow], predictor: Predictor) -> list:
    """The answers of a window in the order of its rows."""
    examples = examples_in(window)
    answered = iter(predictor.answer(examples) if examples.texts else ())
    return [
        answer
        for row in window
        for answer in (
            [predictor.error_answer(row.wrong)]
            if row.wrong
            else [next(answered) for _ in row.items]
        )
    ]

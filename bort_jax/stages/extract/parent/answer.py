# SPDX-License-Identifier: Apache-2.0
"""Another answer from a finished run inside a parent: nothing is measured, no device is touched."""

import time
from pathlib import Path

from bort_jax.ose.budget import Budget
from bort_jax.report.terminal import say
from bort_jax.stages.extract.parent.result import read_result
from bort_jax.stages.extract.parent.search import (
    Found,
    best_of_depths,
    check_budget,
    parent_fits,
    parent_itself,
)
from bort_jax.stages.extract.parent.show import Answer, show


def answer_inside(run: Path, budget: Budget, *, pick: int | None, out: str | None) -> Found:
    """Another budget, or a network of the front, from what a finished run has measured."""
    start = time.monotonic()
    choices, known, picked = read_result(run)
    check_budget(choices, budget)
    if pick is not None:
        best, others = picked_from(picked, pick, budget), []
    elif parent_fits(choices, budget):
        best, others = parent_itself(choices), []
    else:
        best, *others = best_of_depths(choices, budget, known)
    shown = Answer(choices, best, others, picked, known)
    show(shown, Path(out) if out else None, run=run)
    say(f"answered in {time.monotonic() - start:.2f} s, nothing measured")
    if out:
        from bort_jax.stages.extract.parent.weights import write_again  # takes seconds to import

        write_again(shown, run, Path(out))
    return best


def picked_from(picked: list[Found], pick: int, budget: Budget) -> Found:
    """The network of the front with this number, from 1."""
    if budget.ceilings or budget.floors:
        raise ValueError("--pick names a network: leave the budget out")
    if not 1 <= pick <= len(picked):
        raise ValueError(f"--pick must lie between 1 and {len(picked)}; got {pick}")
    return picked[pick - 1]

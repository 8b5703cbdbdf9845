# SPDX-License-Identifier: Apache-2.0
"""The answer of an extraction in the terminal; and under another budget, without training."""

import time
from collections.abc import Sequence
from pathlib import Path

from bort_jax.arch import Arch
from bort_jax.ose import Budget, Extraction, resolve
from bort_jax.ose.table import load_table, save_table
from bort_jax.report.terminal import say, show_box, show_table
from bort_jax.stages.extract.tables import HEADER, READING, SHOWN, certificate_lines, ranking_rows


def answer_again(run_folder: str, budget: Budget, *, out: str | None) -> Extraction:
    """Another budget for a finished run; `out` keeps the answer, if it is given."""
    table = load_table(run_folder, Arch)
    if "latency_ms" in budget.ceilings and "latency_ms" not in table.candidates.columns:
        raise ValueError("this run has timed no latencies: extract with --latency to limit them")
    extraction = resolve(table, budget=budget)
    if out:
        Path(out).mkdir(parents=True, exist_ok=True)
        save_table(extraction, Path(out))
    show_extraction(extraction, Path(out or run_folder))
    return extraction


def show_extraction(extraction: Extraction, out: Path, *, latencies: Sequence[tuple] = ()) -> None:
    show_table("trained architectures, largest W first", HEADER, ranking_rows(extraction)[:SHOWN])
    say(READING)
    if latencies:
        show_table("latency", ("architecture", "predicted, ms", "measured, ms"), latencies)
    runner_up = extraction.runner_up
    show_box(
        "extraction",
        [
            f"best: {extraction.best_arch}   runner-up: "
            f"{'none' if runner_up is None else extraction.archs[runner_up]}   "
            f"T: {extraction.maximum_point}",
            f"budget: {extraction.budget}   i: {extraction.candidates.inference}",
            *certificate_lines(extraction),
            f"all of it: {out}",
            f"next: bort-jax pretrain --arch {extraction.best_arch} --data DATA --out OUT",
            f"or:   bort-jax extract --from {out} --max-params "
            f"{0.8 * extraction.params[extraction.best]:.3g}",
        ],
    )


class Announcer:
    """Says each result as it comes, with how many are left and how long they may take.

    Args:
      total: results to come; None: nobody knows yet.
    """

    def __init__(self, total: int | None):
        self.total, self.done, self.start = total, 0, time.monotonic()

    def __call__(self, arch: Arch, error: float) -> None:
        self.done += 1
        of = f"/{self.total}" if self.total else ""
        say(f"  [{self.done}{of}] e({arch}) = {error:.4f}{self._time_left()}")

    def _time_left(self) -> str:
        if not self.total or self.done >= self.total:
            return ""
        seconds = (time.monotonic() - self.start) / self.done * (self.total - self.done)
        return f"   about {seconds:.0f} s left" if seconds >= 1 else ""

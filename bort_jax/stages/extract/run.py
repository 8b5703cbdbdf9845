# SPDX-License-Identifier: Apache-2.0
"""An extraction from its options to its answer."""

from pathlib import Path

from bort_jax.arch import Arch
from bort_jax.ose import Extraction, LayerwiseSolution, resolve
from bort_jax.ose.table import load_table, save_table
from bort_jax.report.terminal import say, show_box, show_table
from bort_jax.stages.extract.config import Config, budget_of, check
from bort_jax.stages.extract.tables import HEADER, READING, SHOWN, certificate_lines, ranked


def run(config: Config) -> Extraction | LayerwiseSolution:
    check(config)
    if config.from_run:
        return resolved(config, config.from_run)
    if config.search == "layerwise":
        from bort_jax.stages.extract import layerwise

        return layerwise.run(config)
    return uniform(config)


def uniform(config: Config) -> Extraction:
    """A search over uniform networks, and what it found."""
    from bort_jax.stages.extract.uniform import searched  # training takes a second to import

    extraction, latencies = searched(config)
    show(extraction, Path(str(config.out)), latencies)
    return extraction


def resolved(config: Config, run_folder: str) -> Extraction:
    """Another budget for a finished run."""
    table = load_table(run_folder, Arch)
    extraction = resolve(table, budget=budget_of(config))
    if config.out:
        Path(config.out).mkdir(parents=True, exist_ok=True)
        save_table(extraction, Path(config.out))
    show(extraction, Path(config.out or run_folder), [])
    return extraction


def show(extraction: Extraction, out: Path, latencies: list[tuple]) -> None:
    rows = ranked(extraction)
    show_table("trained architectures, largest W first", HEADER, rows[:SHOWN])
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

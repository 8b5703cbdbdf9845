# SPDX-License-Identifier: Apache-2.0
"""The results of a compression: a record, a table in the terminal, one page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bort_jax.arch import LayerwiseArch
from bort_jax.report import page
from bort_jax.report.terminal import say, show_box, show_table
from bort_jax.stages.compress import plots
from bort_jax.stages.compress.table import Line, gap_to, header, verdict
from bort_jax.stages.extract import plots as extract_plots
from bort_jax.stages.extract.parent.page import agreement_plot
from bort_jax.stages.extract.parent.result import RESULT, read_result
from bort_jax.stages.extract.parent.search import parent_itself

READING = (
    "± is a 95 % interval over the test rows. Multiply-adds are those of the layers, for a row of "
    "full length; latency is one such row on this machine. Weights are in 32 bits, of layers at "
    "their own sizes: a folder for stock classes fills them up to one size, ONNX does not."
)


def record(lines: Sequence[Line], *, exported: Sequence[str], seconds: dict) -> dict[str, Any]:
    """What `OUT/results.json` holds."""
    return {
        "models": [line.summary() for line in lines],
        "gaps_of_student": gap_to(lines),
        "verdict": verdict(lines),
        "export": list(exported),
        "seconds": seconds,
    }


def show(out: Path, lines: Sequence[Line], results: dict, *, data: str) -> None:
    """The table, what follows from it, and the next command."""
    show_table("on the test rows", header(lines), [line.cells() for line in lines])
    say(READING)
    show_box(
        "compression",
        [
            *results["verdict"],
            *results["export"],
            f"{sum(results['seconds'].values()):.0f} s; all of it: {out}/report.html",
            f"next: bort-jax predict --model {out}/model --data FILE --out ANSWERS",
            f"or:   bort-jax convert {out}/model SERVED --to onnx",
            f"or:   bort-jax evaluate --model {out}/model --data {data}/test.parquet",
        ],
    )


def write(out: Path, lines: Sequence[Line], results: dict, *, chosen: LayerwiseArch) -> None:
    """`report.html`."""
    page.write_page(out / "report.html", "Compression", blocks(out, lines, results, chosen=chosen))


def blocks(out: Path, lines: Sequence[Line], results: dict, *, chosen: LayerwiseArch) -> list[str]:
    """A compression's part of a report page."""
    choices, known, front = read_result(out / "extract")
    parts = [
        *map(page.paragraph, results["verdict"]),
        page.table(header(lines), [line.cells() for line in lines]),
        page.paragraph(READING),
        page.figure(plots.staircase(lines), "The models, stage by stage; bars are intervals."),
        page.figure(
            extract_plots.layers(parent_itself(choices).arch, chosen),
            "The parent and the student, layer by layer: heads in blue, units in orange. A layer "
            "that is skipped is a line.",
        ),
        page.figure(
            plots.accuracy_by_cost(lines),
            "What the models cost and how good they are; the line is the count of words.",
        ),
        page.figure(
            plots.error_by_cost(front, parent_itself(choices), chosen),
            "The networks inside the parent that no other one beats, before any training.",
        ),
    ]
    if known:
        caption = "Errors measured jointly against sums over layers; on the line they agree."
        parts.append(page.figure(agreement_plot(list(known.values())), caption))
    return [
        *parts,
        page.heading("Seconds"),
        page.table(("stage", "seconds"), results["seconds"].items()),
        page.paragraph(f"The extraction by itself: extract/report.html, extract/{RESULT}."),
    ]

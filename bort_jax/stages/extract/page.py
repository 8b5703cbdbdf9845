# SPDX-License-Identifier: Apache-2.0
"""An extraction's part of a report page: pictures, and what `report.extraction` says."""

from collections.abc import Sequence

from bort_jax.ose import Extraction
from bort_jax.report import page
from bort_jax.stages.extract import plots
from bort_jax.stages.extract.tables import HEADER, READING, SHOWN, certificate_lines, ranked

W_CAPTION = (
    "W of every architecture, by falling savings: dots were measured, lines reach up to the "
    "largest W that the assumption of the search leaves possible."
)


def blocks(extraction: Extraction, *, latencies: Sequence[tuple] = ()) -> list[str]:
    """The extraction's part of a report page.

    Args:
      latencies: (architecture, predicted ms, measured ms), where latency was measured.
    """
    shown = ranked(extraction)
    parts = [
        page.paragraph(f"Largest W: {extraction.best_arch}. Budget: {extraction.budget}."),
        page.figure(plots.front(extraction), "Ticks at the foot: every architecture of the space."),
        page.table(HEADER, shown[:SHOWN]),
        page.paragraph(READING + _left_out(shown)),
        *map(page.paragraph, certificate_lines(extraction)),
        page.figure(plots.w_over_space(extraction), W_CAPTION),
        page.figure(
            plots.networks([extraction.best_arch, extraction.maximum_point]),
            "The network that was chosen beside T, to one scale.",
        ),
    ]
    if latencies:
        parts += [
            page.figure(plots.latency(latencies), "Milliseconds of one forward pass."),
            page.table(("architecture", "predicted, ms", "measured, ms"), latencies),
        ]
    return parts


def _left_out(rows: list[tuple]) -> str:
    return f" {len(rows) - SHOWN} more are in extraction.parquet." if len(rows) > SHOWN else ""

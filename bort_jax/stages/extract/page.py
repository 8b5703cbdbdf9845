# SPDX-License-Identifier: Apache-2.0
"""An extraction on disk and on a report page."""

from collections.abc import Sequence
from pathlib import Path

from bort_jax.arch import SearchSpace
from bort_jax.cost import bert_network
from bort_jax.ose import Extraction
from bort_jax.ose.abnc import is_abnc
from bort_jax.ose.table import save_table
from bort_jax.report import page
from bort_jax.report.plots import close
from bort_jax.stages.extract import plots
from bort_jax.stages.extract.tables import HEADER, READING, SHOWN, certificate_lines, ranking_rows

W_CAPTION = (
    "W of every architecture, by falling savings: dots were measured, lines reach up to the "
    "largest W that the assumption of the search leaves possible."
)


def write_extraction(
    extraction: Extraction, out: Path, space: SearchSpace, latencies: Sequence[tuple]
) -> None:
    """`extraction.parquet` with all of Ξ, `extraction.json` with the answer, `report.html`.

    Args:
      latencies: (architecture, predicted ms, measured ms); empty if latency was not measured.
    """
    network = bert_network(
        vocab_size=space.vocab_size, positions=space.positions, seq_len=space.positions
    )
    abnc = str(is_abnc(network, points=extraction.archs)).splitlines()
    save_table(extraction, out, abnc=abnc, latency=[list(row) for row in latencies])
    picture = plots.front(extraction)
    picture.savefig(out / "front.png", dpi=120, bbox_inches="tight")
    close(picture)
    parts = blocks(extraction, latencies=latencies)
    parts += [page.heading("AB^nC"), *map(page.paragraph, abnc)]
    page.write_page(out / "report.html", "Extraction", parts)


def blocks(extraction: Extraction, *, latencies: Sequence[tuple] = ()) -> list[str]:
    """The extraction's part of a report page.

    Args:
      latencies: (architecture, predicted ms, measured ms), where latency was measured.
    """
    shown = ranking_rows(extraction)
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

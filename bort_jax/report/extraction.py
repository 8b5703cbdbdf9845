# SPDX-License-Identifier: Apache-2.0
"""An extraction in words, tables and pictures."""

from collections.abc import Sequence

import numpy as np

from bort_jax.ose import Extraction
from bort_jax.report import page, plots

HEADER = ("architecture", "p", "i", "e", "W", "e ratio", "break-even", "front", "s")
READING = (
    "“e ratio” is the winner's error over this one's; the winner is ahead while it stays below "
    "“break-even”. “s”: seconds of training."
)
SHOWN = 20


def ranked(extraction: Extraction) -> list[tuple]:
    """Rows for `HEADER`: the trained within the budget, largest W first."""
    allowed = extraction.budget.met({**extraction.candidates.columns, "error": extraction.errors})
    inside = [k for k in extraction.trained if allowed[k]]
    order = sorted(inside, key=lambda k: (k != extraction.best, -extraction.w[k]))
    return [
        (
            str(extraction.archs[k]),
            extraction.params[k].item(),
            extraction.steps[k].item(),
            float(extraction.errors[k]),
            float(extraction.w[k]),
            float(extraction.errors[extraction.best] / extraction.errors[k]),
            float(extraction.break_even[k]),
            "yes" if extraction.front[k] else "",
            round(float(extraction.seconds[k]), 1),
        )
        for k in order
    ]


def certificate_lines(extraction: Extraction) -> list[str]:
    """What is guaranteed, what it rests on, and where that failed."""
    certificate = extraction.certificate
    lines = [
        f"{certificate.search} search, ε = {certificate.epsilon}: trained {certificate.trained} of "
        f"{certificate.members} architectures in {extraction.seconds.sum():.0f} s"
        + (f"; {certificate.failed} trainings failed" if certificate.failed else ""),
        _bound_line(extraction),
        f"measured: {certificate.violations} of {certificate.pairs} pairs break that, by a factor "
        f"of {certificate.rho:.3f} at the most, and the bound allows for it",
    ]
    lines += [
        f"  {larger} erred {ratio:.3f} times as often as the smaller {smaller}"
        for smaller, larger, ratio in certificate.worst[:2]
    ]
    return lines + spread_lines(extraction)


def _bound_line(extraction: Extraction) -> str:
    certificate = extraction.certificate
    if not np.isfinite(certificate.bound):
        return "bound: none, too little was measured"
    if certificate.trained == certificate.members:
        return "bound: W is the largest: every architecture was measured"
    within = " within the budget" if str(extraction.budget) != "none" else ""
    return (
        f"bound: W is at least {certificate.ratio:.3f} of the largest W{within}, if "
        f"{certificate.assumption}"
    )


def spread_lines(extraction: Extraction) -> list[str]:
    """How far errors and costs lie apart; a warning where p and i alone decided."""
    if len(extraction.trained) < 2:
        return []
    errors, savings = extraction.spread
    lines = [
        f"spread (largest/smallest) among the trained: e {errors:.3f}, savings of p and i "
        f"{savings:.3f}"
    ]
    if extraction.costs_decided:
        lines.append(
            "NOTE: with equal errors the winner would be the same: p and i decided; more --steps, "
            "another --measure, or a space whose members differ more in error, would let e speak"
        )
    return lines


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


W_CAPTION = (
    "W of every architecture, by falling savings: dots were measured, lines reach up to the "
    "largest W that the assumption of the search leaves possible."
)


def _left_out(rows: list[tuple]) -> str:
    return f" {len(rows) - SHOWN} more are in extraction.parquet." if len(rows) > SHOWN else ""

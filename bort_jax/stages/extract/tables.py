# SPDX-License-Identifier: Apache-2.0
"""An extraction in words and tables."""

import numpy as np

from bort_jax.ose import Extraction
from bort_jax.ose.extraction import TRAINED

HEADER = ("architecture", "p", "i", "e", "W", "e ratio", "break-even", "front", "s")
READING = (
    "“e ratio” is the winner's error over this one's; the winner is ahead while it stays below "
    "“break-even”. “s”: seconds of training."
)
SHOWN = 20


def ranking(extraction: Extraction) -> list[int]:
    """Indices of the trained within the budget, largest W first."""
    allowed = extraction.budget.allows(
        {**extraction.candidates.columns, "error": extraction.errors}
    )
    inside = [int(k) for k in extraction.trained_rows if allowed[k]]
    return sorted(inside, key=lambda k: (k != extraction.best, -extraction.w[k]))


def ranking_rows(extraction: Extraction) -> list[tuple]:
    """Rows for `HEADER`, largest W first."""
    return [
        (
            str(extraction.archs[k]),
            extraction.params[k].item(),
            extraction.inference_cost[k].item(),
            float(extraction.errors[k]),
            float(extraction.w[k]),
            float(extraction.errors[extraction.best] / extraction.errors[k]),
            float(extraction.break_even[k]),
            "yes" if extraction.front[k] else "",
            round(float(extraction.seconds[k]), 1),
        )
        for k in ranking(extraction)
    ]


def certificate_lines(extraction: Extraction) -> list[str]:
    """The guarantee, what it rests on, and where that failed."""
    certificate = extraction.certificate
    lines = [
        f"{certificate.search} search, ε = {certificate.epsilon}: trained {certificate.trained} of "
        f"{certificate.members} architectures in {extraction.seconds.sum():.0f} s"
        + (f"; {certificate.failed} trainings failed" if certificate.failed else ""),
        _bound_line(extraction),
        f"checked: {certificate.violations} of {certificate.pairs} measured pairs break “"
        f"{certificate.assumption}”, by a factor of {certificate.rho:.3f} at the most; the bound "
        "allows for it",
    ]
    lines += [
        f"  {larger} erred {ratio:.3f} times as often as the smaller {smaller}"
        for smaller, larger, ratio in certificate.worst[:2]
    ]
    if certificate.evidence != TRAINED:
        lines[0] = lines[0].replace("trained", "looked up", 1)
        lines.append(f"NOTE: the errors are predictions, and so is W: {certificate.evidence}")
    return lines + spread_lines(extraction)


def _bound_line(extraction: Extraction) -> str:
    certificate = extraction.certificate
    if not np.isfinite(certificate.bound):
        return "bound: none, too little was measured"
    if certificate.trained == certificate.members:
        return "bound: W is the largest of these errors, which cover every architecture"
    within = " within the budget" if str(extraction.budget) != "none" else ""
    return (
        f"bound: W is at least {certificate.ratio:.3f} of the largest W{within}, if what was not "
        "trained is like what was:"
    )


def spread_lines(extraction: Extraction) -> list[str]:
    """Ranges of errors and costs; a warning where p and i alone decided."""
    if len(extraction.trained_rows) < 2:
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

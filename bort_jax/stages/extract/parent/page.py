# SPDX-License-Identifier: Apache-2.0
"""An answer inside a parent as a page."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.ticker import EngFormatter

from bort_jax.report import page
from bort_jax.report.plots import BLUE, GREY, ORANGE
from bort_jax.stages.extract import plots
from bort_jax.stages.extract.parent.search import Checked, parent_itself
from bort_jax.stages.extract.parent.show import HEADER, READING, Answer, certificate, row, rows


def write_page(answer: Answer, out: Path) -> None:
    """`report.html`."""
    parent = parent_itself(answer.choices)
    drawn = "The parent and the answer, layer by layer; a layer that is skipped is a line."
    parts = [
        page.paragraph(f"Largest W: {answer.best.arch}."),
        page.figure(plots.layers(parent.arch, answer.best.arch), drawn),
        page.table(HEADER, rows(answer)),
        page.paragraph(READING),
        *map(page.paragraph, certificate(answer)),
        page.figure(front_plot(answer), "The front, with the parent on it."),
        page.table(("K", *HEADER), [(k, *row(one)) for k, one in enumerate(answer.front, 1)]),
    ]
    if answer.known:
        caption = "Joint errors against sums over layers; on the line they agree."
        parts.append(page.figure(agreement_plot(list(answer.known.values())), caption))
    page.write_page(out / "report.html", "Extraction inside a parent", parts)


def front_plot(answer: Answer):
    """e over p and over i."""
    drawn, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True)
    parent = parent_itself(answer.choices)
    for axis, name in zip(axes, ("params", "macs"), strict=True):
        cost = lambda one, name=name: getattr(one, name)
        axis.scatter([*map(cost, answer.front)], [one.error for one in answer.front], color=BLUE)
        axis.scatter(cost(parent), parent.error, color=GREY, marker="s", label="parent")
        best = answer.best
        axis.scatter(cost(best), best.error, s=180, fc="none", ec=ORANGE, lw=2, label="answer")
        axis.set(xlabel=name)
        axis.xaxis.set_major_formatter(EngFormatter())
        axis.grid(alpha=0.25)
    axes[0].set_ylabel("error e")
    axes[1].legend(frameon=False)
    return drawn


def agreement_plot(known: Sequence[Checked]):
    """Measured e over the surrogate."""
    drawn, axis = plt.subplots(figsize=(5, 4.5))
    least, most = (end(end(one) for one in known) for end in (min, max))
    room = 0.1 * (most - least) or 0.1 * most
    ends = (least - room, most + room)
    axis.plot(ends, ends, color=GREY, linewidth=1)
    axis.scatter([one.surrogate for one in known], [one.error for one in known], color=BLUE)
    axis.set(xlabel="surrogate", ylabel="measured", xlim=ends, ylim=ends)
    axis.grid(alpha=0.25)
    return drawn

# SPDX-License-Identifier: Apache-2.0
"""Pictures of a compression: accuracy stage by stage, and against what it costs."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.ticker import EngFormatter

from bort_jax.arch import LayerwiseArch
from bort_jax.report.plots import BLUE, GREY, ORANGE
from bort_jax.stages.compress.table import AGORA, COUNTS, PARENT, PLAIN, REFITTED, STUDENT, Line
from bort_jax.stages.extract.parent.search import Found

STAIRS = (COUNTS, PLAIN, REFITTED, STUDENT, AGORA, PARENT)
COLOURS = {COUNTS: GREY, PLAIN: GREY, PARENT: BLUE}  # others are on the way to the student


def staircase(lines: Sequence[Line]):
    """Accuracies with their intervals: what there is without the parent, the way, the parent."""
    by_name = {line.name: line for line in lines}
    shown = [by_name[name] for name in STAIRS if name in by_name]
    drawn, axis = plt.subplots(figsize=(10, 3.6))
    for place, line in enumerate(shown):
        score = line.accuracy
        axis.barh(place, score.mean, color=COLOURS.get(line.name, ORANGE), height=0.7)
        axis.errorbar(score.mean, place, xerr=score.margin, color="black", capsize=3)
        axis.text(0.5, place, f"{score.mean:.1f}", va="center", color="white", fontsize=10)
    axis.set(yticks=range(len(shown)), yticklabels=[line.name for line in shown])
    least = min(0.0, *(line.accuracy.mean for line in shown))  # scores may explain less than none
    axis.set(xlabel=shown[0].measure, xlim=(least, 100))
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25, axis="x")
    return drawn


def accuracy_by_cost(lines: Sequence[Line]):
    """Accuracy over encoder multiply-adds and over latency."""
    drawn, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True)
    for axis, (name, cost) in zip(
        axes,
        (("encoder macs", lambda line: line.macs), ("latency, ms", lambda line: line.ms)),
        strict=True,
    ):
        for line in lines:
            score = line.accuracy
            if cost(line) is None:
                axis.axhline(score.mean, color=GREY, linestyle="--")
                axis.annotate(
                    line.name, (0, score.mean), fontsize=8, color=GREY, xytext=(4, 4),
                    textcoords="offset points",
                )  # fmt: skip
                continue
            color = COLOURS.get(line.name, ORANGE)
            axis.errorbar(cost(line), score.mean, yerr=score.margin, fmt="o", color=color)
            axis.annotate(
                line.name, (cost(line), score.mean), fontsize=8, xytext=(6, 5),
                textcoords="offset points",
            )  # fmt: skip
        axis.set(xlabel=name, xlim=(0, 1.35 * max(cost(line) or 0 for line in lines)))
        axis.xaxis.set_major_formatter(EngFormatter())
        axis.grid(alpha=0.25)
    axes[0].set_ylabel(lines[0].measure)
    return drawn


def error_by_cost(front: Sequence[Found], parent: Found, chosen: LayerwiseArch):
    """e over multiply-adds: the front, the parent, and the network that was chosen."""
    drawn, axis = plt.subplots(figsize=(10, 4))
    axis.scatter([f.macs for f in front], [f.error for f in front], color=BLUE, label="front")
    axis.scatter(parent.macs, parent.error, color=GREY, marker="s", label="parent")
    for found in front:
        if found.arch == chosen:
            axis.scatter(
                found.macs, found.error, s=180, fc="none", ec=ORANGE, lw=2, label="student"
            )
    axis.set(xlabel="multiply-adds", ylabel="error e", xlim=(0, None), ylim=(0, None))
    axis.xaxis.set_major_formatter(EngFormatter())
    axis.grid(alpha=0.25)
    axis.legend(frameon=False)
    return drawn

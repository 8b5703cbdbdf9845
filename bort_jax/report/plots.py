# SPDX-License-Identifier: Apache-2.0
"""Pictures, with matplotlib and without a screen."""

from collections.abc import Mapping, Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
from matplotlib.ticker import EngFormatter  # noqa: E402

from bort_jax.ose import Extraction  # noqa: E402

BLUE, ORANGE, GREY = "#0b63b6", "#d9631e", "#8c959f"


def front(extraction: Extraction):
    """Error against parameters and against multiply-adds; all of Ξ below, as ticks."""
    drawn, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True)
    trained, best = extraction.trained, extraction.best
    sides = ((extraction.params, "parameters, p"), (extraction.steps, "multiply-adds, i"))
    for axis, (costs, label) in zip(axes, sides, strict=True):
        on_front = extraction.front[trained]
        axis.scatter(costs[trained], extraction.errors[trained], color=GREY, label="trained")
        axis.scatter(
            costs[trained][on_front],
            extraction.errors[trained][on_front],
            color=BLUE,
            label="Pareto front of (p, i, e)",
        )
        axis.scatter(
            costs[best],
            extraction.errors[best],
            s=180,
            facecolors="none",
            edgecolors=ORANGE,
            linewidths=2,
            label=f"largest W: {extraction.best_arch}",
        )
        axis.plot(
            costs,
            np.zeros(len(costs)),
            "|",
            color=GREY,
            alpha=0.6,
            clip_on=False,
            transform=axis.get_xaxis_transform(),
        )
        axis.set(xlabel=label)
        axis.xaxis.set_major_formatter(EngFormatter())
        axis.grid(alpha=0.25)
    axes[0].set_ylabel("error e")
    axes[0].legend(frameon=False, fontsize=9)
    return drawn


def curves(runs: Mapping[str, Sequence[Mapping[str, float]]], key: str, ylabel: str):
    """One line for each run's metrics records."""
    drawn, axis = plt.subplots(figsize=(10, 4))
    for color, (name, records) in zip((BLUE, ORANGE, GREY), runs.items(), strict=False):
        points = [(record["step"], record[key]) for record in records if key in record]
        if points:
            axis.plot(*zip(*points, strict=True), label=name, color=color)
    axis.set(xlabel="step", ylabel=ylabel)
    axis.grid(alpha=0.25)
    axis.legend(frameon=False)
    return drawn


def rounds(numbers: Sequence[int], series: Mapping[str, Sequence[float]], sizes: Sequence[int]):
    """Agora round by round: accuracies above, size of the train set below."""
    drawn, (upper, lower) = plt.subplots(2, 1, figsize=(10, 5), sharex=True, height_ratios=(3, 1))
    for color, (name, values) in zip((BLUE, ORANGE, GREY), series.items(), strict=False):
        upper.plot(numbers, values, marker="o", label=name, color=color)
    upper.set_ylabel("accuracy")
    upper.grid(alpha=0.25)
    upper.legend(frameon=False)
    lower.bar(numbers, sizes, color=GREY)
    lower.set(xlabel="round", ylabel="train rows", xticks=list(numbers))
    return drawn

# SPDX-License-Identifier: Apache-2.0
"""Pictures, with matplotlib and without a screen."""

import os
from collections.abc import Mapping, Sequence

import matplotlib

if not os.environ.get("MPLBACKEND"):  # a notebook's own pictures stay where it shows them
    matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
from matplotlib.ticker import LogLocator  # noqa: E402

BLUE, ORANGE, GREY, GREEN = "#0b63b6", "#d9631e", "#8c959f", "#3f7d3a"


close = plt.close


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


def by_calls(lines: Mapping[str, Sequence[tuple[int, Sequence[float]]]]):
    """Mean accuracy over seeds by calls of Socrates; the band is one standard deviation."""
    drawn, axis = plt.subplots(figsize=(10, 4))
    for color, (name, points) in zip((BLUE, GREY), lines.items(), strict=False):
        calls, scores = zip(*points, strict=True)
        mean, spread = (np.array([f(one) for one in scores]) for f in (np.mean, np.std))
        axis.plot(calls, mean, marker="o", label=name, color=color)
        axis.fill_between(calls, mean - spread, mean + spread, color=color, alpha=0.15)
    axis.set(xlabel="calls of Socrates for new texts", ylabel="accuracy on report-dev")
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


def races(rows: Sequence[str], panels: Mapping[str, Mapping[str, Sequence[Sequence[float]]]]):
    """A panel for each shape, a line for each of `rows`, in it a point for each program.

    `panels` holds (least, median, most) in ms, of every shape, program and row.
    """
    size = (3 + 4 * len(panels), 1.5 + len(rows))
    drawn, axes = plt.subplots(1, len(panels), figsize=size, sharey=True, squeeze=False)
    for axis, (shape, programs) in zip(axes[0], panels.items(), strict=True):
        for n, (name, times) in enumerate(programs.items()):
            least, median, most = np.transpose(times)
            places = np.arange(len(rows)) + 0.8 * ((n + 0.5) / len(programs) - 0.5)
            axis.errorbar(median, places, xerr=(median - least, most - median), fmt="o", label=name)
        axis.set(xscale="log", xlabel="ms", title=shape)
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter("")
        axis.grid(axis="x", alpha=0.25)
    axes[0, 0].set_yticks(range(len(rows)), rows)
    axes[0, 0].invert_yaxis()
    axes[0, -1].legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return drawn

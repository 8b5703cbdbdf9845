# SPDX-License-Identifier: Apache-2.0
"""Pictures, with matplotlib and without a screen."""

import os
from collections.abc import Mapping, Sequence

import matplotlib

if not os.environ.get("MPLBACKEND"):  # a notebook's own pictures stay where it shows them
    matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402

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


def bars(labels: Sequence[str], values: Sequence[float], xlabel: str):
    """A bar for each value, the first on top."""
    drawn, axis = plt.subplots(figsize=(8, 0.3 * len(values) + 1))
    axis.barh(labels, values, color=BLUE)
    axis.invert_yaxis()
    axis.set_xlabel(xlabel)
    return drawn

# SPDX-License-Identifier: Apache-2.0
"""Pictures, with matplotlib and without a screen."""

from collections.abc import Mapping, Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
from matplotlib.patches import Rectangle  # noqa: E402
from matplotlib.ticker import EngFormatter, MaxNLocator  # noqa: E402

from bort_jax.arch import Arch, LayerwiseArch  # noqa: E402
from bort_jax.ose import Extraction  # noqa: E402
from bort_jax.report.paired import Scores, gain, with_mean  # noqa: E402

BLUE, ORANGE, GREY, GREEN = "#0b63b6", "#d9631e", "#8c959f", "#3f7d3a"


close = plt.close


def front(extraction: Extraction):
    """The three objectives in pairs: e over p, e over i, and p over i with e as colour."""
    drawn, axes = plt.subplots(1, 3, figsize=(13, 4))
    trained, best = extraction.trained, extraction.best
    on_front = trained[extraction.front[trained]]
    sides = (("params", extraction.params), (extraction.candidates.inference, extraction.steps))
    for axis, (name, costs) in zip(axes, sides, strict=False):
        axis.scatter(costs[trained], extraction.errors[trained], color=GREY, label="trained")
        axis.scatter(
            costs[on_front],
            extraction.errors[on_front],
            color=BLUE,
            label="Pareto front of (p, i, e)",
        )
        _circled(axis, costs[best], extraction.errors[best], extraction.best_arch)
        _ticks(axis, costs)
        axis.set(xlabel=name, ylabel="error e")
    axes[0].legend(frameon=False, fontsize=8)
    dots = axes[2].scatter(
        extraction.params[trained], extraction.steps[trained], c=extraction.errors[trained]
    )
    _circled(axes[2], extraction.params[best], extraction.steps[best], None)
    axes[2].set(xlabel="params", ylabel=extraction.candidates.inference)
    axes[2].yaxis.set_major_formatter(EngFormatter())
    drawn.colorbar(dots, ax=axes[2], label="error e")
    for axis in axes:
        axis.xaxis.set_major_formatter(EngFormatter())
        axis.xaxis.set_major_locator(MaxNLocator(5))
        axis.grid(alpha=0.25)
    drawn.tight_layout()
    return drawn


def _circled(axis, x, y, arch) -> None:
    label = f"largest W: {arch}" if arch else None
    axis.scatter(x, y, s=180, facecolors="none", edgecolors=ORANGE, linewidths=2, label=label)


def _ticks(axis, values) -> None:
    """One mark at the foot for each value."""
    axis.plot(
        values,
        np.zeros(len(values)),
        "|",
        color=GREY,
        alpha=0.6,
        clip_on=False,
        transform=axis.get_xaxis_transform(),
    )


def w_over_space(extraction: Extraction):
    """W over Ξ in order of falling savings; what was not measured as the room it has."""
    drawn, axis = plt.subplots(figsize=(10, 3.6))
    places, trained = np.arange(len(extraction.archs)), extraction.trained
    possible = np.isnan(extraction.errors) & np.isfinite(extraction.upper)
    axis.vlines(
        places[possible], 0, extraction.upper[possible], color=GREY, alpha=0.4, linewidth=1,
        label="possible",
    )  # fmt: skip
    axis.scatter(places[trained], extraction.w[trained], color=BLUE, s=18, label="measured")
    _circled(axis, extraction.best, extraction.w[extraction.best], extraction.best_arch)
    axis.set(xlabel="architectures, by falling savings of p and i", ylabel="W", ylim=(0, None))
    axis.grid(alpha=0.25)
    axis.legend(frameon=False, fontsize=8)
    return drawn


def networks(archs: Sequence[Arch]):
    """Each network as a stack of layers, hidden and intermediate widths to one scale."""
    drawn, axes = plt.subplots(1, len(archs), figsize=(10, 4), sharex=True, sharey=True)
    for axis, arch in zip(np.atleast_1d(axes), archs, strict=True):
        for layer in range(arch.depth):
            _bar(axis, 2 * layer, arch.hidden, BLUE)
            _bar(axis, 2 * layer + 1, arch.intermediate, ORANGE)
            for head in range(1, arch.heads):
                x = arch.hidden * (head / arch.heads - 0.5)
                axis.plot(
                    [x, x], [2 * layer - 0.45, 2 * layer + 0.45], color="white", linewidth=0.6
                )
        axis.set(title=str(arch), xlabel="width", yticks=[])
        axis.spines[["top", "left", "right"]].set_visible(False)
    handles = [Rectangle((0, 0), 1, 1, color=color) for color in (BLUE, ORANGE)]
    drawn.legend(
        handles, ["attention, one block a head: hidden", "feed-forward: intermediate"],
        loc="outside lower center", ncols=2, frameon=False, fontsize=9,
    )  # fmt: skip
    drawn.subplots_adjust(bottom=0.22)
    return drawn


def layers(*archs: LayerwiseArch):
    """Layerwise networks side by side; a layer that is skipped is a line."""
    drawn, axes = plt.subplots(1, len(archs), figsize=(10, 4), sharex=True, sharey=True)
    for axis, arch in zip(np.atleast_1d(axes), archs, strict=True):
        for layer, (heads, wide) in enumerate(arch.layers):
            _bar(axis, 2 * layer, heads * arch.head_size, BLUE)
            _bar(axis, 2 * layer + 1, wide, ORANGE)
            if (heads, wide) == (0, 0):
                axis.plot([0, 0], [2 * layer - 0.5, 2 * layer + 1.5], color=GREY)
        axis.set(title=f"hidden {arch.hidden}, {arch.depth} layers", xlabel="width", yticks=[])
        axis.spines[["top", "left", "right"]].set_visible(False)
    return drawn


def _bar(axis, y: float, width: int, color: str) -> None:
    axis.barh(y, width, left=-width / 2, height=0.9, color=color)


def latency(rows: Sequence[tuple]):
    """Predicted against measured milliseconds; on the line they agree."""
    drawn, axis = plt.subplots(figsize=(5, 4.5))
    predicted, measured = np.array([row[1:3] for row in rows], dtype=float).T
    top = 1.05 * max(predicted.max(), measured.max())
    axis.plot([0, top], [0, top], color=GREY, linewidth=1)
    axis.scatter(predicted, measured, color=BLUE)
    _circled(axis, predicted[0], measured[0], rows[0][0])
    axis.set(xlabel="predicted, ms", ylabel="measured, ms", xlim=(0, top), ylim=(0, top))
    axis.legend(frameon=False, fontsize=8)
    axis.grid(alpha=0.25)
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


def gains(scores: Scores, *, over: str, ylabel: str):
    """How far each arm is above one of them, task by task, with 95 % intervals over seeds."""
    drawn, axis = plt.subplots(figsize=(10, 4.2))
    tasks = with_mean(scores)
    arms = [arm for arm in next(iter(tasks.values())) if arm != over]
    for place, (arm, color) in enumerate(zip(arms, (BLUE, ORANGE, GREY, GREEN), strict=False)):
        found = [gain(task[arm], task[over]) for task in tasks.values()]
        axis.errorbar(
            np.arange(len(found)) + 0.16 * (place - (len(arms) - 1) / 2),
            [one.mean for one in found],
            [one.margin for one in found],
            fmt="o", color=color, capsize=3, label=arm,
        )  # fmt: skip
    axis.axhline(0, color="black", linewidth=0.8)
    axis.set_xticks(range(len(tasks)), list(tasks))
    axis.set_ylabel(ylabel)
    axis.grid(axis="y", alpha=0.25)
    axis.legend(frameon=False, ncols=len(arms), loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return drawn

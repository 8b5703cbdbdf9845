# SPDX-License-Identifier: Apache-2.0
"""Pictures of an extraction: fronts, W, networks layer by layer, latency."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle
from matplotlib.ticker import EngFormatter, MaxNLocator

from bort_jax.arch import Arch, LayerwiseArch
from bort_jax.ose import Extraction
from bort_jax.report.plots import BLUE, GREY, ORANGE


def front(extraction: Extraction):
    """The three objectives in pairs: e over p, e over i, and p over i with e as colour."""
    drawn, axes = plt.subplots(1, 3, figsize=(13, 4))
    trained, best = extraction.trained_rows, extraction.best
    on_front = trained[extraction.front[trained]]
    sides = (
        ("params", extraction.params),
        (extraction.candidates.inference, extraction.inference_cost),
    )
    for axis, (name, costs) in zip(axes, sides, strict=False):
        axis.scatter(costs[trained], extraction.errors[trained], color=GREY, label="trained")
        axis.scatter(
            costs[on_front],
            extraction.errors[on_front],
            color=BLUE,
            label="Pareto front of (p, i, e)",
        )
        _circle(axis, costs[best], extraction.errors[best], extraction.best_arch)
        _ticks(axis, costs)
        axis.set(xlabel=name, ylabel="error e")
    axes[0].legend(frameon=False, fontsize=8)
    dots = axes[2].scatter(
        extraction.params[trained], extraction.inference_cost[trained], c=extraction.errors[trained]
    )
    _circle(axes[2], extraction.params[best], extraction.inference_cost[best], None)
    axes[2].set(xlabel="params", ylabel=extraction.candidates.inference)
    axes[2].yaxis.set_major_formatter(EngFormatter())
    drawn.colorbar(dots, ax=axes[2], label="error e")
    for axis in axes:
        axis.xaxis.set_major_formatter(EngFormatter())
        axis.xaxis.set_major_locator(MaxNLocator(5))
        axis.grid(alpha=0.25)
    drawn.tight_layout()
    return drawn


def _circle(axis, x, y, arch) -> None:
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
    places, trained = np.arange(len(extraction.archs)), extraction.trained_rows
    possible = np.isnan(extraction.errors) & np.isfinite(extraction.upper)
    axis.vlines(
        places[possible], 0, extraction.upper[possible], color=GREY, alpha=0.4, linewidth=1,
        label="possible",
    )  # fmt: skip
    axis.scatter(places[trained], extraction.w[trained], color=BLUE, s=18, label="measured")
    _circle(axis, extraction.best, extraction.w[extraction.best], extraction.best_arch)
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
    _circle(axis, predicted[0], measured[0], rows[0][0])
    axis.set(xlabel="predicted, ms", ylabel="measured, ms", xlim=(0, top), ylim=(0, top))
    axis.legend(frameon=False, fontsize=8)
    axis.grid(alpha=0.25)
    return drawn

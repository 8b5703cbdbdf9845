# SPDX-License-Identifier: Apache-2.0
"""Two stories on the same sentences: a parent compressed with many labels, and few labels."""

from pathlib import Path
from typing import Any

import numpy as np

from bort_jax.report import page
from bort_jax.report.paired import Gain, gain
from bort_jax.report.terminal import say, show_box, show_table
from bort_jax.stages.agora import page as agora_page
from bort_jax.stages.compress.inside import shape_of
from bort_jax.stages.compress.page import READING, blocks
from bort_jax.stages.compress.run import Compressed
from bort_jax.stages.compress.table import Line, header

SCARCE_HEADER = ("few labels", "right on test, %", "train rows", "seeds")


def few_labels(compared: dict, counts: list[Line]) -> dict[str, Any]:
    """Plain fine-tuning and Agora over seeds, the count of words, and what follows.

    Args:
      compared: what `stages.agora.run` returns.
    """
    scores = {side: 100 * np.array(compared[side]["test"]) for side in agora_page.SIDES}
    found = gain(scores["agora"], scores["plain"])
    rows = [
        (name, str_mean(scores[side]), compared[side]["train_rows"], len(scores[side]))
        for side, name in agora_page.SIDES.items()
    ]
    rows += [
        (line.name, f"{line.accuracy.mean:.1f}", compared["plain"]["train_rows"], "–")
        for line in counts
    ]
    ahead = [float(scores["agora"].mean() - line.accuracy.mean) for line in counts]
    return {
        "rows": rows,
        "agora_over_plain": found,
        "agora_over_counts": ahead[0] if ahead else None,
        "verdict": sentence(found, ahead),
    }


def str_mean(scores: np.ndarray) -> str:
    """Mean and half its 95 % interval over seeds, by Student's t."""
    found = gain(scores, np.zeros(len(scores)))
    return f"{found.mean:.1f} ± {found.margin:.1f}"


def sentence(found: Gain, ahead: list[float]) -> list[str]:
    """What the second story's numbers say, favourable or not."""
    sure = "beyond chance" if found.sure else "WITHIN chance"
    lines = [f"Agora against plain fine-tuning, seed by seed: {found} points, {sure}."]
    return lines + [f"Agora against counting words: {one:+.1f} points." for one in ahead]


def write_page(out: Path, many: Compressed, scarce: dict, compared: dict) -> None:
    """`report.html`, both stories."""
    parts = [
        page.heading("Many labels: the parent compressed"),
        *blocks(
            Path(out) / "compress",
            many.lines,
            many.results,
            chosen=shape_of(many.folders.student),
        ),
        page.heading("Few labels: the same shape from the raw parent's weights"),
        *map(page.paragraph, scarce["verdict"]),
        page.table(SCARCE_HEADER, scarce["rows"]),
        *agora_page.blocks(compared),
    ]
    page.write_page(out / "report.html", "bort-jax quickstart", parts)


def show(out: Path, many: Compressed, results: dict) -> None:
    """Both tables, what follows from them, and the next commands."""
    show_table("many labels", header(many.lines), [line.cells() for line in many.lines])
    show_table("few labels", SCARCE_HEADER, results["scarce"]["rows"])
    say(READING)
    model = f"{out}/compress/model"
    show_box(
        "quickstart",
        [
            *many.results["verdict"],
            *results["scarce"]["verdict"],
            f"{sum(results['seconds'].values()):.0f} s; all of it: {out}/report.html",
            f"next: bort-jax evaluate --model {model} --data {out}/data/rich/test.parquet",
            f"or:   bort-jax convert {model} SERVED --to onnx",
            "your own: bort-jax compress --parent FOLDER --data ROWS --out OUT",
        ],
    )

# SPDX-License-Identifier: Apache-2.0
"""A finished run as a record: its rounds, generated points beside their parents, its scores."""

from collections.abc import Sequence

import numpy as np

from bort_jax.agora import Round, Store
from bort_jax.data.row_text import point_texts
from bort_jax.stages.agora.material import Material


def round_line(rounds: Sequence[Round], *, report: float) -> dict:
    """The last of the rounds, with the scores on both halves of dev.

    Args:
      report: accuracy of the best copy so far on report-dev.
    """
    last, best = rounds[-1], max(one.accuracy for one in rounds)
    return {
        "round": last.number,
        "sets": len(last.accuracies),
        "steer": last.accuracy,
        "best_steer": best,
        "report": report,
        "gap": best - report,
        "mistakes": last.mistakes,
        "added": last.added,
        "asked": last.asked,
        "calls": sum(one.asked for one in rounds),
        "labels_added": {str(label): count for label, count in last.labels_added.items()},
        "train_size": last.train_size,
        "removed": [dict(theta) for theta in last.removed],
        "removed_by": dict(last.removed_by),
        "refused": last.refused,
        "distances": list(last.distances),
        "lift": last.lift and list(last.lift),
        "near": last.near,
    }


def example_points(store: Store, rounds: int, material: Material, *, each: int = 3) -> list[dict]:
    """Some generated points of every round beside their parents."""
    found = []
    for number in range(1, rounds + 1):
        points = store.lineage(number)
        for point in points[:: max(1, len(points) // each)][:each]:
            parent = material.steer.points.x[point["parent"]][None]
            label = material.cast.labels[int(point["label"])]
            texts = {"parent_text": point_texts(parent, material.tokenizer)[0], "label": label}
            found.append(point | texts)
    return found


def card_facts(summary: dict, *, source: str) -> dict[str, str]:
    """The run's lines on the model card."""
    facts = {"fine-tuned": f"Agora, {len(summary['rounds'])} rounds on {source}"}
    for split in ("report", "test"):
        scores = summary["agora"][split]
        if scores:
            facts[f"accuracy, {split}"] = f"{100 * np.mean(scores):.1f} %, mean over seeds"
    return facts

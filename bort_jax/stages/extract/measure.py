# SPDX-License-Identifier: Apache-2.0
"""The measures of e: four readings of how well a masked LM fills the masked positions."""

from typing import Literal, get_args

import numpy as np

Measure = Literal["error", "perplexity", "distillation", "excess"]
SMALLEST = 1e-6  # W divides by e: a measure of exactly 0 is raised to this


def check_measure(measure: str, *, has_teacher: bool) -> None:
    """Raises ValueError for an unknown measure, or for distillation without a teacher."""
    if measure not in get_args(Measure):
        choices = ", ".join(get_args(Measure))
        raise ValueError(f"measure must be one of {choices}; got {measure!r}")
    if (measure == "distillation") != has_teacher:
        raise ValueError("a teacher belongs to the measure distillation, and to no other")


def measure_from_sums(measure: Measure, sums: dict[str, float], *, unigram: float = 0.0) -> float:
    """The measure from sums over masked positions, at least SMALLEST; NaN if the loss is none.

    The measures (all *our reading* of an error rate for pretraining):
      error: share of the masked positions whose largest logit is another token.
      perplexity: exp of the mean cross-entropy; it may exceed 1.
      distillation: mean KL(teacher ‖ model) in nats.
      excess: perplexity as a share of a unigram model's (counts of the training text, plus
        one), exp(loss − unigram loss): 1 for a model that knows nothing but frequencies.
    """
    loss = sums["mlm"] / sums["count"]
    if not np.isfinite(loss):
        return float("nan")
    values = {
        "error": lambda: 1 - sums["correct"] / sums["count"],
        "perplexity": lambda: float(np.exp(loss)),
        "distillation": lambda: sums["divergence"] / sums["count"],
        "excess": lambda: float(np.exp(loss - unigram)),
    }
    return max(values[measure](), SMALLEST)

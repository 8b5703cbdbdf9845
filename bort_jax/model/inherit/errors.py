# SPDX-License-Identifier: Apache-2.0
"""Laws that the errors of nested options obey, and errors between two measured ones."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from bort_jax.model.inherit.plan import Option

TINY, ALIKE = 1e-30, 1e-3


class LayerErrors(NamedTuple):
    """e of a network is about `base` and the sum of its layers' `errors: float[l, j]`."""

    base: float
    errors: Float[np.ndarray, "l j"]


def through_powers(
    x: Float[np.ndarray, " j"], known_x: Float[np.ndarray, " k"], known_y: Float[np.ndarray, " k"]
) -> Float[np.ndarray, " j"]:
    """y = c·xᵇ through one or two points, 0 at 0; of one point, or of two alike, b is 1."""
    first, last = (np.log(np.maximum(points, TINY)) for points in (known_x, known_y))
    apart = first[0] - first[-1]
    power = (last[0] - last[-1]) / apart if abs(apart) > ALIKE else 1.0
    return np.where(x > 0, known_y[-1] * (np.maximum(x, TINY) / known_x[-1]) ** power, 0.0)


def monotone(errors: Float[np.ndarray, " j"], options: Sequence[Option]) -> Float[np.ndarray, " j"]:
    """Errors that never grow along nested options, each halfway between its two envelopes.

    The envelopes are the largest error among the options that hold it, and the least among those
    that it holds: both are monotone, and where the errors are they are equal. A skipped layer is
    healed otherwise than a small one, and stands aside. Source: our reading.
    """
    sizes = np.array(options).reshape(-1, 2)
    nested = np.all(sizes[:, None] <= sizes, axis=-1)
    real = np.all(sizes > 0, axis=-1)
    nested = nested & real[:, None] & real | np.eye(len(sizes), dtype=bool)
    above = np.where(nested, errors, -np.inf).max(1)
    below = np.where(nested.T, errors, np.inf).min(1)
    return (above + below) / 2

# SPDX-License-Identifier: Apache-2.0
"""e as a polynomial through a few measured points, for spaces too large to train."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from bort_jax.cost.fit import Fit, fit_polynomial

SMALLEST = 1e-6


@dataclass(frozen=True)
class FittedError:
    """An error function: architectures to predicted errors; measured ones as they were measured.

    Attributes:
      measured: what was trained, and its errors.
      fit: of e, with the relative error of each point as predicted without it.
    """

    measured: dict[Any, float]
    fit: Fit

    def __call__(self, archs: Sequence[Any]) -> list[float]:
        predicted = np.maximum(self.fit.predict(np.array(archs)), SMALLEST)
        return [self.measured.get(a, float(e)) for a, e in zip(archs, predicted, strict=True)]

    def __str__(self) -> str:
        missed = self.fit.cross_validated
        return (
            f"e fitted to {len(self.measured)} trained architectures; cross-validated error: "
            f"median {np.median(missed):.2%}, largest {missed.max():.2%}"
        )


def fitted_error(archs: Sequence[Any], errors: Float[np.ndarray, " n"]) -> FittedError:
    """Fits e to measured points, in each parameter x and in 1/x, coefficients ≥ 0.

    *Our reading* of "e is a polynomial in ξ for AB^nC networks" (arXiv 2010.08512): e falls with a
    size through its reciprocal, or rises with it where too few steps were trained. Failed
    trainings (NaN) are left out.

    Raises:
      ValueError: fewer than two points were measured.
    """
    measured = {a: float(e) for a, e in zip(archs, errors, strict=True) if np.isfinite(e)}
    rows = np.array(list(measured)).reshape(len(measured), -1)
    width = rows.shape[1] if len(measured) else 0
    units = np.eye(width, dtype=int)
    monomials = tuple(map(tuple, [np.zeros(width, int), *units, *-units]))
    return FittedError(
        measured, fit_polynomial(rows, np.array([*measured.values()]), monomials=monomials)
    )

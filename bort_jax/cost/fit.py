# SPDX-License-Identifier: Apache-2.0
"""Polynomials fitted to measurements: non-negative least squares of relative errors."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

Monomials = tuple[tuple[int, ...], ...]  # exponents, one tuple a term
FOLDS = 8


class Fit(NamedTuple):
    """A polynomial with coefficients ≥ 0, which grows with every parameter as a cost does.

    Attributes:
      monomials: exponents of the terms.
      coefficients: of the terms, ≥ 0.
      cross_validated: relative error |predicted − measured|/measured of each point, predicted
        by a fit that had not seen it.
    """

    monomials: Monomials
    coefficients: Float[np.ndarray, " t"]
    cross_validated: Float[np.ndarray, " n"]

    def predict(self, rows: Int[np.ndarray, "m k"]) -> Float[np.ndarray, " m"]:
        """The polynomial at each row."""
        return _terms(rows, self.monomials) @ self.coefficients


def fit_polynomial(
    rows: Int[np.ndarray, "n k"], values: Float[np.ndarray, " n"], *, monomials: Monomials
) -> Fit:
    """Least squares of the relative errors, coefficients ≥ 0, with 8-fold cross-validation.

    Raises:
      ValueError: fewer than two points, or a value that is not positive and finite.
    """
    rows, values = np.asarray(rows), np.asarray(values, float)
    if len(values) < 2 or len(rows) != len(values):
        raise ValueError(f"a fit needs two points or more; got {len(rows)} and {len(values)}")
    if not (np.isfinite(values) & (values > 0)).all():
        raise ValueError(f"what is fitted must be positive and finite; got {values.min()}")
    folds = np.arange(len(values)) % min(FOLDS, len(values))
    missed = np.empty(len(values))
    for fold in np.unique(folds):
        seen, left = folds != fold, folds == fold
        coefficients = _solve(rows[seen], values[seen], monomials)
        missed[left] = np.abs(_terms(rows[left], monomials) @ coefficients / values[left] - 1)
    return Fit(monomials, _solve(rows, values, monomials), missed)


def _solve(rows, values, monomials: Monomials) -> Float[np.ndarray, " t"]:
    from scipy.optimize import nnls

    relative = _terms(rows, monomials) / values[:, None]
    # Terms differ by many powers of ten: each is brought to one scale.
    scale = np.maximum(np.abs(relative).max(axis=0), 1e-300)
    return nnls(relative / scale, np.ones(len(values)))[0] / scale


def _terms(rows, monomials: Monomials) -> Float[np.ndarray, "n t"]:
    rows = np.asarray(rows, float)
    return np.stack([np.prod(rows ** np.array(m), axis=1) for m in monomials], axis=1)

# SPDX-License-Identifier: Apache-2.0
"""The order of a layer's heads and units, and its projections refitted to the first of them.

F = [b; W] is a projection with its bias, whose rows read the features [1 f]; S is the constant and
the first features. With G = Σ [1 f]ᵀ[1 f], the refit of S is the ridge regression

    X = F_S + (G_SS + ρ·J)⁻¹ (C_S − G_SS F_S),   ρ = λ · mean of G's diagonal,

towards a target whose cross moments are C: G F, what the whole projection gives, if nothing else is
said. J is the identity but for the constant: a bias is not held back. Of everything it gives F; on
the rows of G its error is at most that of the slice F_S. ρ is that of all features, so that the
Cholesky factor of G + ρ·J holds in its leading blocks the factors of every S.

Source: our reading of ridge reconstruction after structured pruning (FASP; ZipLM), for encoders.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import cholesky, solve_triangular

RIDGES = (1e-3, 1e-2, 1e-1, 1.0)
TRIED = 1 / 3  # share of the heads or units at which ridges are compared


class Projection(NamedTuple):
    """One side of a layer, the most important features first.

    Attributes:
      gram: G, the constant first.
      weights: F, likewise.
      grain: features that stay or go together: a head's k, or 1.
      ridge: λ.
    """

    gram: Float[np.ndarray, "f f"]
    weights: Float[np.ndarray, "f h"]
    grain: int
    ridge: float = RIDGES[1]

    @property
    def size(self) -> int:
        """How many heads or units there are."""
        return (len(self.gram) - 1) // self.grain


def unit_order(
    gram: Float[np.ndarray, "f f"], weights: Float[np.ndarray, "f h"]
) -> Int[np.ndarray, " i"]:
    """Units by E[h²]·‖w‖², the largest first."""
    importance = np.diag(gram)[1:] * np.sum(weights[1:].astype(np.float64) ** 2, axis=1)
    return np.argsort(-importance, kind="stable")


def head_order(
    gram: Float[np.ndarray, "f f"], weights: Float[np.ndarray, "f h"], *, head_size: int
) -> Int[np.ndarray, " a"]:
    """Heads by the variance of what they add to the output, the largest first."""
    mean = gram[0, 1:] / gram[0, 0]
    covariance = gram[1:, 1:] / gram[0, 0] - mean[:, None] * mean
    rows = weights[1:].astype(np.float64)
    heads = [slice(start, start + head_size) for start in range(0, len(rows), head_size)]
    variance = [np.sum((covariance[a, a] @ rows[a]) * rows[a]) for a in heads]
    return np.argsort(-np.array(variance), kind="stable")


def feature_order(order: Int[np.ndarray, " n"], *, grain: int) -> Int[np.ndarray, " f"]:
    """Rows of F in an order of heads or units: the constant, then their features."""
    features = order[:, None] * grain + np.arange(grain)
    return np.concatenate([[0], 1 + features.reshape(-1)])


def refits(
    side: Projection,
    sizes: Iterable[int],
    *,
    cross: Float[np.ndarray, "f h"] | None = None,
) -> dict[int, Float[np.ndarray, "_ h"]]:
    """The refit of each prefix of heads or units, from one Cholesky factor.

    Args:
      sizes: how many heads or units stay.
      cross: C of a target other than what the whole projection gives.

    Raises:
      ValueError: fewer than 1, or more than there are.
    """
    everything = (len(side.gram) - 1) // side.grain
    lengths = {size: 1 + size * side.grain for size in valid_sizes(sizes, everything)}
    pending = {k: n for k, n in lengths.items() if cross is not None or k < everything}
    found = {k: side.weights for k in lengths if k not in pending}
    if pending:
        gram, weights = side.gram.astype(np.float64), side.weights.astype(np.float64)
        factor = _factor(gram, max(pending.values()), ridge=side.ridge)
        for size, n in pending.items():
            if cross is None:
                missing = gram[:n, n:] @ weights[n:]
            else:
                missing = cross[:n] - gram[:n, :n] @ weights[:n]
            found[size] = (weights[:n] + _solved(factor[:n, :n], missing)).astype(np.float32)
    return found


def valid_sizes(sizes: Iterable[int], everything: int) -> list[int]:
    """Different sizes, or ValueError for one that is not between 1 and `everything`."""
    sizes = sorted(set(sizes))
    if sizes and not 1 <= sizes[0] <= sizes[-1] <= everything:
        raise ValueError(f"expected between 1 and {everything} heads or units; got {sizes}")
    return sizes


def _factor(gram: Float[np.ndarray, "f f"], n: int, *, ridge: float) -> Float[np.ndarray, "n n"]:
    diagonal = np.diag(gram)[1:]
    held = gram[:n, :n].copy()
    # Where nothing ever fires the mean is 0, and any ridge makes the matrix regular.
    held[np.arange(1, n), np.arange(1, n)] += ridge * (diagonal.mean() or 1.0)
    return cholesky(held, lower=True, overwrite_a=True, check_finite=False)


def _solved(factor, right):
    half = solve_triangular(factor, right, lower=True, check_finite=False)
    return solve_triangular(factor, half, lower=True, trans=1, check_finite=False)


def output_error(
    gram: Float[np.ndarray, "f f"],
    weights: Float[np.ndarray, "f h"],
    prefix: Float[np.ndarray, "n h"],
) -> float:
    """Σ ‖[1 f] (F − X)‖² over the rows of G; X has rows for a prefix of the features."""
    difference = weights.astype(gram.dtype)
    difference[: len(prefix)] -= prefix
    return float(np.sum((gram @ difference) * difference))


def local_errors(side: Projection, sizes: Sequence[int]) -> Float[np.ndarray, " j"]:
    """`output_error` of the refit of each size, on the rows of its own G."""
    found = refits(side, sizes)
    return np.array([output_error(side.gram, side.weights, found[size]) for size in sizes])


def with_best_ridge(
    side: Projection, heldout: Float[np.ndarray, "f f"], *, ridges: Sequence[float] = RIDGES
) -> Projection:
    """The side with the λ whose refit to a third of the features errs least on held-out rows."""
    size = max(1, round(TRIED * (len(side.gram) - 1) / side.grain))
    heldout = heldout.astype(np.float32)

    def error(ridge: float) -> float:
        fitted = refits(side._replace(ridge=ridge), [size])[size]
        return output_error(heldout, side.weights, fitted)

    return side._replace(ridge=min(ridges, key=error))

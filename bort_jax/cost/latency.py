# SPDX-License-Identifier: Apache-2.0
"""Latency on the attached device: a few architectures timed, a polynomial fitted to them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from bort_jax.arch import Arch, SearchSpace, as_rows
from bort_jax.cost.fit import Fit, fit_polynomial

# The terms of a layer's work and of what surrounds it, in exponents of <D, A, H, I>: a constant,
# a layer's own, its scores, its element-wise work, its products; embeddings.
TERMS = (
    (0, 0, 0, 0),
    (0, 0, 1, 0),
    (1, 0, 0, 0),
    (1, 1, 0, 0),
    (1, 0, 1, 0),
    (1, 0, 0, 1),
    (1, 0, 2, 0),
    (1, 0, 1, 1),
)


@dataclass(frozen=True)
class Latency:
    """Milliseconds of a forward pass, as measured and as a polynomial.

    Attributes:
      archs: what was timed.
      measured: ms, of each.
      fit: of ms over <D, A, H, I>.
    """

    archs: list[Arch]
    measured: Float[np.ndarray, " n"]
    fit: Fit

    def predict(self, rows: Int[np.ndarray, "m 4"]) -> Float[np.ndarray, " m"]:
        """Predicted ms of each row <D, A, H, I>."""
        return self.fit.predict(rows)

    def __str__(self) -> str:
        missed = self.fit.cross_validated
        return (
            f"latency fitted to {len(self.archs)} architectures; cross-validated error: median "
            f"{np.median(missed):.1%}, largest {missed.max():.1%}"
        )


TimeFn = Callable[[Sequence[Arch]], Sequence[float] | np.ndarray]


def fit_latency(space: SearchSpace, time_fn: TimeFn, *, size: int = 24) -> Latency:
    """Times a designed sample of Ξ and fits a polynomial with coefficients ≥ 0 to it.

    Args:
      space: Ξ.
      time_fn: architectures to seconds of a forward pass of each.
      size: architectures to time; all of Ξ if it has fewer.
    """
    archs = designed_sample(space, size=size)
    measured = 1e3 * np.asarray(time_fn(archs))
    return Latency(archs, measured, fit_polynomial(as_rows(archs), measured, monomials=TERMS))


def designed_sample(space: SearchSpace, *, size: int) -> list[Arch]:
    """Members that tell the terms apart: greedily those that a fit to the others knows least.

    Each next one has the largest leverage xᵀ(XᵀX)⁻¹x, which maximises det(XᵀX) step by step
    (D-optimal design). Deterministic; ties go to the first in lexical order.
    """
    archs = sorted(space.archs())
    rows = as_rows(archs).astype(float)
    terms = np.stack([np.prod(rows ** np.array(t), axis=1) for t in TERMS], axis=1)
    terms /= np.linalg.norm(terms, axis=1, keepdims=True)  # relative errors are what counts
    terms /= np.abs(terms).max(axis=0)
    inverse, chosen = np.eye(len(TERMS)) * 1e6, []
    for _ in range(min(size, len(archs))):
        leverage = np.einsum("nt,tu,nu->n", terms, inverse, terms)
        leverage[chosen] = -1
        chosen.append(int(leverage.argmax()))
        x = inverse @ terms[chosen[-1]]
        inverse -= np.outer(x, x) / (1 + terms[chosen[-1]] @ x)
    return [archs[k] for k in sorted(chosen)]

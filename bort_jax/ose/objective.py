# SPDX-License-Identifier: Apache-2.0
"""The W-coefficient, Pareto optimality, and what a rival's error would have to be."""

import numpy as np
from jaxtyping import Bool, Float, Int


def saving(
    params: Int[np.ndarray, " n"], inference_cost: Int[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """g(ξ) = (p(T) − p(ξ))/p(T) · (i(T) − i(ξ))/i(T), in [0, 1).

    T, the maximum point, has the largest p and the largest i of the n architectures; g is 0
    where either equals T's.
    """
    return _relative_saving(params) * _relative_saving(inference_cost)


def w_coefficient(
    params: Int[np.ndarray, " n"],
    inference_cost: Int[np.ndarray, " n"],
    errors: Float[np.ndarray, " n"],
) -> Float[np.ndarray, " n"]:
    """W(ξ) = g(ξ) / e(ξ) (arXiv 2010.08512, section 3); NaN where e was not measured.

    Args:
      params: p, trainable parameters.
      inference_cost: i, inference cost.
      errors: e > 0, or NaN.

    Raises:
      ValueError: an error is not positive: W is not defined there.
    """
    if np.any(errors <= 0):
        raise ValueError(f"errors must be positive, W divides by them; got {np.nanmin(errors)}")
    return saving(params, inference_cost) / errors


def on_pareto_front(objectives: Float[np.ndarray, "n m"]) -> Bool[np.ndarray, " n"]:
    """Which rows no other row beats: at least as small in every column, smaller in one.

    Rows with a NaN are never on the front and beat nothing.
    """
    no_worse = (objectives[:, None] <= objectives[None]).all(axis=-1)
    better = (objectives[:, None] < objectives[None]).any(axis=-1)
    dominated = np.any(no_worse & better, axis=0)
    return np.logical_not(dominated | np.any(np.isnan(objectives), axis=1))


def break_even(savings: Float[np.ndarray, " n"], winner: int) -> Float[np.ndarray, " n"]:
    """e(winner)/e(rival) at which W(winner) = W(rival): g(winner)/g(rival).

    The winner wins as long as the ratio of the errors stays below this number; it is
    infinite against a rival that saves nothing.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(savings > 0, savings[winner] / savings, np.inf)


def _relative_saving(costs: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    largest = costs.max()
    return (largest - costs) / largest

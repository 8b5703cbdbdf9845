# SPDX-License-Identifier: Apache-2.0
"""The layerwise problem: options of layers, and W of a choice of them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

SLACK = 1e-13  # of a ceiling: sums in another order
Ceilings = tuple[float, float, float]  # on p, i and e


class LayerChoices(NamedTuple):
    """The options of each of L layers at one hidden size; an option with e = ∞ is not there.

    Attributes:
      params, inference_cost: int[L, J]; errors: float[L, J], not negative.
      base_params, base_inference_cost, base_error: what the rest of the network has; e > 0 in all.
    """

    params: Int[np.ndarray, "l j"]
    inference_cost: Int[np.ndarray, "l j"]
    errors: Float[np.ndarray, "l j"]
    base_params: int = 0
    base_inference_cost: int = 0
    base_error: float = 0.0


class Problem(NamedTuple):
    """One hidden size in units of the maximum point, as arrays for jit.

    Attributes:
      costs: [l, j, 3], p/P, i/I and e of every option; allowed: bool[l, j], options that are there.
      base: [3], of the rest of the network.
      floor, ceiling: [3], the least totals, and the largest that the ceilings leave.
    """

    costs: Any
    allowed: Any
    base: Any
    floor: Any
    ceiling: Any


def check_choices(choices: LayerChoices) -> LayerChoices:
    """Returns the same choices, or raises ValueError if W is not defined for all of them."""
    arrays = (choices.params, choices.inference_cost, choices.errors)
    if any(np.isnan(a).any() or (a < 0).any() for a in map(np.asarray, arrays)):
        raise ValueError(
            "parameters, inference costs and errors must be numbers that are not negative"
        )
    if np.isinf(choices.errors).all(axis=1).any():
        raise ValueError("a layer has no option with a finite error")
    if choices.base_error + choices.errors.min(axis=1).max() <= 0:
        raise ValueError("a total error of 0 is possible, and W divides by it")
    return choices


def maximum_costs(problems: Sequence[LayerChoices]) -> tuple[int, int]:
    """P and I: each the largest total over all problems."""

    def largest(costs, errors, base: int) -> int:
        return base + int(np.where(np.isfinite(errors), costs, 0).max(axis=1).sum())

    return (
        max(largest(c.params, c.errors, c.base_params) for c in problems),
        max(largest(c.inference_cost, c.errors, c.base_inference_cost) for c in problems),
    )


def scale_choices(choices: LayerChoices, maximum: tuple[int, int], ceilings: Ceilings) -> Problem:
    """The same choices in units of the maximum point."""
    scale = np.array([max(maximum[0], 1), max(maximum[1], 1), 1.0])
    allowed = np.isfinite(choices.errors)
    errors = np.where(allowed, choices.errors, 0)
    costs = np.stack([choices.params, choices.inference_cost, errors], -1) / scale
    base = np.array([choices.base_params, choices.base_inference_cost, choices.base_error]) / scale
    least = np.where(allowed[..., None], costs, np.inf).min(axis=1).sum(axis=0)
    most = np.where(allowed[..., None], costs, -np.inf).max(axis=1).sum(axis=0)
    # 1 − p/P must stay positive for a logarithm; the maximum point itself has W = 0.
    ceiling = np.minimum(base + most, np.array(ceilings) / scale) * (1 + SLACK)
    ceiling = np.minimum(ceiling, [1 - 1e-12, 1 - 1e-12, np.inf])
    return Problem(costs, allowed, base, base + least, ceiling)


def log_w(problem: Problem, choices):
    """log W of choices [n, l]; −∞ above a ceiling or where an option is not there."""
    layers = jnp.arange(choices.shape[-1])[None]
    totals = problem.base[None] + problem.costs[layers, choices].sum(axis=-2)
    there = problem.allowed[layers, choices].all(axis=-1)
    return jnp.where(there, log_w_of_totals(totals, problem.ceiling), -jnp.inf)


def log_w_of_totals(totals, ceiling):
    """log W of (p/P, i/I, e), [n, 3]; −∞ above a ceiling."""
    inside = (totals <= ceiling[None]).all(axis=-1)
    value = jnp.log1p(-totals[..., 0]) + jnp.log1p(-totals[..., 1]) - jnp.log(totals[..., 2])
    return jnp.where(inside, value, -jnp.inf)

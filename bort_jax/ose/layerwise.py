# SPDX-License-Identifier: Apache-2.0
"""Layerwise extraction: every layer its own choice, solved with a proved bound.

The problem (layer_problem.py). Layer l takes one option j, with parameters p[l, j], inference
cost i[l, j] and error e[l, j], which add up over the layers. Find the choice with the largest
W = (1 − p/P)·(1 − i/I)/e, where P and I are the maximum point's.

The bound (layer_bounds.py). Cut the range of e into bands [a, b]. For multipliers
λ = (λp, λi, λe) ≥ 0 and any choice x with totals (p, i, e) in the band,

    log W(x) ≤ max over the box of (log W + λ·(p, i, e)) − Σ_l min_j λ·(p, i, e)[l, j],

the Lagrangian dual: the maximum has a closed form, the sum is one arg-min a layer, and that
arg-min is a choice in its own right, which may be the best so far. log(1 − p/P) and
log(1 − i/I) are concave; −log e is convex, which is what the bands are for: it costs nothing
in a band of no width.

The program. A dynamic program over the layers, whose labels are (p, i, e) of a partial choice.
The reduced costs of the options so far, taken off the dual, bound every completion of a label;
labels that cannot beat the incumbent are dropped, and of labels with the same p and i only the
one with the least error is kept (arXiv 2010.08512 rounds to the same end; the bounding is our
reading). What is dropped for want of room goes into the bound that is returned: the bound holds
always.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from bort_jax.ose.layer_bounds import ROUNDOFF, Bands, Incumbent, merge_bands, reduced_costs, sweep
from bort_jax.ose.layer_problem import (
    Ceilings,
    LayerChoices,
    Problem,
    check_choices,
    log_w_of_totals,
    maximum_costs,
    scale_choices,
)

CAPACITIES = (64, 512, 4096)  # labels that the program keeps: more where fewer prove too little
SAME = 1e-14  # of P or I: two totals closer than this are equal


@dataclass(frozen=True)
class LayerwiseSolution:
    """A choice of layers, and how far from the optimum it can be.

    Attributes:
      problem: index of the hidden size that won.
      choice: option of each layer.
      params, inference_cost, error, w: of the choice; w in the paper's units.
      bound: no choice of any problem has a larger W.
      sweep_w: the largest W that the Lagrange sweep alone had found.
      labels: capacity of the program that closed the gap, 0 if the sweep closed it.
    """

    problem: int
    choice: Int[np.ndarray, " l"]
    params: int
    inference_cost: int
    error: float
    w: float
    bound: float
    sweep_w: float
    labels: int

    @property
    def gap(self) -> float:
        """1 − W/bound: 0 means proved optimal."""
        return max(0.0, 1 - self.w / self.bound) if self.bound > 0 else 0.0


def solve_layerwise(
    problems: Sequence[LayerChoices], *, ceilings: Ceilings = (np.inf, np.inf, np.inf)
) -> LayerwiseSolution:
    """The choice with the largest W over all problems (hidden sizes), with a proved bound.

    Args:
      problems: one for each hidden size; T has the largest p and the largest i of them all.
      ceilings: largest p, i and e allowed.

    Raises:
      ValueError: a negative or NaN cost, a layer without options, a total error that can be 0,
        or no choice within the ceilings with W > 0.
    """
    maximum = maximum_costs([check_choices(choices) for choices in problems])
    with jax.enable_x64(True):
        scaled = [scale_choices(choices, maximum, ceilings) for choices in problems]
        best, bound, sweep_w, labels = _solve(scaled, saves=min(maximum) > 0)
    params, inference_cost, error = _totals(problems[best.problem], best.choice)
    w = (1 - params / maximum[0]) * (1 - inference_cost / maximum[1]) / error
    return LayerwiseSolution(
        problem=best.problem,
        choice=best.choice,
        params=params,
        inference_cost=inference_cost,
        error=error,
        w=w,
        bound=max(float(np.exp(bound)), w),
        sweep_w=float(np.exp(sweep_w)),
        labels=labels,
    )


def _solve(problems: Sequence[Problem], *, saves: bool) -> tuple[Incumbent, float, float, int]:
    """Incumbent, bound on log W, log W of the sweep alone, labels.

    Args:
      saves: False: nothing costs anything, and W is 0 everywhere.
    """
    feasible = [n for n, p in enumerate(problems) if saves and np.all(p.floor <= p.ceiling)]
    best, bands = Incumbent(-np.inf, -1, None), {}
    for n in feasible:
        bands[n], best = sweep(problems[n], n, best)
    sweep_w, bound, labels = best.log_w, best.log_w, 0
    for n in sorted(feasible, key=lambda n: -bands[n].duals.max()):
        best, rest, size = _close_gap(problems[n], n, bands[n], best)
        bound, labels = max(bound, rest), max(labels, size)
    if best.choice is None:
        raise ValueError(_none_found(bound))
    return best, max(bound, best.log_w), sweep_w, labels


def _none_found(bound: float) -> str:
    if bound == -np.inf:
        return "no choice of layers within the ceilings has W > 0"
    return f"no choice within the ceilings was found; if there is one, W ≤ {np.exp(bound):.4g}"


def _totals(choices: LayerChoices, choice: np.ndarray) -> tuple[int, int, float]:
    """p, i and e of a choice, exact."""
    rows = np.arange(len(choice))
    return (
        choices.base_params + int(choices.params[rows, choice].sum()),
        choices.base_inference_cost + int(choices.inference_cost[rows, choice].sum()),
        float(choices.base_error + choices.errors[rows, choice].sum()),
    )


# The program: labels over the layers, bounded by reduced costs.


def _close_gap(
    problem: Problem, number: int, bands: Bands, best: Incumbent
) -> tuple[Incumbent, float, int]:
    """Runs the program with growing room; returns incumbent, bound of this problem, room."""
    still = bands.duals > best.log_w + ROUNDOFF
    closed = bands.duals[~still].max(initial=-np.inf)
    if not still.any():
        return best, closed, 0
    bands, rest, size = merge_bands(bands.pick(still)).fill(), np.inf, 0
    for size in CAPACITIES:
        best, rest = _run_program(problem, number, bands, best, capacity=size)
        if rest <= best.log_w + ROUNDOFF:
            break
    return best, max(closed, rest), size


def _run_program(
    problem: Problem, number: int, bands: Bands, best: Incumbent, *, capacity: int
) -> tuple[Incumbent, float]:
    reduced, duals = map(np.asarray, reduced_costs(problem, bands.edges, bands.multipliers))
    # Layers with few options left come first: the list of labels stays short.
    slack = (duals[:, :, None, None] - reduced).min(axis=1).max(axis=0)
    order = np.argsort((slack > best.log_w).sum(axis=-1), kind="stable")
    ordered = problem._replace(costs=problem.costs[order], allowed=problem.allowed[order])
    enough = best.log_w + ROUNDOFF
    totals, bound, parents, options = map(
        np.asarray, _extend_labels(ordered, reduced[:, :, order], duals, enough, capacity=capacity)
    )
    values = np.asarray(log_w_of_totals(jnp.asarray(totals), problem.ceiling))
    top = int(values.argmax())
    if values[top] > best.log_w:
        choice = np.empty(len(order), np.int64)
        choice[order] = _backtrack(parents, options, top)
        best = Incumbent(float(values[top]), number, choice)
    return best, float(bound)


@partial(jax.jit, static_argnames="capacity")
def _extend_labels(problem: Problem, reduced, duals, enough, *, capacity: int):
    """The dynamic program over the layers.

    Args:
      reduced: reduced costs, [b, m, l, j]; duals: [b, m], see `reduced_costs`.
      enough: log W of the incumbent: a label that cannot have more is dropped.

    Returns:
      totals [k, 3] of the complete labels, the largest bound of what was dropped for want of room
      or as good enough, and the parents and options [l, k] that lead back.
    """

    def layer(carry, inputs):
        totals, slack, bound = carry
        option_costs, option_reduced = inputs  # [j, 3], [b, m, j]
        new = totals[:, None] + option_costs[None]  # [k, j, 3]
        less = slack[:, None] - jnp.moveaxis(option_reduced, -1, 0)[None]  # [k, j, b, m]
        best = less.min(axis=-1).max(axis=-1)  # every completion lies in one of the bands
        best = jnp.where((new <= problem.ceiling[None, None]).all(axis=-1), best, -jnp.inf).reshape(
            -1
        )
        alive = best > enough
        first = _least_error_of_equals(new.reshape(-1, 3), alive)
        kept, at = jax.lax.top_k(jnp.where(first, best, -jnp.inf), capacity + 1)
        low = jnp.max(best, where=~alive, initial=-jnp.inf)
        bound = jnp.maximum(bound, jnp.maximum(kept[-1], low))
        at, live = at[:-1], jnp.isfinite(kept[:-1])
        totals = jnp.where(live[:, None], new.reshape(-1, 3)[at], jnp.inf)
        slack = jnp.where(live[:, None, None], less.reshape(-1, *slack.shape[1:])[at], -jnp.inf)
        return (totals, slack, bound), (at // len(option_costs), at % len(option_costs))

    only = jnp.arange(capacity) == 0
    totals = jnp.where(only[:, None], problem.base[None], jnp.inf)
    slack = jnp.where(only[:, None, None], duals[None], -jnp.inf)
    first = (totals, slack, -jnp.inf)
    layers = (problem.costs, jnp.moveaxis(reduced, 2, 0))
    (totals, _, bound), (parents, options) = jax.lax.scan(layer, first, layers)
    return totals, bound, parents, options


def _least_error_of_equals(totals, alive):
    """Marks, of the labels alive with the same p and i, the one with the least error."""
    numbers = jnp.floor(jnp.where(alive[:, None], totals[:, :2], jnp.inf) / SAME)
    order = jnp.lexsort((totals[:, 2], numbers[:, 1], numbers[:, 0]))
    ordered = numbers[order]
    fresh = jnp.append(True, (ordered[1:] != ordered[:-1]).any(axis=-1))
    return jnp.zeros(len(totals), bool).at[order].set(fresh) & alive


def _backtrack(parents: np.ndarray, options: np.ndarray, at: int) -> list[int]:
    picked = []
    for parent, option in zip(parents[::-1], options[::-1], strict=True):
        picked.append(int(option[at]))
        at = int(parent[at])
    return picked[::-1]

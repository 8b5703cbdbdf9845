# SPDX-License-Identifier: Apache-2.0
"""Layerwise extraction: every layer its own choice, solved with a proved bound.

The problem. Layer l takes one option j, with parameters p[l, j], inference cost i[l, j] and error
e[l, j]; p and i add up over the layers, e adds up or is the largest (a bottleneck). Find the
choice with the largest W = (1 − p/P)·(1 − i/I)/e, where P and I are the maximum point's.

The bound. Cut the range of e into bands [a, b]. For multipliers λ = (λp, λi, λe) ≥ 0 and any
choice x with totals (p, i, e) in the band,

    log W(x) ≤ max over the box of (log W + λ·(p, i, e)) − Σ_l min_j λ·(p, i, e)[l, j],

the Lagrangian dual: the maximum has a closed form, the sum is one arg-min a layer, and that
arg-min is a choice in its own right, which may be the best so far. log(1 − p/P) and
log(1 − i/I) are concave; −log e is convex, which is what the bands are for: it costs nothing
in a band of no width. A bottleneck error takes no multiplier: its band forbids the options
above b and bounds −log e by −log a.

The program. A dynamic program over the layers, whose labels are (p, i, e) of a partial choice.
The reduced costs of the options so far, taken off the dual, bound every completion of a label;
labels that cannot beat the incumbent are dropped, and of labels in one cell of (p, i) the
one with the least error is kept. Cells are so small that L replacements cost no more than the
factor 1 − ε (arXiv 2010.08512 rounds to the same end; the bounding is our reading). Whatever
else is dropped, for want of room, goes into the bound that is returned: the bound holds always.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

Combine = Literal["sum", "max"]
BANDS, TRIALS, ROUNDS, DUALS = 32, 24, 12, 6
SPLITTINGS = 12
CAPACITIES = (64, 512, 4096)
SLACK = 1e-13  # of a ceiling: sums in another order
ROUNDOFF = 1e-9  # of log W: two choices closer than this are equal


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


@dataclass(frozen=True)
class LayerwiseSolution:
    """What was found, and how far from the optimum it can be.

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


class Scaled(NamedTuple):
    """A problem in units of the maximum point, as arrays for jit."""

    costs: Any  # [l, j, 3]: p/P, i/I, e
    allowed: Any  # bool[l, j]
    base: Any  # [3]
    floor: Any  # [3], least totals
    ceiling: Any  # [3], largest totals that a budget allows


class Bands(NamedTuple):
    """Ranges of e with the best dual bound known, and the multipliers that give it."""

    edges: np.ndarray  # [b, 2]
    duals: np.ndarray  # [b]
    multipliers: np.ndarray  # [b, 3]


class Incumbent(NamedTuple):
    log_w: float
    problem: int
    choice: Any  # int[l]; None: nothing found yet


def solve_layerwise(
    problems: Sequence[LayerChoices],
    *,
    combine: Combine = "sum",
    epsilon: float = 0.0,
    ceilings: tuple[float, float, float] = (np.inf, np.inf, np.inf),
) -> LayerwiseSolution:
    """The choice with the largest W over all problems (hidden sizes), with a proved bound.

    Args:
      problems: one for each hidden size; T has the largest p and the largest i of them all.
      combine: how e adds up over layers: `sum`, or `max` for a bottleneck.
      epsilon: ε in [0, 1); the search may stop at W ≥ (1 − ε)·bound, 0: as far as it gets.
      ceilings: largest p, i and e allowed.

    Raises:
      ValueError: ε outside [0, 1), a negative or NaN cost, a layer without options, a total
        error that can be 0, or no choice within the ceilings with W > 0.
    """
    if not 0 <= epsilon < 1:
        raise ValueError(f"epsilon must lie in [0, 1); got {epsilon}")
    problems = [_checked(problem) for problem in problems]
    maximum = _maximum(problems)
    with jax.enable_x64(True):
        scaled = [_scaled(problem, maximum, combine, ceilings) for problem in problems]
        return _solve(problems, scaled, maximum, combine=combine, epsilon=epsilon)


def _solve(problems, scaled, maximum, *, combine: Combine, epsilon: float) -> LayerwiseSolution:
    saves = min(maximum) > 0  # else W is 0 everywhere
    feasible = [n for n, s in enumerate(scaled) if saves and np.all(s.floor <= s.ceiling)]
    best = Incumbent(-np.inf, -1, None)
    open_bands = {}
    for n in feasible:
        open_bands[n], best = _sweep(scaled[n], n, best, combine=combine, epsilon=epsilon)
    sweep_w, bound, labels = best.log_w, best.log_w, 0
    for n in sorted(feasible, key=lambda n: -open_bands[n].duals.max()):
        if open_bands[n].duals.max() <= _enough(best.log_w, epsilon):
            bound = max(bound, open_bands[n].duals.max())
            continue
        best, rest, size = _close(
            scaled[n], n, open_bands[n], best, combine=combine, epsilon=epsilon
        )
        bound, labels = max(bound, rest), max(labels, size)
    if best.choice is None:
        raise ValueError(_none_found(bound))
    bound = max(bound, best.log_w)
    return _solution(problems, maximum, best, combine, np.exp(bound), np.exp(sweep_w), labels)


def _none_found(bound: float) -> str:
    if bound == -np.inf:
        return "no choice of layers within the ceilings has W > 0"
    return f"no choice within the ceilings was found; if there is one, W ≤ {np.exp(bound):.4g}"


def _enough(log_w: float, epsilon: float) -> float:
    """What a bound may be when the incumbent is as good as was asked for."""
    return log_w + max(ROUNDOFF, -np.log1p(-epsilon))


# Problems.


def _checked(problem: LayerChoices) -> LayerChoices:
    arrays = (problem.params, problem.inference_cost, problem.errors)
    if any(np.isnan(a).any() or (a < 0).any() for a in map(np.asarray, arrays)):
        raise ValueError(
            "parameters, inference costs and errors must be numbers that are not negative"
        )
    if np.isinf(problem.errors).all(axis=1).any():
        raise ValueError("a layer has no option with a finite error")
    if problem.base_error + problem.errors.min(axis=1).max() <= 0:
        raise ValueError("a total error of 0 is possible, and W divides by it")
    return problem


def _maximum(problems: Sequence[LayerChoices]) -> tuple[int, int]:
    """P and I: each the largest total over all problems."""

    def largest(costs, problem, base):
        return base + int(np.where(np.isfinite(problem.errors), costs, 0).max(axis=1).sum())

    return (
        max(largest(problem.params, problem, problem.base_params) for problem in problems),
        max(
            largest(problem.inference_cost, problem, problem.base_inference_cost)
            for problem in problems
        ),
    )


def _scaled(problem: LayerChoices, maximum, combine: Combine, ceilings) -> Scaled:
    scale = np.array([max(maximum[0], 1), max(maximum[1], 1), 1.0])
    allowed = np.isfinite(problem.errors)
    costs = np.stack(
        [problem.params, problem.inference_cost, np.where(allowed, problem.errors, 0)], -1
    )
    costs = costs / scale
    base = np.array([problem.base_params, problem.base_inference_cost, problem.base_error]) / scale
    least = np.where(allowed[..., None], costs, np.inf).min(axis=1)
    most = np.where(allowed[..., None], costs, -np.inf).max(axis=1)
    together = lambda rows: _together(base, rows, combine)
    # 1 − p/P must stay positive for a logarithm; the maximum point itself has W = 0.
    ceiling = np.minimum(together(most), np.array(ceilings) / scale) * (1 + SLACK)
    ceiling = np.minimum(ceiling, [1 - 1e-12, 1 - 1e-12, np.inf])
    return Scaled(costs, allowed, base, together(least), ceiling)


def _together(base, rows, combine: Combine):
    """Totals [..., 3] of one row [..., l, 3] a layer."""
    xp = np if isinstance(rows, np.ndarray) else jnp
    totals = base + rows.sum(axis=-2)
    if combine == "sum":
        return totals
    largest = xp.maximum(base[2], rows[..., 2].max(axis=-1))
    return xp.concatenate([totals[..., :2], largest[..., None]], axis=-1)


# The sweep: dual bounds of bands, and the choices they pass by.


def _sweep(problem: Scaled, number: int, best: Incumbent, *, combine: Combine, epsilon: float):
    """Dual bounds of bands, the worst split until the gap is closed or time is better spent."""
    low, high = problem.floor[2], problem.ceiling[2]
    points = np.geomspace(low, max(high, low), BANDS + 1) if high > low else np.array([low, low])
    bands = _bands_between(points, combine)
    bands, best = _improve(problem, number, bands, best, combine=combine)
    for _ in range(SPLITTINGS):
        worst = np.argsort(-bands.duals)[: BANDS // 2]
        worst = worst[bands.duals[worst] > _enough(best.log_w, epsilon)]
        if not len(worst):
            break
        halves, best = _improve(
            problem, number, _halved(bands, worst, problem, combine), best, combine=combine
        )
        before = bands.duals.max()
        bands = Bands(*(np.concatenate(x) for x in zip(_without(bands, worst), halves)))
        if before - bands.duals.max() < 0.1 * (before - best.log_w) and combine == "sum":
            break
    return bands, best


def _bands_between(points: np.ndarray, combine: Combine) -> Bands:
    edges = np.stack([points[:-1], np.maximum(points[1:], points[:-1])], axis=1)
    start = np.stack([np.full(len(edges), 1.5), np.full(len(edges), 1.5), 1 / edges[:, 0]], 1)
    return Bands(edges, np.full(len(edges), np.inf), start)


def _halved(bands: Bands, which: np.ndarray, problem: Scaled, combine: Combine) -> Bands:
    low, high = bands.edges[which].T
    middle = np.sqrt(low * high)
    edges = np.concatenate([np.stack([low, middle], 1), np.stack([middle, high], 1)])
    if combine == "max":
        edges = _snapped(edges, problem)
    return Bands(edges, np.tile(bands.duals[which], 2), np.tile(bands.multipliers[which], (2, 1)))


def _snapped(edges: np.ndarray, problem: Scaled) -> np.ndarray:
    """Bands drawn in to the errors that a bottleneck can have."""
    values = np.unique(np.append(problem.costs[..., 2][problem.allowed], problem.base[2]))
    values = values[values >= problem.floor[2]]
    low = values[np.minimum(np.searchsorted(values, edges[:, 0]), len(values) - 1)]
    high = values[np.maximum(np.searchsorted(values, edges[:, 1], side="right") - 1, 0)]
    return np.stack([low, np.maximum(high, low)], axis=1)


def _without(bands: Bands, which: np.ndarray) -> Bands:
    return Bands(*(np.delete(x, which, axis=0) for x in bands))


def _improve(problem: Scaled, number: int, bands: Bands, best: Incumbent, *, combine: Combine):
    """Searches better multipliers for bands, BANDS at a time: one shape, one compilation."""
    found = []
    for start in range(0, len(bands.duals), BANDS):
        part = Bands(*(x[start : start + BANDS] for x in bands))
        size = len(part.duals)
        padded = Bands(*(np.resize(x, (BANDS, *x.shape[1:])) for x in part))
        duals, multipliers, log_w, choice = map(
            np.asarray, _search(problem, padded.edges, padded.multipliers, combine=combine)
        )
        if log_w > best.log_w:
            best = Incumbent(float(log_w), number, choice)
        found.append((np.minimum(part.duals, duals[:size]), multipliers[:size]))
    duals, multipliers = (np.concatenate(x) for x in zip(*found, strict=True))
    return Bands(bands.edges, duals, multipliers), best


@partial(jax.jit, static_argnames="combine")
def _search(problem: Scaled, edges, start, *, combine: Combine):
    """Random search of multipliers around the best so far, ever closer; all bands at once."""
    allowed = jax.vmap(lambda band: _allowed(problem, band, combine))(edges)

    def one(band, mask, multipliers, noise):
        trials = multipliers * jnp.exp(noise.at[0].set(0.0))
        duals, choices = _duals(problem, band, mask, trials, combine)
        log_w = _log_w(problem, choices, combine)
        at, top = jnp.argmin(duals), jnp.argmax(log_w)
        return duals[at], trials[at], log_w[top], choices[top]

    def round_(carry, inputs):
        multipliers, best_w, best_choice = carry
        noise = inputs[0] * jax.random.normal(inputs[1], (len(edges), TRIALS, 3))
        duals, multipliers, log_w, choices = jax.vmap(one)(edges, allowed, multipliers, noise)
        top = jnp.argmax(log_w)
        better = log_w[top] > best_w
        best_choice = jnp.where(better, choices[top], best_choice)
        return (multipliers, jnp.maximum(best_w, log_w[top]), best_choice), duals

    scales = 0.8 ** jnp.arange(ROUNDS)
    keys = jax.random.split(jax.random.key(0), ROUNDS)
    first = (start, -jnp.inf, jnp.zeros(problem.costs.shape[0], jnp.int64))
    (multipliers, log_w, choice), duals = jax.lax.scan(round_, first, (scales, keys))
    return duals.min(axis=0), multipliers, log_w, choice


def _allowed(problem: Scaled, band, combine: Combine):
    """Options that a choice of the band can hold."""
    errors = problem.costs[..., 2]
    if combine == "max":
        return problem.allowed & (errors <= band[1])
    least = jnp.where(problem.allowed, errors, jnp.inf).min(axis=1, keepdims=True)
    return problem.allowed & (errors - least <= (band[1] - problem.floor[2]) * (1 + 1e-9) + 1e-12)


def _duals(problem: Scaled, band, mask, multipliers, combine: Combine):
    """Dual bounds on log W of the band, [n], and the choices that attain the minima, [n, l]."""
    multipliers = multipliers * jnp.array([1.0, 1.0, float(combine == "sum")])
    weighed = jnp.where(mask, jnp.einsum("ljc,nc->nlj", problem.costs, multipliers), jnp.inf)
    least = weighed.min(axis=-1).sum(axis=-1) + multipliers @ problem.base
    box = sum(
        _peak(multipliers[:, c], problem.floor[c], problem.ceiling[c]) for c in (0, 1)
    ) + jnp.max(multipliers[:, 2, None] * band - jnp.log(band), axis=-1)
    return box - least, weighed.argmin(axis=-1)


def _peak(slope, low, high):
    """max of log(1 − x) + slope·x over low ≤ x ≤ high."""
    x = jnp.clip(1 - 1 / jnp.maximum(slope, 1e-300), low, high)
    return jnp.log1p(-x) + slope * x


def _log_w(problem: Scaled, choices, combine: Combine):
    """log W of choices [n, l]; −∞ above a ceiling or where an option is not there."""
    layers = jnp.arange(choices.shape[-1])
    totals = _together(problem.base, problem.costs[layers, choices], combine)
    there = problem.allowed[layers, choices].all(axis=-1)
    return jnp.where(there, _log_w_of(totals, problem.ceiling), -jnp.inf)


def _log_w_of(totals, ceiling):
    inside = (totals <= ceiling).all(axis=-1)
    value = jnp.log1p(-totals[..., 0]) + jnp.log1p(-totals[..., 1]) - jnp.log(totals[..., 2])
    return jnp.where(inside, value, -jnp.inf)


# The program: labels over the layers, bounded by reduced costs.


def _close(problem: Scaled, number, bands: Bands, best: Incumbent, *, combine, epsilon):
    """Runs the program with growing room; returns incumbent, bound of this problem, room."""
    still = bands.duals > _enough(best.log_w, epsilon)
    closed = bands.duals[~still].max(initial=-np.inf)
    bands = _merged(Bands(*(x[still] for x in bands)))
    rest, size = bands.duals.max(), 0
    for size in CAPACITIES:
        best, rest = _program(
            problem, number, bands, best, combine=combine, epsilon=epsilon, capacity=size
        )
        if rest <= _enough(best.log_w, epsilon):
            break
    return best, max(closed, rest), size


def _merged(bands: Bands) -> Bands:
    """At most BANDS bands: the tightest beyond that are joined into their hull."""
    order = np.argsort(-bands.duals)
    if len(order) <= BANDS:
        return Bands(*(x[order] for x in bands))
    keep, join = order[: BANDS - 1], order[BANDS - 1 :]
    hull = np.array([[bands.edges[join, 0].min(), bands.edges[join, 1].max()]])
    joined = Bands(hull, bands.duals[join[:1]] * 0 + np.inf, bands.multipliers[join[:1]])
    return Bands(*(np.concatenate([x[keep], y]) for x, y in zip(bands, joined, strict=True)))


def _program(problem: Scaled, number, bands, best: Incumbent, *, combine, epsilon, capacity):
    padded = Bands(*(np.resize(x, (BANDS, *x.shape[1:])) for x in bands))
    reduced, duals = map(
        np.asarray, _reduced(problem, padded.edges, padded.multipliers, combine=combine)
    )
    # Layers with few options left come first: the list of labels stays short.
    slack = (duals[:, :, None, None] - reduced).min(axis=1).max(axis=0)
    order = np.argsort((slack > best.log_w).sum(axis=-1), kind="stable")
    cell = _cells(problem, best.log_w, epsilon)
    totals, bound, parents, options = map(
        np.asarray,
        _labels(
            problem.costs[order],
            problem.base,
            problem.ceiling,
            np.moveaxis(reduced, 2, 0)[order],
            duals,
            _enough(best.log_w, epsilon),
            cell,
            combine=combine,
            capacity=capacity,
        ),
    )
    values = np.asarray(_log_w_of(jnp.asarray(totals), problem.ceiling))
    top = int(values.argmax())
    if values[top] > best.log_w:
        choice = np.empty(len(order), np.int64)
        choice[order] = _backtrack(parents, options, top)
        best = Incumbent(float(values[top]), number, choice)
    dropped, rounded = bound
    return best, max(dropped, min(rounded, best.log_w - np.log1p(-epsilon)))


def _cells(problem: Scaled, log_w: float, epsilon: float) -> np.ndarray:
    """Widths of the cells of p and i, so that L replacements keep W ≥ (1 − ε)·W.

    Any choice better than the incumbent has (1 − p)·(1 − i) > W·e, hence each factor is at
    least W·e_min over the largest of the other.
    """
    layers, free = len(problem.costs), 1 - problem.floor
    floor = np.exp(log_w) * problem.floor[2] / free[[1, 0]]
    return np.maximum(0.5 * epsilon * floor / layers, 1e-14)


@partial(jax.jit, static_argnames="combine")
def _reduced(problem: Scaled, edges, multipliers, *, combine: Combine):
    """Reduced costs [b, m, l, j] and duals [b, m] for m multipliers near each band's best."""

    def one(band, center, key):
        noise = 0.1 * jax.random.normal(key, (DUALS, 3)).at[0].set(0.0)
        trials = center * jnp.exp(noise)
        mask = _allowed(problem, band, combine)
        duals, _ = _duals(problem, band, mask, trials, combine)
        used = trials * jnp.array([1.0, 1.0, float(combine == "sum")])
        weighed = jnp.where(mask, jnp.einsum("ljc,nc->nlj", problem.costs, used), jnp.inf)
        least = weighed.min(axis=-1, keepdims=True)
        empty = jnp.isinf(least)  # a layer without options: the band is closed
        return jnp.where(empty, jnp.inf, weighed - jnp.where(empty, 0, least)), duals

    return jax.vmap(one)(edges, multipliers, jax.random.split(jax.random.key(1), len(edges)))


@partial(jax.jit, static_argnames=("combine", "capacity"))
def _labels(costs, base, ceiling, reduced, duals, enough, cell, *, combine: Combine, capacity: int):
    """The dynamic program over the layers.

    Returns:
      totals [k, 3] of the complete labels, the largest bounds of what was dropped for want of
      room or as good enough, and of what was replaced within a cell, and the parents and
      options [l, k] that lead back.
    """

    def layer(carry, inputs):
        totals, slack, bound = carry
        option_costs, option_reduced = inputs  # [j, 3], [b, m, j]
        new = _added(totals[:, None], option_costs[None], combine)  # [k, j, 3]
        less = slack[:, None] - jnp.moveaxis(option_reduced, -1, 0)[None]  # [k, j, b, m]
        best = less.min(axis=-1).max(axis=-1)  # every completion lies in one of the bands
        best = jnp.where((new <= ceiling).all(axis=-1), best, -jnp.inf).reshape(-1)
        alive = best > enough
        first = _least_error_in_cell(new.reshape(-1, 3), alive, cell)
        rounded = jnp.max(best, where=alive & ~first, initial=-jnp.inf)
        kept, at = jax.lax.top_k(jnp.where(alive & first, best, -jnp.inf), capacity + 1)
        low = jnp.max(best, where=~alive, initial=-jnp.inf)
        bound = jnp.maximum(bound, jnp.stack([jnp.maximum(kept[-1], low), rounded]))
        at, live = at[:-1], jnp.isfinite(kept[:-1])
        totals = jnp.where(live[:, None], new.reshape(-1, 3)[at], jnp.inf)
        slack = jnp.where(live[:, None, None], less.reshape(-1, *slack.shape[1:])[at], -jnp.inf)
        return (totals, slack, bound), (at // len(option_costs), at % len(option_costs))

    only = jnp.arange(capacity) == 0
    totals = jnp.where(only[:, None], base, jnp.inf)
    slack = jnp.where(only[:, None, None], duals, -jnp.inf)
    first = (totals, slack, jnp.full(2, -jnp.inf))
    (totals, _, bound), (parents, options) = jax.lax.scan(layer, first, (costs, reduced))
    return totals, bound, parents, options


def _added(totals, option, combine: Combine):
    if combine == "sum":
        return totals + option
    error = jnp.maximum(totals[..., 2:], option[..., 2:])
    return jnp.concatenate([totals[..., :2] + option[..., :2], error], axis=-1)


def _least_error_in_cell(totals, alive, cell):
    """Marks, of the labels alive in each cell of (p, i), the one with the least error."""
    numbers = jnp.floor(jnp.where(alive[:, None], totals[:, :2], jnp.inf) / cell)
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


def _solution(problems, maximum, best: Incumbent, combine, bound, sweep_w, labels):
    problem, choice = problems[best.problem], best.choice
    rows = np.arange(len(choice))
    params = problem.base_params + int(problem.params[rows, choice].sum())
    inference_cost = problem.base_inference_cost + int(problem.inference_cost[rows, choice].sum())
    errors = problem.errors[rows, choice]
    error = (
        problem.base_error + errors.sum()
        if combine == "sum"
        else max(problem.base_error, errors.max())
    )
    w = (1 - params / maximum[0]) * (1 - inference_cost / maximum[1]) / error
    return LayerwiseSolution(
        problem=best.problem,
        choice=choice,
        params=params,
        inference_cost=inference_cost,
        error=float(error),
        w=float(w),
        bound=float(max(bound, w)),
        sweep_w=float(sweep_w),
        labels=labels,
    )

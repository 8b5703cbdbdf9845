# SPDX-License-Identifier: Apache-2.0
"""Upper bounds on W over bands of e, by the Lagrangian dual, and the choices found on the way."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bort_jax.ose.layer_problem import Problem, log_w

BANDS, TRIALS, ROUNDS, DUALS = 32, 24, 12, 6
SPLITTINGS = 12
ROUNDOFF = 1e-9  # of log W: two choices closer than this are equal


class Bands(NamedTuple):
    """Ranges of e with the best dual bound known, and the multipliers that give it."""

    edges: np.ndarray  # [b, 2]
    duals: np.ndarray  # [b]
    multipliers: np.ndarray  # [b, 3]

    def pick(self, which) -> "Bands":
        return Bands(*(part[which] for part in self))

    def join(self, other: "Bands") -> "Bands":
        return Bands(*(np.concatenate(parts) for parts in zip(self, other, strict=True)))

    def fill(self) -> "Bands":
        """BANDS of them, repeated as needed: one shape, one compilation."""
        return Bands(*(np.resize(part, (BANDS, *part.shape[1:])) for part in self))


class Incumbent(NamedTuple):
    """The best choice so far, int[l], and the problem it belongs to; None: nothing found yet."""

    log_w: float
    problem: int
    choice: Any


def sweep(problem: Problem, number: int, best: Incumbent) -> tuple[Bands, Incumbent]:
    """Dual bounds of bands, the worst split until the gap is closed or time is better spent."""
    low, high = problem.floor[2], problem.ceiling[2]
    points = np.geomspace(low, max(high, low), BANDS + 1) if high > low else np.array([low, low])
    bands, best = _improve(problem, number, _start_bands(points), best)
    for _ in range(SPLITTINGS):
        worst = np.argsort(-bands.duals)[: BANDS // 2]
        worst = worst[bands.duals[worst] > best.log_w + ROUNDOFF]
        if not len(worst):
            break
        halves, best = _improve(problem, number, _halve(bands.pick(worst)), best)
        before = bands.duals.max()
        bands = Bands(*(np.delete(part, worst, axis=0) for part in bands)).join(halves)
        if before - bands.duals.max() < 0.1 * (before - best.log_w):
            break
    return bands, best


def merge_bands(bands: Bands) -> Bands:
    """At most BANDS bands: the tightest beyond that are joined into their hull."""
    order = np.argsort(-bands.duals)
    if len(order) <= BANDS:
        return bands.pick(order)
    keep, join = order[: BANDS - 1], order[BANDS - 1 :]
    hull = np.array([[bands.edges[join, 0].min(), bands.edges[join, 1].max()]])
    return bands.pick(keep).join(Bands(hull, np.array([np.inf]), bands.multipliers[join[:1]]))


def _start_bands(points: np.ndarray) -> Bands:
    edges = np.stack([points[:-1], np.maximum(points[1:], points[:-1])], axis=1)
    start = np.stack([np.full(len(edges), 1.5), np.full(len(edges), 1.5), 1 / edges[:, 0]], 1)
    return Bands(edges, np.full(len(edges), np.inf), start)


def _halve(bands: Bands) -> Bands:
    low, high = bands.edges.T
    middle = np.sqrt(low * high)
    edges = np.concatenate([np.stack([low, middle], 1), np.stack([middle, high], 1)])
    return Bands(edges, np.tile(bands.duals, 2), np.tile(bands.multipliers, (2, 1)))


def _improve(problem: Problem, number: int, bands: Bands, best: Incumbent):
    """Searches better multipliers for bands, BANDS at a time."""
    found = []
    for start in range(0, len(bands.duals), BANDS):
        part = bands.pick(slice(start, start + BANDS))
        size, full = len(part.duals), part.fill()
        duals, multipliers, value, choice = map(
            np.asarray, _search_multipliers(problem, full.edges, full.multipliers)
        )
        if value > best.log_w:
            best = Incumbent(float(value), number, choice)
        duals = np.minimum(part.duals, duals[:size])
        found.append(Bands(part.edges, duals, multipliers[:size]))
    return Bands(*map(np.concatenate, zip(*found, strict=True))), best


@jax.jit
def _search_multipliers(problem: Problem, edges, start):
    """Random search of multipliers around the best so far, ever closer; all bands at once."""
    masks = jax.vmap(lambda band: _options_of_band(problem, band))(edges)

    def one(band, mask, multipliers, noise):
        trials = multipliers[None] * jnp.exp(noise.at[0].set(0.0))
        duals, choices = _dual_bounds(problem, band, mask, trials)
        values = log_w(problem, choices)
        at, top = jnp.argmin(duals), jnp.argmax(values)
        return duals[at], trials[at], values[top], choices[top]

    def round_(carry, inputs):
        multipliers, best_w, best_choice = carry
        noise = inputs[0] * jax.random.normal(inputs[1], (len(edges), TRIALS, 3))
        duals, multipliers, values, choices = jax.vmap(one)(edges, masks, multipliers, noise)
        top = jnp.argmax(values)
        best_choice = jnp.where(values[top] > best_w, choices[top], best_choice)
        return (multipliers, jnp.maximum(best_w, values[top]), best_choice), duals

    scales = 0.8 ** jnp.arange(ROUNDS)
    keys = jax.random.split(jax.random.key(0), ROUNDS)
    first = (start, -jnp.inf, jnp.zeros(problem.costs.shape[0], jnp.int64))
    (multipliers, value, choice), duals = jax.lax.scan(round_, first, (scales, keys))
    return duals.min(axis=0), multipliers, value, choice


def _options_of_band(problem: Problem, band):
    """Options that a choice with e in the band can hold."""
    errors = problem.costs[..., 2]
    least = jnp.where(problem.allowed, errors, jnp.inf).min(axis=1, keepdims=True)
    room = (band[1] - problem.floor[2]) * (1 + 1e-9) + 1e-12
    return problem.allowed & (errors - least <= room)


def _dual_bounds(problem: Problem, band, mask, multipliers):
    """Dual bounds on log W of the band, [n], and the choices that attain the minima, [n, l]."""
    weighed = _weigh(problem, mask, multipliers)
    least = weighed.min(axis=-1).sum(axis=-1) + multipliers @ problem.base
    box = sum(
        _peak(multipliers[:, c], problem.floor[c], problem.ceiling[c]) for c in (0, 1)
    ) + jnp.max(multipliers[:, 2, None] * band[None] - jnp.log(band)[None], axis=-1)
    return box - least, weighed.argmin(axis=-1)


def _weigh(problem: Problem, mask, multipliers):
    """λ·(p, i, e) of every option, [n, l, j]; ∞ where the mask forbids it."""
    return jnp.where(mask[None], jnp.einsum("ljc,nc->nlj", problem.costs, multipliers), jnp.inf)


def _peak(slope, low, high):
    """max of log(1 − x) + slope·x over low ≤ x ≤ high."""
    x = jnp.clip(1 - 1 / jnp.maximum(slope, 1e-300), low, high)
    return jnp.log1p(-x) + slope * x


@jax.jit
def reduced_costs(problem: Problem, edges, multipliers):
    """Reduced costs [b, m, l, j] and duals [b, m] for m multipliers near each band's best."""

    def one(band, center, key):
        noise = 0.1 * jax.random.normal(key, (DUALS, 3)).at[0].set(0.0)
        trials = center[None] * jnp.exp(noise)
        mask = _options_of_band(problem, band)
        duals, _ = _dual_bounds(problem, band, mask, trials)
        weighed = _weigh(problem, mask, trials)
        least = weighed.min(axis=-1, keepdims=True)
        empty = jnp.isinf(least)  # a layer without options: the band is closed
        return jnp.where(empty, jnp.inf, weighed - jnp.where(empty, 0, least)), duals

    return jax.vmap(one)(edges, multipliers, jax.random.split(jax.random.key(1), len(edges)))

# SPDX-License-Identifier: Apache-2.0
"""A network inside a parent refitted layer after layer, each on its own inputs.

The bank of `Inheritance` refits every layer on the parent's inputs, which makes its errors add up.
Here a layer reads what the smaller layers before it give, and its projections are refitted so that
their sums come near the parent's: it also mends what those have lost. That gains where much is cut
away, and overfits where little is; so both are measured on held-out rows.
"""

from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float

from bort_jax.arch import Arch, LayerwiseArch
from bort_jax.model.inherit.gram import SIDES, Side, add, cross_matrix, gram_matrix
from bort_jax.model.inherit.inheritance import Inheritance
from bort_jax.model.inherit.layer import cut, projection
from bort_jax.model.inherit.network import Batch, Network
from bort_jax.model.inherit.plan import Kept, plan
from bort_jax.model.inherit.refit import Projection, refits

P = TypeVar("P")


class Refined(NamedTuple, Generic[P]):
    """A checkpoint and its e, measured."""

    checkpoint: P
    error: float


def refine(inheritance: Inheritance[P], arch: Arch | LayerwiseArch) -> Refined[P]:
    """As `Inheritance.checkpoint`, refitted on its own inputs where that errs less.

    Raises:
      ValueError: as `Inheritance.checkpoint`.
    """
    arch = inheritance.layerwise(arch)
    error = inheritance.error(arch)
    own = sequential_layers(inheritance, arch)
    own_error = inheritance.error_of(own)
    if own_error < error:
        return Refined(inheritance.with_layers(arch, own), own_error)
    return Refined(inheritance.checkpoint(arch), error)


def refitted(side: Projection, cross: Float[np.ndarray, "f h"]) -> Float[np.ndarray, "f h"]:
    """The projection of all features there, refitted to a target's cross moments with them."""
    size = (len(side.weights) - 1) // side.grain
    return refits(side, [size], cross=cross)[size]


def sequential_layers(
    inheritance: Inheritance,
    arch: LayerwiseArch,
    *,
    start: Sequence[tuple[int, Any]] | None = None,
    fit_fn: Callable = refitted,
) -> list[tuple[int, Any]]:
    """Places and parameters of the layers, each refitted on what those before it give.

    Args:
      start: layers of the architecture's sizes; none: the bank's.
      fit_fn: from a projection on its own inputs and cross moments to its weights, as `refitted`.
    """
    network, done, layers = inheritance.network, 0, []
    parents = [network.embed(batch) for batch in inheritance.rows]
    own, bank = list(parents), dict(start or inheritance.layers(arch))
    for kept in plan(arch):
        attended, totals, parents = _targets(network, kept, done, parents)
        layer, part = bank[kept.number], inheritance.parts[kept.number]
        for side, targets in zip(SIDES, (attended, totals), strict=True):
            ridge = getattr(part, side).ridge
            found, cross = _own_moments(network, kept.number, layer, own, targets, side)
            weights = {name: projection(layer, name) for name in SIDES}
            weights[side] = fit_fn(found._replace(ridge=ridge), cross)
            layer = cut(layer, weights["heads"], weights["units"])
        layers.append((kept.number, layer))
        whole = network.at_size(kept.number, layer)
        own = [network.through(kept.number, whole, state) for state in own]
        done = kept.until + 1
    return layers


def _targets(network: Network, kept: Kept, done: int, states: Sequence[Batch]):
    """The parent's sums that a layer should come near, and its states after those it stands for."""
    attended, totals, states = [], [], list(states)
    for number in range(done, kept.until + 1):
        taps = [network.taps(number, network.layers[number], state) for state in states]
        states = [s | {"x": tap.output} for s, tap in zip(states, taps, strict=True)]
        if number == kept.number:
            attended = [tap.attended for tap in taps]
        totals = [tap.total for tap in taps]
    return attended, totals, states


def _own_moments(
    network: Network, number: int, layer, states, targets, side: Side
) -> tuple[Projection, Float[np.ndarray, "f h"]]:
    """One side of a layer on its own inputs, and its cross moments with the targets."""
    totals: dict = {}
    whole = network.at_size(number, layer)
    for state, target in zip(states, targets, strict=True):
        add(totals, network.sums(number, whole, state | {"target": target}, side)[side])
    weights = projection(layer, side)
    n, grain = len(weights), network.config.arch.head_size if side == "heads" else 1
    own = Projection(gram_matrix(totals)[:n, :n], weights, grain)
    return own, cross_matrix(totals)[:n]

# SPDX-License-Identifier: Apache-2.0
"""One layer of a parent: its moments on rows of text, and its heads and units in order."""

from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int

from bort_jax.model.inherit.gram import SIDES, add, gram_matrix
from bort_jax.model.inherit.layer import permute, projection
from bort_jax.model.inherit.network import Network
from bort_jax.model.inherit.plan import Option
from bort_jax.model.inherit.refit import (
    Projection,
    feature_order,
    head_order,
    unit_order,
    with_best_ridge,
)


class Part(NamedTuple):
    """One layer of the parent.

    Attributes:
      sizes: its heads and units.
      whole: its parameters.
      ordered: the same, the most important heads and units first.
      heads, units: its output and down projections, in that order.
      rows, columns: the order of the rows of the down and of the output projection.
    """

    sizes: Option
    whole: Any
    ordered: Any
    heads: Projection
    units: Projection
    rows: Int[np.ndarray, " f"]
    columns: Int[np.ndarray, " f"]


def layer_grams(network: Network, number: int, states):
    """Gram matrices of a layer, of rows to fit and held-out ones, and the states after it."""
    grams, after = [], []
    for part in states:
        totals, new = {side: {} for side in SIDES}, []
        for state in part:
            sums = network.sums(number, network.layers[number], state, *SIDES)
            new.append(state | {"x": sums["x"]})
            for side in SIDES:
                add(totals[side], sums[side])
        grams.append({side: gram_matrix(totals[side]) for side in SIDES})
        after.append(new)
    return grams, after


def order_layer(network: Network, number: int, fitted, held) -> Part:
    layer = jax.tree.map(np.asarray, network.layers[number])
    k = network.config.arch.head_size
    out, down = projection(layer, "heads"), projection(layer, "units")
    heads = head_order(fitted["heads"], out, head_size=k)
    units = unit_order(fitted["units"], down)
    columns, rows = feature_order(heads, grain=k), feature_order(units, grain=1)
    return Part(
        network.sizes[number],
        layer,
        permute(layer, heads, units),
        _projection(fitted["heads"], held["heads"], out, columns, grain=k),
        _projection(fitted["units"], held["units"], down, rows, grain=1),
        rows,
        columns,
    )


def _projection(gram, held, weights, order, *, grain: int) -> Projection:
    both = np.ix_(order, order)
    side = Projection(gram[both].astype(np.float32), weights[order], grain)
    return with_best_ridge(side, held[both])

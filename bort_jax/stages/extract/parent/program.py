# SPDX-License-Identifier: Apache-2.0
"""The best heads and units of every layer of a parent: exact, in milliseconds, without a device.

All layers of a parent are alike, so p and i of a network that keeps some of them depend on no more
than how many heads it has in all, and how many units. Latency adds up over the sizes that stand
in its layers. e is a sum of what the heads of each layer add and what its units add. So two tables
are enough, built layer by layer: for every total of heads the choice of least error, and for every
total of units. A network is a pair of their rows, and the best pair is the best network.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


class Side(NamedTuple):
    """The choices of heads, or of units, in every layer.

    Attributes:
      sizes: how many; nanoseconds: of latency that they take, 0 where that is not known.
      errors: what each adds to e, of every layer.
    """

    sizes: Int[np.ndarray, " j"]
    nanoseconds: Int[np.ndarray, " j"]
    errors: Float[np.ndarray, "l j"]


class Table(NamedTuple):
    """For each total that the layers can have, the choice of least error.

    Attributes:
      sizes, nanoseconds: totals, no two rows alike.
      errors: the least sum.
      picks: the choice of each layer.
    """

    sizes: Int[np.ndarray, " m"]
    nanoseconds: Int[np.ndarray, " m"]
    errors: Float[np.ndarray, " m"]
    picks: Int[np.ndarray, "m l"]


def table_of(side: Side) -> Table:
    """Every total of a side, from the first layer to the last."""
    none = np.zeros(1, np.int64)
    table = Table(none, none, np.zeros(1), np.zeros((1, 0), np.int64))
    for errors in side.errors:
        table = _with_layer(table, side, errors)
    return table


def equal_layers(side: Side) -> Table:
    """The choices that are the same in every layer."""
    depth, choices = len(side.errors), np.arange(len(side.sizes))
    picks = np.repeat(choices[:, None], depth, axis=1)
    return Table(depth * side.sizes, depth * side.nanoseconds, side.errors.sum(axis=0), picks)


def _with_layer(table: Table, side: Side, layer: Float[np.ndarray, " j"]) -> Table:
    sizes = np.add.outer(table.sizes, side.sizes).ravel()
    nanoseconds = np.add.outer(table.nanoseconds, side.nanoseconds).ravel()
    errors = np.add.outer(table.errors, layer).ravel()
    order = np.lexsort((errors, nanoseconds, sizes))
    new = (np.diff(sizes[order]) != 0) | (np.diff(nanoseconds[order]) != 0)
    at = order[np.append(True, new)]
    row, pick = np.divmod(at, len(side.sizes))
    picks = np.column_stack([table.picks[row], pick])
    return Table(sizes[at], nanoseconds[at], errors[at], picks)

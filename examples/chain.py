# SPDX-License-Identifier: Apache-2.0
"""Chains: layers whose costs depend on their own width and the one before, solved exactly.

A dynamic program over (layer, width). A label is the (p, i, e) of a choice of widths up to a
layer; of the labels at one width, one that is no better than another in any of the three can
be dropped, since whatever follows costs both the same. W falls in p, in i and in e, so the best
choice survives. The number of labels is not bounded by a polynomial; for the small networks
this is meant for it stays in the hundreds.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

PairCost = Callable[[int, int, int], int]  # (layer, width before, width) to a cost
WidthError = Callable[[int, int], float]  # (layer, width) to its share of e


class ChainSolution(NamedTuple):
    """The widths with the largest W, what they cost, and the labels that were looked at."""

    widths: tuple[int, ...]
    w: float
    params: int
    macs: int
    error: float
    labels: int


class _Labels(NamedTuple):
    totals: Float[np.ndarray, "n 3"]
    widths: list[tuple[int, ...]]


def solve_chain(
    choices: Sequence[Sequence[int]],
    *,
    params: PairCost,
    macs: PairCost,
    error: WidthError,
    base_error: float = 0.0,
) -> ChainSolution:
    """The widths, one of each layer's choices, with the largest W; p, i and e add up.

    Args:
      choices: widths of layers 0 … n; layer 0 is the input.
      params, macs: cost that layer l ≥ 1 adds, from the width before it and its own.
      error: what the width of layer l ≥ 1 adds to e.
      base_error: e of the rest.

    As in `saving`, the p and i of T are the largest that any widths have; costs may fall as a
    width grows. Totals are exact up to 2⁵³. Of equal W one is returned, always the same.

    Raises:
      ValueError: a layer without choices, costs that are 0 whatever the widths, or a total
        error that is not positive.
    """
    if len(choices) < 2 or not all(len(layer) for layer in choices):
        raise ValueError("a chain needs two layers or more, each with a choice of width")
    labels = {
        w: _Labels(np.array([[0.0, 0.0, base_error]]), [(w,)]) for w in sorted(set(choices[0]))
    }
    seen = len(labels)
    for layer in range(1, len(choices)):
        added = lambda before, w, layer=layer: np.array(
            [params(layer, before, w), macs(layer, before, w), error(layer, w)], float
        )
        labels = {w: _extended(labels, w, added) for w in sorted(set(choices[layer]))}
        seen += sum(len(kept.widths) for kept in labels.values())
    return _best(labels, (_largest(choices, params), _largest(choices, macs)), seen)


def _extended(labels: dict[int, _Labels], width: int, added: Callable) -> _Labels:
    totals = np.concatenate([kept.totals + added(w, width) for w, kept in labels.items()])
    widths = [(*past, width) for kept in labels.values() for past in kept.widths]
    keep = _undominated(totals)
    return _Labels(totals[keep], [w for w, k in zip(widths, keep, strict=True) if k])


def _undominated(totals: Float[np.ndarray, "n 3"]) -> Bool[np.ndarray, " n"]:
    """Rows that no other row is at least as small as; of equal rows the first."""
    keep = np.ones(len(totals), dtype=bool)
    for k in np.lexsort((np.arange(len(totals)), *totals.T[::-1])):
        if keep[k]:
            worse = np.all(totals >= totals[k], axis=1)
            keep &= ~(worse & (np.arange(len(totals)) != k))
    return keep


def _largest(choices: Sequence[Sequence[int]], cost: PairCost) -> int:
    """The longest path through the layers: the most that any widths cost."""
    most = dict.fromkeys(choices[0], 0)
    for layer, widths in enumerate(choices[1:], start=1):
        most = {w: max(p + cost(layer, v, w) for v, p in most.items()) for w in widths}
    return max(most.values())


def _best(labels: dict[int, _Labels], largest: tuple[int, int], seen: int) -> ChainSolution:
    totals = np.concatenate([kept.totals for kept in labels.values()])
    widths = [w for kept in labels.values() for w in kept.widths]
    if (totals[:, 2] <= 0).any():
        raise ValueError("a total error of 0 is possible, and W divides by it")
    if min(largest) <= 0:
        raise ValueError(f"p and i must be positive at T; got {largest}")
    w = (1 - totals[:, 0] / largest[0]) * (1 - totals[:, 1] / largest[1]) / totals[:, 2]
    k = min(range(len(w)), key=lambda k: (-w[k], widths[k]))
    return ChainSolution(
        widths[k], float(w[k]), int(totals[k, 0]), int(totals[k, 1]), float(totals[k, 2]), seen
    )

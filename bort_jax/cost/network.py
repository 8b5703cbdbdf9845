# SPDX-License-Identifier: Apache-2.0
"""Any A·Bⁿ·C network, f(x) = C(B_n(…B_1(A(x))…)), as the costs of its parts.

A count is a function of a row of architectural parameters that uses only `+ - * // **`: a
`Polynomial`, or a function of one's own. It is called with Python integers (the oracle), with
traced 64-bit integers (the evaluator) and with traced floats (its check for overflow).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

Count = Callable[[Any], Any]


def zero(row: Any) -> Any:
    """The count 0, of any row."""
    return 0 * row[0]


class Part(NamedTuple):
    """The costs of one part.

    Attributes:
      params: trainable parameters.
      macs: multiply-adds of matrix products in one forward pass on one example.
      elementwise_ops: element-wise operations of the same pass.
      live_activations: numbers held at once, one count for each point at which the most could be.
    """

    params: Count
    macs: Count
    elementwise_ops: Count = zero
    live_activations: tuple[Count, ...] = ()


class Network(NamedTuple):
    """An A·Bⁿ·C network.

    Attributes:
      a, b, c: the first part, one middle part, the last part.
      names: the architectural parameters, in the order of a row.
      repeats: n, a function of the row.
      titles: what a person calls A, Bⁿ and C.
    """

    a: Part
    b: Part
    c: Part
    names: Sequence[str]
    repeats: Count
    titles: tuple[str, str, str] = ("A", "B^n", "C")


def by_part(network: Network, row: Any) -> dict[str, dict[str, Any]]:
    """params, macs and elementwise_ops of A, Bⁿ and C at a row; Bⁿ is n times B."""
    times = (1, network.repeats(row), 1)
    parts = zip(network.titles, (network.a, network.b, network.c), times, strict=True)
    return {
        title: {
            kind: n * getattr(part, kind)(row) for kind in ("params", "macs", "elementwise_ops")
        }
        for title, part, n in parts
    }


def total(network: Network, row: Any) -> dict[str, Any]:
    """params, macs and elementwise_ops of the whole network: Python integers, or traced ones."""
    parts = by_part(network, row).values()
    return {kind: sum(p[kind] for p in parts) for kind in ("params", "macs", "elementwise_ops")}

# SPDX-License-Identifier: Apache-2.0
"""Does a network have the weak AB^nC property, part by part, and by how much?"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from bort_jax.cost.network import Network, by_part

REFERENCE, FAR = 64, 2**40  # growth of a count is measured between ξ and FAR·ξ
CLOSE = 0.02  # two measured exponents closer than this are equal


class Finding(NamedTuple):
    """One condition: the growth of an outer part against that of B.

    Attributes:
      part: "A" or "C"; cost: "params" or "macs".
      growth, layer_growth: exponents g of growth t^g when every size grows by t.
      shares: of the part in the whole network, at the smallest and largest point that were
        given; empty if none were.
    """

    part: str
    cost: str
    growth: float
    layer_growth: float
    shares: tuple[float, ...] = ()

    @property
    def holds(self) -> bool:
        return self.growth < self.layer_growth - CLOSE

    def __str__(self) -> str:
        verdict = "holds" if self.holds else "fails"
        text = (
            f"{self.part}, {self.cost}: {verdict}, it grows as t^{self.growth:.3g}, B as "
            f"t^{self.layer_growth:.3g}"
        )
        if self.shares:
            text += "; its share is " + " to ".join(f"{share:.1%}" for share in self.shares)
        return text


class AbncReport(NamedTuple):
    """The weak property, condition by condition.

    The strong property adds conditions on the loss and the weights (smoothness, bounded
    stochastic gradients, clipped weights), which no count shows; it is not judged here.
    """

    findings: tuple[Finding, ...]

    @property
    def is_weak(self) -> bool:
        return all(finding.holds for finding in self.findings)

    def __str__(self) -> str:
        verdict = "holds" if self.is_weak else "does not hold"
        return "\n".join([f"weak AB^nC property: {verdict}", *map(str, self.findings)])


def is_abnc(
    network: Network, *, sizes: Iterable[str] | None = None, points: Sequence[Sequence[int]] = ()
) -> AbncReport:
    """Compares how fast p and i of A, B and C grow (arXiv 2010.08512, weak AB^nC).

    *Our reading* of "grows more slowly": the exponent g of t^g, as every size grows by the same
    factor t without limit, is smaller; constants such as the vocabulary do not count, however
    large. It is the total degree of a polynomial, and is measured on any other count.

    Args:
      network: any A·Bⁿ·C network.
      sizes: the parameters that grow; all but `depth`, which only counts the layers.
      points: architectures; the share of each part is reported at the ones with the smallest
        and the largest p.
    """
    grown = set(sizes or (name for name in network.names if name != "depth"))
    findings = []
    for cost in ("params", "macs"):
        layer = _growth(getattr(network.b, cost), network.names, grown)
        for name, part, title in (
            ("A", network.a, network.titles[0]),
            ("C", network.c, network.titles[2]),
        ):
            growth = _growth(getattr(part, cost), network.names, grown)
            findings.append(
                Finding(name, cost, growth, layer, _shares(network, title, cost, points))
            )
    return AbncReport(tuple(findings))


def _growth(count: Callable, names: Sequence[str], grown: set[str]) -> float:
    """log_t of count(t·ξ)/count(ξ), between two far points so that lower terms have died out."""
    near, far = (
        count([REFERENCE * (t if name in grown else 1) for name in names]) for t in (FAR, FAR**2)
    )
    return math.log(far / near) / math.log(FAR) if near > 0 and far > 0 else 0.0


def _shares(network: Network, title: str, cost: str, points) -> tuple[float, ...]:
    if not len(points):
        return ()
    counts = [by_part(network, [int(x) for x in point]) for point in points]
    whole = [sum(part["params"] for part in count.values()) for count in counts]
    ends = (counts[whole.index(min(whole))], counts[whole.index(max(whole))])
    share = lambda count: count[title][cost] / max(sum(p[cost] for p in count.values()), 1)
    return tuple(share(count) for count in ends)

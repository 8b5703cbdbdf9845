# SPDX-License-Identifier: Apache-2.0
"""Does a network have the weak AB^nC property? Read off its cost polynomials."""

from typing import NamedTuple, Protocol


class PolynomialLike(Protocol):
    def degree(self, *letters: str) -> int: ...


class Finding(NamedTuple):
    """One comparison: the degree of an outer part against the degree of the layer."""

    part: str  # "A" or "C"
    cost: str  # "params" or "steps"
    degree: int
    layer_degree: int

    @property
    def holds(self) -> bool:
        return self.degree < self.layer_degree

    def __str__(self) -> str:
        verdict = "grows more slowly" if self.holds else "does not grow more slowly"
        return (
            f"{self.part}, {self.cost}: degree {self.degree}, a layer's {self.layer_degree}: "
            f"{verdict}"
        )


class AbncReport(NamedTuple):
    """The weak property, condition by condition.

    The strong property adds conditions on the loss and the weights (smoothness, bounded
    stochastic gradients, clipped weights), which no polynomial shows; it is not judged here.
    """

    findings: tuple[Finding, ...]

    @property
    def weak(self) -> bool:
        return all(finding.holds for finding in self.findings)

    def __str__(self) -> str:
        verdict = "holds" if self.weak else "does not hold"
        return "\n".join([f"weak AB^nC property: {verdict}", *map(str, self.findings)])


def check_abnc(network) -> AbncReport:
    """Compares total degrees in the sizes A, H, I (arXiv 2010.08512, definition of weak AB^nC).

    D only counts the layers, so it is left out on both sides. *Our reading* of "grows more
    slowly": a smaller total degree; constants such as the vocabulary do not count, however
    large.

    Args:
      network: has parts `embeddings`, `layer`, `head`, each with polynomials `params` and
        `steps`, as `bort_jax.cost.Network` has.
    """
    findings = []
    for cost in ("params", "steps"):
        layer_degree = _degree(getattr(network.layer, cost))
        for name, part in (("A", network.embeddings), ("C", network.head)):
            findings.append(Finding(name, cost, _degree(getattr(part, cost)), layer_degree))
    return AbncReport(tuple(findings))


def _degree(polynomial: PolynomialLike) -> int:
    return polynomial.degree("A", "H", "I")

# SPDX-License-Identifier: Apache-2.0
"""Polynomials in the fields of an `Arch`, with integer exponents and coefficients."""

from typing import Any, NamedTuple


class Term(NamedTuple):
    """coefficient · D^a · A^b · H^c · I^d, the exponents in the order of `Arch`."""

    coefficient: int
    exponents: tuple[int, int, int, int]


class Polynomial(NamedTuple):
    """A sum of terms. Only `+` and `*` are used to evaluate it, so that the same object
    serves exact Python integers (the oracle) and traced 64-bit arrays."""

    terms: tuple[Term, ...] = ()

    @classmethod
    def of(cls, **coefficients: int) -> "Polynomial":
        """Builds a polynomial from monomials spelled by letters: `of(HH=4, HI=2, one=7)`."""
        return cls(tuple(Term(c, _exponents(name)) for name, c in coefficients.items()))

    def __call__(self, arch: Any) -> Any:
        """The value at `arch`, a sequence of four numbers: ints or traced integers."""
        return sum((_monomial(term, arch) for term in self.terms), start=0 * arch[0])

    def plus(self, other: "Polynomial") -> "Polynomial":
        """The sum of two polynomials, with like terms collected."""
        total: dict[tuple[int, int, int, int], int] = {}
        for coefficient, exponents in self.terms + other.terms:
            total[exponents] = total.get(exponents, 0) + coefficient
        return Polynomial(tuple(Term(c, e) for e, c in total.items() if c))

    def degree(self, *letters: str) -> int:
        """The total degree in the named letters of DAHI; 0 for the zero polynomial."""
        axes = ["DAHI".index(letter) for letter in letters]
        return max((sum(t.exponents[a] for a in axes) for t in self.terms), default=0)

    def __str__(self) -> str:
        return " + ".join(_spelled(term) for term in self.terms) or "0"


def _exponents(monomial: str) -> tuple[int, int, int, int]:
    letters = "" if monomial == "one" else monomial
    return (letters.count("D"), letters.count("A"), letters.count("H"), letters.count("I"))


def _monomial(term: Term, arch: Any) -> Any:
    value = term.coefficient
    for size, exponent in zip(arch, term.exponents, strict=True):
        for _ in range(exponent):
            value = value * size
    return value


def _spelled(term: Term) -> str:
    factors = [str(term.coefficient)] if term.coefficient != 1 or not any(term.exponents) else []
    powers = {1: "", 2: "²", 3: "³"}
    for letter, exponent in zip("DAHI", term.exponents, strict=True):
        factors += [letter + powers.get(exponent, f"^{exponent}")] if exponent else []
    return "·".join(factors)

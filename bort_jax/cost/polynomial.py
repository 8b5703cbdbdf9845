# SPDX-License-Identifier: Apache-2.0
"""Polynomials in named architectural parameters, with integer exponents and coefficients."""

from typing import Any, NamedTuple


class Term(NamedTuple):
    """A coefficient times powers, the exponents in the order of the polynomial's names."""

    coefficient: int
    exponents: tuple[int, ...]


class Polynomial(NamedTuple):
    """A sum of terms. Only `+` and `*` are used to evaluate it, so that the same object
    serves exact Python integers (the oracle) and traced 64-bit arrays.

    Attributes:
      terms: its terms.
      names: one letter for each architectural parameter, in the order of a row.
    """

    terms: tuple[Term, ...] = ()
    names: str = "DAHI"

    @classmethod
    def of(cls, names: str = "DAHI", /, **coefficients: int) -> "Polynomial":
        """Builds a polynomial from monomials spelled by letters: `of(HH=4, HI=2, one=7)`."""
        terms = (Term(c, _exponents(name, names)) for name, c in coefficients.items())
        return cls(tuple(terms), names)

    def __call__(self, arch: Any) -> Any:
        """The value at `arch`, a sequence of numbers: ints or traced integers."""
        return sum((_monomial(term, arch) for term in self.terms), start=0 * arch[0])

    def plus(self, other: "Polynomial") -> "Polynomial":
        """The sum of two polynomials in the same names, with like terms collected."""
        total: dict[tuple[int, ...], int] = {}
        for coefficient, exponents in self.terms + other.terms:
            total[exponents] = total.get(exponents, 0) + coefficient
        return Polynomial(tuple(Term(c, e) for e, c in total.items() if c), self.names)

    def degree(self, letters: str) -> int:
        """The total degree in the named letters; 0 for the zero polynomial."""
        axes = [self.names.index(letter) for letter in letters]
        return max((sum(t.exponents[a] for a in axes) for t in self.terms), default=0)

    def __str__(self) -> str:
        return " + ".join(_spelled(term, self.names) for term in self.terms) or "0"


def _exponents(monomial: str, names: str) -> tuple[int, ...]:
    letters = "" if monomial == "one" else monomial
    if unknown := set(letters) - set(names):
        raise ValueError(f"{monomial!r} names {sorted(unknown)}, which are not among {names}")
    return tuple(letters.count(name) for name in names)


def _monomial(term: Term, arch: Any) -> Any:
    value = term.coefficient
    for size, exponent in zip(arch, term.exponents, strict=True):
        for _ in range(exponent):
            value = value * size
    return value


def _spelled(term: Term, names: str) -> str:
    factors = [str(term.coefficient)] if term.coefficient != 1 or not any(term.exponents) else []
    powers = {1: "", 2: "²", 3: "³"}
    for letter, exponent in zip(names, term.exponents, strict=True):
        factors += [letter + powers.get(exponent, f"^{exponent}")] if exponent else []
    return "·".join(factors)

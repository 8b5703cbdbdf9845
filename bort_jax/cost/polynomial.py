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

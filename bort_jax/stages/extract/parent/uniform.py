# SPDX-License-Identifier: Apache-2.0
"""The published searches over the networks of equal layers inside a parent.

Each network that a search asks for is measured jointly, so the certificate speaks of e itself and
not of a sum over layers; few are asked for.
"""

from collections.abc import Callable, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np

from bort_jax.arch import LayerwiseArch
from bort_jax.ose import Budget, Certificate, extract
from bort_jax.stages.extract.parent.choices import Choices
from bort_jax.stages.extract.parent.search import Checked, Found, network_at

Uniform = tuple[int, int, int]  # layers, and the heads and units of each


class UniformNetworks(NamedTuple):
    """Ξ: every depth, with every number of heads and of units for all of its layers."""

    choices: Choices

    @property
    def places(self) -> dict[Uniform, tuple[int, int, int]]:
        """Where each stands in the choices: its depth's number, its heads', its units'."""
        choices = self.choices
        sizes = product(enumerate(choices.kept), enumerate(choices.heads), enumerate(choices.units))
        return {(len(kept), a, i): (k, m, n) for (k, kept), (m, a), (n, i) in sizes}

    def archs(self) -> list[Uniform]:
        return [*self.places]

    def costs(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The columns of `Choices.networks` but e, of some of Ξ."""
        places, tables = (
            self.places,
            [self.choices.networks(k) for k in range(len(self.choices.kept))],
        )
        at = [places[D, A, I] for D, A, I in rows.tolist()]
        names = [name for name in tables[0].columns if name != "error"]
        return {n: np.array([tables[k].columns[n][m, j] for k, m, j in at]) for n in names}

    def network(self, uniform: Uniform) -> LayerwiseArch:
        number, a, i = self.places[uniform]
        depth = len(self.choices.kept[number])
        return self.choices.arch(number, [a] * depth, [i] * depth)


def uniform_answer(
    choices: Choices,
    budget: Budget,
    errors_fn: Callable[[Sequence[LayerwiseArch]], list[float]],
    *,
    search: str,
    epsilon: float,
) -> tuple[list[Found], dict[str, Checked]]:
    """The largest measured W, then the best of each other depth; and all that were measured.

    Args:
      choices: of equal layers.
      errors_fn: e of some networks, measured.
      search, epsilon: as in `bort_jax.ose.extract`.

    Raises:
      Infeasible: no network meets the budget.
    """
    space = UniformNetworks(choices)
    found = extract(
        space,
        cost_fn=space.costs,
        error_fn=lambda archs: errors_fn([space.network(arch) for arch in archs]),
        epsilon=epsilon,
        search=search,
        budget=budget,
        inference=choices.inference,
    )
    measured = [found.archs[k] for k in found.trained_rows]
    errors, known = found.errors[found.trained_rows], {}
    for arch, error in zip(measured, errors.tolist(), strict=True):
        sum_of_parts = _network(space, arch, {}).surrogate
        known[str(space.network(arch))] = Checked(sum_of_parts, error)
    networks = [_network(space, arch, known) for arch in measured]
    within = [one for one in networks if budget.allows(one.columns)[0]]
    ranked = sorted(within, key=lambda one: -one.w)
    best = _network(space, found.best_arch, known)._replace(wanted=claim(found.certificate))
    others: dict[int, Found] = {best.arch.depth: best}
    for one in ranked:
        others.setdefault(one.arch.depth, one)
    return [best, *(one for one in others.values() if one is not best)], known


def claim(certificate: Certificate) -> str:
    """What the search guarantees, and on what that rests."""
    return (
        f"search {certificate.search}: W is at least {certificate.ratio:.1%} of the largest among "
        f"{certificate.members} networks of equal layers, of which {certificate.trained} were "
        f"measured, if “{certificate.assumption}” (broken by {certificate.violations} of "
        f"{certificate.pairs} measured pairs, which the bound allows for)"
    )


def _network(space: UniformNetworks, arch: Uniform, known: dict[str, Checked]) -> Found:
    number, *at = space.places[arch]
    return network_at(space.choices, number, space.choices.networks(number), tuple(at), known)

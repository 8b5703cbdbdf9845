# SPDX-License-Identifier: Apache-2.0
"""What was measured of a parent, and the layerwise problems that are made of it.

A network keeps some layers of the parent, each with some of its heads and units. For each depth
there is one set of kept layers, whose error with all else whole, healed, is the base of a problem:
errors of sets of removed layers do not add up, those of smaller layers nearly do. Heads and units
of a layer are measured apart, and added up.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from math import prod
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from bort_jax.arch import Arch, LayerwiseArch
from bort_jax.cost.bert import bert_network
from bort_jax.cost.layerwise import layer_cost
from bort_jax.interop import Checkpoint
from bort_jax.model import param_structs
from bort_jax.model.inherit import Inheritance
from bort_jax.ose import LayerChoices
from bort_jax.report.terminal import say

HEADS, UNITS = (1 / 4, 1 / 2, 3 / 4, 1), (1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 1)
STEP = 32  # units: vector registers of every device are filled
LEAST_DEPTH = 1 / 3
COST_HEADS = {"masked_lm": "mlm", "choice": "classifier"}
Option = tuple[int, int]


@dataclass(frozen=True)
class Sizes:
    """Numbers of layers, and of a layer's heads and units, to try; the parent's among them."""

    depths: tuple[int, ...]
    heads: tuple[int, ...]
    units: tuple[int, ...]

    @classmethod
    def of(
        cls, arch: Arch, *, depths: Sequence[int], heads: Sequence[int], units: Sequence[int]
    ) -> "Sizes":
        """What was given, else shares of the parent's.

        Raises:
          ValueError: a size is larger than the parent's, or less than 1.
        """
        found = (
            depths or range(max(1, round(LEAST_DEPTH * arch.depth)), arch.depth + 1),
            heads or [max(1, round(share * arch.heads)) for share in HEADS],
            units or [max(1, round(share * arch.intermediate / STEP)) * STEP for share in UNITS],
        )
        most = (arch.depth, arch.heads, arch.intermediate)
        names = ("depth", "heads", "intermediate")
        if not units:
            found = (*found[:2], [i for i in found[2] if i < arch.intermediate])
        for name, sizes, largest in zip(names, found, most, strict=True):
            if min(sizes, default=1) < 1 or max(sizes, default=1) > largest:
                raise ValueError(f"--{name} must lie between 1 and {largest}, the parent's")
        return cls(*(tuple(sorted({*s, n})) for s, n in zip(found, most, strict=True)))

    @property
    def options(self) -> tuple[Option, ...]:
        return tuple(product(self.heads, self.units))


@dataclass(frozen=True)
class Costs:
    """p and i of a parent's parts, exact, at one length of rows.

    Attributes:
      params, macs: of all but the layers.
    """

    arch: Arch
    seq_len: int
    params: int
    macs: int

    @classmethod
    def of(cls, parent: Checkpoint, arch: Arch, *, seq_len: int) -> "Costs":
        """Counted on the model's own parameters, embeddings and head included."""
        config = parent.config
        network = bert_network(
            vocab_size=config.vocab_size,
            positions=config.positions,
            seq_len=seq_len,
            head=COST_HEADS.get(parent.head, parent.head),
            labels=max(1, len(parent.labels)),
        )
        whole = sum(prod(leaf.shape) for leaf in jax.tree.leaves(param_structs(parent.model)))
        bare = cls(arch, seq_len, 0, 0)
        layers = arch.depth * bare.layer((arch.heads, arch.intermediate))[0]
        return cls(arch, seq_len, whole - layers, int(network.c.macs(arch)))

    def layer(self, option: Option) -> tuple[int, int]:
        """p and i of a layer."""
        sizes = dict(hidden=self.arch.hidden, head_size=self.arch.head_size)
        return layer_cost(option, **sizes, seq_len=self.seq_len)

    def __call__(self, layers: Sequence[Option]) -> tuple[int, int]:
        """p and i of a network."""
        params, macs = np.array([self.layer(option) for option in layers]).sum(axis=0)
        return self.params + int(params), self.macs + int(macs)

    @property
    def whole(self) -> tuple[int, int]:
        """P and I, of the parent."""
        return self((((self.arch.heads, self.arch.intermediate)),) * self.arch.depth)


@dataclass(frozen=True)
class Choices:
    """All that answers need of a parent, under any budget.

    Attributes:
      costs: p and i.
      options: (heads, units) of a layer, the parent's last.
      errors: what each option of each layer adds to e.
      kept: for each depth, from the largest, which layers stay.
      bases: e of these sets, all else whole.
    """

    costs: Costs
    options: tuple[Option, ...]
    errors: Float[np.ndarray, "l j"]
    kept: tuple[tuple[int, ...], ...]
    bases: tuple[float, ...]

    def problem(self, number: int) -> LayerChoices:
        """The networks with the kept layers of one depth; others have one option, without cost."""
        return self._problem(self.kept[number], self.errors, self.bases[number])

    @property
    def whole(self) -> LayerChoices:
        """The parent alone, which makes it the maximum point of every question."""
        last = np.arange(len(self.options)) == len(self.options) - 1
        errors = np.where(last, self.errors, np.inf)
        return self._problem(tuple(range(len(errors))), errors, self.bases[0])

    def _problem(self, kept: tuple[int, ...], errors, base: float) -> LayerChoices:
        there = np.isin(np.arange(len(errors)), kept)[:, None]
        none = np.where(np.arange(len(self.options)) == 0, 0.0, np.inf)
        params, macs = np.array([self.costs.layer(option) for option in self.options]).T
        return LayerChoices(
            np.where(there, params, 0),
            np.where(there, macs, 0),
            np.where(there, errors, none),
            base_params=self.costs.params,
            base_inference_cost=self.costs.macs,
            base_error=base,
        )

    def arch(self, number: int, choice: Sequence[int]) -> LayerwiseArch:
        """A choice of the options of a depth's layers, as an architecture."""
        kept, own = self.kept[number], self.costs.arch
        picked = [self.options[k] if n in kept else (0, 0) for n, k in enumerate(choice)]
        return LayerwiseArch(own.hidden, own.head_size, tuple(picked))

    def as_json(self) -> dict[str, Any]:
        """Plain values; `from_json` reads them."""
        return asdict(self) | {"errors": self.errors.tolist()}

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> "Choices":
        """Raises KeyError, TypeError or ValueError where it is none."""
        costs = Costs(**found["costs"] | {"arch": Arch(*found["costs"]["arch"])})
        options = tuple((int(a), int(i)) for a, i in found["options"])
        errors = np.array(found["errors"], dtype=float)
        if errors.shape != (costs.arch.depth, len(options)):
            raise ValueError("errors have another shape than layers and options")
        kept = tuple(tuple(map(int, one)) for one in found["kept"])
        return cls(costs, options, errors, kept, tuple(map(float, found["bases"])))


def measured_choices(inheritance: Inheritance[Checkpoint], sizes: Sizes, costs: Costs) -> Choices:
    """Measures the options of every layer, and for every depth the best set of layers."""
    a, i = costs.arch.heads, costs.arch.intermediate
    of_heads = dict(zip(sizes.heads, inheritance.side_errors("heads", sizes.heads).T, strict=True))
    of_units = dict(zip(sizes.units, inheritance.side_errors("units", sizes.units).T, strict=True))
    errors = [of_heads[heads] + of_units[units] for heads, units in sizes.options]
    kept, bases = [], []
    for depth in sorted({*sizes.depths, costs.arch.depth}, reverse=True):
        kept.append(inheritance.kept(depth))
        layers = tuple((a, i) if n in kept[-1] else (0, 0) for n in range(costs.arch.depth))
        whole = LayerwiseArch(costs.arch.hidden, costs.arch.head_size, layers)
        bases.append(inheritance.error(whole))
        say(f"of {depth} layers stay {', '.join(str(n + 1) for n in kept[-1])}: e {bases[-1]:.4g}")
    return Choices(costs, sizes.options, np.stack(errors, axis=1), tuple(kept), tuple(bases))

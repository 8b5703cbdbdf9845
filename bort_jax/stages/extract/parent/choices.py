# SPDX-License-Identifier: Apache-2.0
"""What was measured of a parent, and the networks that are in it, by depth.

A network keeps some layers of the parent, each with some of its heads and units. For each depth
there is one set of kept layers, whose error with all else whole, healed, is where its errors begin:
those of sets of removed layers do not add up, those of smaller layers nearly do. Heads and units of
a layer are measured apart, and added up.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from bort_jax.arch import Arch, LayerwiseArch
from bort_jax.cost.layerwise import layer_cost
from bort_jax.stages.extract.parent.program import Side, Table, equal_layers, table_of

HEADS, UNITS = (1 / 4, 1 / 2, 3 / 4, 1), (1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 1)
STEP = 32  # units: vector registers of every device are filled
LEAST_DEPTH = 1 / 3
BYTES = 4  # of a number
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


@dataclass(frozen=True)
class Costs:
    """p, i and memory of a parent's parts, exact, at one length of rows.

    Attributes:
      params, macs: of all but the layers.
      live: numbers that all but the layers holds at once, for one row.
    """

    arch: Arch
    seq_len: int
    params: int
    macs: int
    live: int = 0

    def layer(self, option: Option) -> tuple[int, int]:
        """p and i of a layer."""
        sizes = dict(hidden=self.arch.hidden, head_size=self.arch.head_size)
        return layer_cost(option, **sizes, seq_len=self.seq_len)

    def __call__(self, layers: Sequence[Option]) -> tuple[int, int]:
        """p and i of a network."""
        params, macs = np.array([self.layer(option) for option in layers]).sum(axis=0)
        return self.params + int(params), self.macs + int(macs)

    def of_totals(self, depth: int, heads, units) -> tuple[Any, Any]:
        """p and i of networks with so many layers, heads and units in all: these are linear."""
        one, wide, long = (np.array(self.layer(sizes)) for sizes in ((1, 1), (2, 1), (1, 2)))
        rest = depth * (one - (wide - one) - (long - one))
        p, i = (
            base + int(rest[k]) + int((wide - one)[k]) * heads + int((long - one)[k]) * units
            for k, base in enumerate((self.params, self.macs))
        )
        return p, i

    def live_of(self, *, heads: int = 0, units: int = 0) -> int:
        """Numbers that a layer holds at once for its heads, or for its units."""
        s, h, width = self.seq_len, self.arch.hidden, self.arch.head_size
        of_heads = s * (h + 3 * heads * width) + 2 * s * s * heads
        return max(self.live, of_heads, s * h + 2 * s * units)

    @property
    def whole(self) -> tuple[int, int]:
        """P and I, of the parent."""
        return self((((self.arch.heads, self.arch.intermediate)),) * self.arch.depth)


@dataclass(frozen=True)
class LayerLatency:
    """Milliseconds of a forward pass of one row on this device.

    Attributes:
      rest: of all but the layers.
      heads: of a whole layer with so many heads, by their place in the choices.
      units: what fewer units change in that.
    """

    rest: float
    heads: tuple[float, ...]
    units: tuple[float, ...]


class Networks(NamedTuple):
    """The best networks of one depth: `[m, n]`, for a total of heads and a total of units each.

    Attributes:
      heads, units: the tables that they are pairs of.
      columns: `params`, `macs`, `memory`, `error` and, where it was timed, `latency_ms`.
    """

    heads: Table
    units: Table
    columns: dict[str, np.ndarray]


@dataclass(frozen=True)
class Choices:
    """All that answers need of a parent, under any budget.

    Attributes:
      costs: p, i and memory.
      heads, units: sizes of a layer, ascending, the parent's last.
      of_heads, of_units: what each adds to e, of each layer.
      kept: for each depth, from the largest, which layers stay.
      bases: e of these sets, all else whole.
      latency: where it was timed.
      inference: what i is: macs or latency_ms.
      equal: only networks whose layers are equal.
    """

    costs: Costs
    heads: tuple[int, ...]
    units: tuple[int, ...]
    of_heads: Float[np.ndarray, "l a"]
    of_units: Float[np.ndarray, "l i"]
    kept: tuple[tuple[int, ...], ...]
    bases: tuple[float, ...]
    latency: LayerLatency | None = None
    inference: str = "macs"
    equal: bool = False

    def networks(self, number: int, *, most_live: float = np.inf) -> Networks:
        """The best networks of a depth whose layers hold no more numbers than that at once."""
        kept = list(self.kept[number])
        heads = self._table("heads", kept, most_live)
        units = self._table("units", kept, most_live)
        a, i = heads.sizes[:, None], units.sizes[None]
        params, macs = self.costs.of_totals(len(kept), a, i)
        error = self.bases[number] + heads.errors[:, None] + units.errors
        memory = BYTES * (params + self._live(heads.picks, units.picks))
        columns = {"params": params, "macs": macs, "memory": memory, "error": error}
        if self.latency:
            taken = heads.nanoseconds[:, None] + units.nanoseconds
            columns["latency_ms"] = self.latency.rest + taken / 1e6
        return Networks(heads, units, columns)

    def _table(self, name: str, kept: list[int], most_live: float) -> Table:
        sizes, errors = np.array(getattr(self, name)), getattr(self, f"of_{name}")[kept]
        ms = getattr(self.latency, name) if self.latency else np.zeros(len(sizes))
        there = np.array([self.costs.live_of(**{name: size}) <= most_live for size in sizes])
        side = Side(sizes[there], np.rint(1e6 * np.array(ms)).astype(int)[there], errors[:, there])
        table = equal_layers(side) if self.equal else table_of(side)
        return table._replace(picks=np.flatnonzero(there)[table.picks])

    def _live(self, heads, units) -> np.ndarray:
        """The most numbers held at once, of every pair of choices; more stands at larger sizes."""
        of_heads = np.array([self.costs.live_of(heads=size) for size in self.heads])
        of_units = np.array([self.costs.live_of(units=size) for size in self.units])
        return np.maximum(of_heads[heads.max(axis=1)][:, None], of_units[units.max(axis=1)])

    @cached_property
    def levels(self) -> list[int]:
        """What networks can hold at once: of which each may leave other sizes out."""
        of_heads = [self.costs.live_of(heads=size) for size in self.heads]
        of_units = [self.costs.live_of(units=size) for size in self.units]
        least = max(min(of_heads), min(of_units))
        return sorted({live for live in (*of_heads, *of_units) if live >= least})

    def arch(self, number: int, heads: Iterable[int], units: Iterable[int]) -> LayerwiseArch:
        """The sizes that were picked for the layers of a depth, as an architecture."""
        own = self.costs.arch
        layers = [(0, 0)] * own.depth
        for n, a, i in zip(self.kept[number], heads, units, strict=True):
            layers[n] = (self.heads[a], self.units[i])
        return LayerwiseArch(own.hidden, own.head_size, tuple(layers))

    @cached_property
    def whole(self) -> dict[str, float]:
        """The costs of the parent itself, and its e."""
        sizes = (self.costs.arch.heads, self.costs.arch.intermediate)
        params, macs = self.costs.whole
        live = max(self.costs.live_of(heads=sizes[0]), self.costs.live_of(units=sizes[1]))
        found: dict[str, float] = {"params": params, "macs": macs}
        found |= {"memory": BYTES * (params + live)}
        if self.latency:
            layer = round(1e6 * self.latency.heads[-1]) + round(1e6 * self.latency.units[-1])
            found["latency_ms"] = self.latency.rest + self.costs.arch.depth * layer / 1e6
        return found | {"error": self.bases[0]}

    def as_json(self) -> dict[str, Any]:
        """Plain values; `from_json` reads them."""
        lists = {name: getattr(self, name).tolist() for name in ("of_heads", "of_units")}
        return asdict(self) | lists

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> "Choices":
        """Raises KeyError, TypeError or ValueError where it is none."""
        given = dict(found["costs"])
        arch = Arch(*map(int, given.pop("arch"))).validate()
        costs = Costs(arch, **{name: int(count) for name, count in given.items()})
        sizes = {name: tuple(map(int, found[name])) for name in ("heads", "units")}
        errors = {name: np.array(found[f"of_{name}"], dtype=float) for name in sizes}
        for name, values in errors.items():
            if values.shape != (arch.depth, len(sizes[name])) or np.isnan(values).any():
                raise ValueError(f"errors of {name} are not one number a layer and size")
        bases = tuple(map(float, found["bases"]))
        if not np.isfinite(bases).all():
            raise ValueError(f"the least e of a depth is not finite: {bases}")
        kept = tuple(tuple(map(int, one)) for one in found["kept"])
        taken = found["latency"]
        if taken:
            taken = LayerLatency(taken["rest"], tuple(taken["heads"]), tuple(taken["units"]))
        return cls(
            costs,
            heads=sizes["heads"],
            units=sizes["units"],
            of_heads=errors["heads"],
            of_units=errors["units"],
            kept=kept,
            bases=bases,
            latency=taken,
            inference=str(found["inference"]),
            equal=bool(found["equal"]),
        )

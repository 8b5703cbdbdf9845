# SPDX-License-Identifier: Apache-2.0
"""Smaller architectures inside a pretrained parent, with its weights refitted to them.

One pass of the parent over unlabelled rows gives every layer's Gram matrices. Heads and units are
put into the order of what they add to the output, and each architecture then keeps the first of
them, with the projections that read them refitted in closed form (`refit`). A skipped layer is
healed by the kept one before it, whose down projection is refitted to the sum of both and which
takes over the skipped one's last LayerNorm. Nothing is trained, and nothing needs labels.

Source: our reading of structured pruning with ridge reconstruction (FASP, ZipLM, Kwon et al. 2022).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Generic, TypeVar

import jax
import numpy as np
from jaxtyping import Float

from bort_jax.arch import Arch, LayerwiseArch
from bort_jax.model.inherit.depth import DepthSearch
from bort_jax.model.inherit.errors import LayerErrors, monotone, through_powers
from bort_jax.model.inherit.gram import Side, add, cross_matrix
from bort_jax.model.inherit.layer import cut
from bort_jax.model.inherit.network import BATCH, Batch, Measure, Network, batches, split
from bort_jax.model.inherit.part import Part, layer_grams, order_layer
from bort_jax.model.inherit.plan import SKIP, Kept, Option, close_pairs, pairs, plan
from bort_jax.model.inherit.refit import local_errors, refits
from bort_jax.report.terminal import progress_bar

P = TypeVar("P")


def inherit(
    parent: P,
    rows: dict[str, Any],
    *,
    heldout: float = 1 / 4,
    batch_size: int = BATCH,
    seed: int = 0,
    map_fn: Callable = jax.jit,
) -> "Inheritance[P]":
    """Measures a parent's heads and units on rows of text, and orders them.

    Args:
      parent: a dataclass with `model`, `params`, `config` and, of a classifier, `problem`
        (`classification`, `regression` or `choice`), such as an interop checkpoint.
      rows: `ids: int[n, s]` and `mask: bool[n, s]`, padded on the right (choices: `[n, c, s]`); of
        a masked LM also `positions: int[n, m]` and `weights: float[n, m]`. About 512 are enough.
      heldout: share of the rows on which λ is chosen and e is measured; the rest is fitted to.
      batch_size: rows run at a time.
      seed: of the split, and of the dropout in the base of e.
      map_fn: turns `fn(params, batch) -> tree of [b, …]` into a program over the rows of a batch;
        one that spreads them over devices needs a batch size that these divide.

    Raises:
      ValueError: fewer than two rows, or no share of them is held out.
    """
    fitted, held = (
        batches(part, batch_size=batch_size) for part in split(rows, heldout, seed=seed)
    )
    network = Network.of(parent, map_fn=map_fn)
    states = [[network.embed(batch) for batch in part] for part in (fitted, held)]
    parts = []
    for number in range(len(network.layers)):
        grams, states = layer_grams(network, number, states)
        parts.append(order_layer(network, number, *grams))
    measure = Measure.of(network, held, states[1], seed=seed)
    return Inheritance(parent, network, tuple(parts), fitted, measure)


@dataclass(frozen=True)
class Inheritance(Generic[P]):
    """A parent whose heads and units are ordered, and what smaller networks need of it.

    Attributes:
      parent: what was given.
      network: it as programs.
      parts: its layers.
      rows: batches that refits are fitted to.
      measure: e on the held-out rows.
      crossed: cross moments of units with the sums of later layers, as far as they were needed.
    """

    parent: P
    network: Network
    parts: tuple[Part, ...]
    rows: list[Batch]
    measure: Measure
    crossed: dict[tuple[int, int], np.ndarray] = field(default_factory=dict, repr=False)
    _errors: dict[LayerwiseArch, float] = field(default_factory=dict, repr=False)

    @property
    def base(self) -> float:
        """e of the parent itself, more than 0."""
        return self.measure.base

    def checkpoint(self, arch: Arch | LayerwiseArch) -> P:
        """The parent at an architecture, every layer refitted on the parent's own inputs.

        An `Arch` with fewer heads keeps the parent's head size, which makes it a `LayerwiseArch` of
        equal layers; one with fewer layers keeps those that `kept` finds. At full size it is the
        parent.

        Raises:
          ValueError: another hidden or head size than the parent's, or a layer larger than its.
        """
        arch = self.layerwise(arch)
        return self.with_layers(arch, self.layers(arch))

    def layerwise(self, arch: Arch | LayerwiseArch) -> LayerwiseArch:
        """An architecture with an entry for each layer of the parent.

        Raises:
          ValueError: as `checkpoint`.
        """
        own = self.network.config.arch
        if isinstance(arch, Arch):
            if not 1 <= arch.depth <= len(self.parts):
                raise ValueError(f"{arch}: the parent {own} has {len(self.parts)} layers")
            option = (arch.heads, arch.intermediate)
            kept = self.best_layers(arch.depth)
            layers = tuple(option if n in kept else SKIP for n in range(len(self.parts)))
            arch = LayerwiseArch(arch.hidden, own.head_size, layers)
        fits = len(arch.layers) == len(self.parts) and arch.depth
        if not fits or (arch.hidden, arch.head_size) != (own.hidden, own.head_size):
            raise ValueError(f"{arch} is no part of {own}: H, head size and layers must be its own")
        for part, option in zip(self.parts, arch.layers, strict=True):
            if np.greater(option, part.sizes).any() or (min(option) < 1 and option != SKIP):
                raise ValueError(f"{arch} is no part of {own}: a layer has {part.sizes}")
        return arch

    def layers(self, arch: LayerwiseArch) -> list[tuple[int, Any]]:
        """Places and parameters of the layers that stay, refitted and healed."""
        self._gather(pairs(arch))
        return [(kept.number, layer) for one in plan(arch) for kept, layer in self._fit([one])]

    def bank(self, number: int, options: Iterable[Option]) -> dict[Option, Any]:
        """A layer at several sizes, from one factor for each side; at its own size as it was."""
        fitted = self._fit([Kept(number, number, option) for option in options])
        return {kept.option: layer for kept, layer in fitted}

    def _fit(self, layers: Sequence[Kept]) -> list[tuple[Kept, Any]]:
        """Layers of one number in several ways; if others are skipped, their cross moments must
        have been gathered."""
        part = self.parts[layers[0].number]
        out = refits(part.heads, [kept.option[0] for kept in layers])
        down = refits(part.units, [kept.option[1] for kept in layers if kept.until == kept.number])
        healed = self._heal([kept for kept in layers if kept.until > kept.number])
        found = []
        for kept in layers:
            heads, units = kept.option
            if kept in healed:
                norm = self.parts[kept.until].whole["feed_forward_norm"]
                layer = cut(part.ordered, out[heads], healed[kept]) | {"feed_forward_norm": norm}
            elif kept.option == part.sizes:
                layer = part.whole
            else:
                layer = cut(part.ordered, out[heads], down[units])
            found.append((kept, layer))
        return found

    def _heal(self, layers: Sequence[Kept]) -> dict[Kept, Float[np.ndarray, "_ h"]]:
        """Down projections that do skipped layers' work too, from one factor for all."""
        if not layers:
            return {}
        side, h = self.parts[layers[0].number].units, self.network.config.arch.hidden
        cross = np.hstack([self.crossed[kept.number, kept.until] for kept in layers])
        side = side._replace(weights=np.tile(side.weights, len(layers)))
        found = refits(side, [kept.option[1] for kept in layers], cross=cross)
        return {
            kept: found[kept.option[1]][:, k * h : (k + 1) * h] for k, kept in enumerate(layers)
        }

    def error(self, arch: Arch | LayerwiseArch) -> float:
        """e of an architecture, measured: base and what its layers add together."""
        return self.errors_of([self.layerwise(arch)])[0]

    def errors_of(self, archs: Sequence[LayerwiseArch]) -> list[float]:
        """e of several, each measured once; those that begin alike share the states of that.

        Raises:
          ValueError: as `checkpoint`.
        """
        plans = {arch: tuple(plan(self.layerwise(arch))) for arch in archs}
        plans = {arch: layers for arch, layers in plans.items() if arch not in self._errors}
        self._gather([pair for arch in plans for pair in pairs(arch)])
        if plans:
            states = [self.network.embed(batch) for batch in self.measure.rows]
            with progress_bar("networks measured", total=len(plans)) as bar:
                self._measure(plans, states, bar)
        return [self._errors[arch] for arch in archs]

    def _measure(self, plans: dict[LayerwiseArch, tuple[Kept, ...]], states, bar) -> None:
        """Measures networks of which these layers are still to come after these states."""
        while any(plans.values()):
            alike: dict[Kept, dict[LayerwiseArch, tuple[Kept, ...]]] = {}
            for arch, (first, *rest) in plans.items():
                alike.setdefault(first, {})[arch] = tuple(rest)
            fitted = self._fit_all([*alike])
            *few, (last, most) = sorted(alike.items(), key=lambda group: len(group[1]))
            for first, group in few:
                after = self._through([(first.number, fitted[first])], states)
                self._measure(group, after, bar)
            plans, states = most, self._through([(last.number, fitted[last])], states)
        added = self.measure.added(states)
        self._errors.update(dict.fromkeys(plans, self.base + added))
        bar.update(len(plans))

    def _fit_all(self, layers: Sequence[Kept]) -> dict[Kept, Any]:
        numbers = {kept.number for kept in layers}
        of_one = ([kept for kept in layers if kept.number == number] for number in numbers)
        return {kept: layer for some in of_one for kept, layer in self._fit(some)}

    def error_of(self, layers: Sequence[tuple[int, Any]]) -> float:
        """e of layers at their places in the parent, measured on the held-out rows."""
        states = [self.network.embed(batch) for batch in self.measure.rows]
        return self.base + self.measure.added(self._through(layers, states))

    def errors(self, options: Sequence[Option]) -> LayerErrors:
        """What each option of each layer adds to e, all other layers being the parent's.

        Of nested options the larger never adds more (`monotone`), and a whole layer adds 0.

        Args:
          options: (heads, units); (0, 0) skips the layer, healed by the one before it.

        Raises:
          ValueError: an option larger than the parent's layer.
        """
        networks = [
            [self._changed(n, option) for option in options] for n in range(len(self.parts))
        ]
        found = iter(self.errors_of([arch for row in networks for arch in row]))
        errors = np.array([[next(found) for _ in row] for row in networks]) - self.base
        for n, part in enumerate(self.parts):
            errors[n, [option == part.sizes for option in options]] = 0.0
        return LayerErrors(self.base, np.array([monotone(row, options) for row in errors]))

    def side_errors(self, side: Side, sizes: Sequence[int]) -> Float[np.ndarray, "l j"]:
        """What each size of one side of each layer adds to e, of which at most two are measured.

        These are the smallest and the one nearest to half. Of the others it is known without a
        pass how far the layer's own output is from the parent's, and e follows that by a power,
        which the two give. Source: our reading.

        Args:
          sizes: numbers of heads or of units, ascending.

        Raises:
          ValueError: a size larger than the parent's.
        """
        whole = max(getattr(part, side).size for part in self.parts)
        smaller = [size for size in sizes if size < whole]
        if len(smaller) > 2:
            middle = min(smaller[1:], key=lambda size: abs(size - whole / 2))
            smaller = [smaller[0], middle]
        other = self.network.sizes[0]
        options = [(n, other[1]) if side == "heads" else (other[0], n) for n in smaller]
        found = np.zeros((len(self.parts), len(sizes)))
        if not options:
            return found
        measured = self.errors(options).errors
        for n, part in enumerate(self.parts):
            local = local_errors(getattr(part, side), sizes)
            at = [sizes.index(size) for size in smaller]
            row = through_powers(local, local[at], measured[n])
            row[at] = measured[n]
            found[n] = monotone(row, [(size, 1) for size in sizes])
        return found

    def _changed(self, number: int, option: Option) -> LayerwiseArch:
        """The parent with one layer at another size."""
        arch = self.network.config.arch
        layers = tuple(option if n == number else p.sizes for n, p in enumerate(self.parts))
        return LayerwiseArch(arch.hidden, arch.head_size, layers)

    def _through(self, layers: Sequence[tuple[int, Any]], states: list[Batch]) -> list[Batch]:
        for number, layer in layers:
            layer = self.network.at_size(number, layer)
            states = [self.network.through(number, layer, state) for state in states]
        return states

    def best_layers(self, depth: int) -> tuple[int, ...]:
        """The layers that a network of some depth keeps, all else being the parent's, healed.

        Raises:
          ValueError: a depth that is not between 1 and the parent's.
        """
        return self._depths.best(depth)

    @cached_property
    def _depths(self) -> DepthSearch:
        return DepthSearch(len(self.parts), self._errors_of_sets)

    def _errors_of_sets(self, sets: Sequence[tuple[int, ...]]) -> list[float]:
        if any(len(kept) == len(self.parts) - 1 for kept in sets):
            self._gather(close_pairs(len(self.parts)))
        return self.errors_of([self._whole(kept) for kept in sets])

    def _whole(self, kept: tuple[int, ...]) -> LayerwiseArch:
        arch = self.network.config.arch
        layers = tuple(part.sizes if n in kept else SKIP for n, part in enumerate(self.parts))
        return LayerwiseArch(arch.hidden, arch.head_size, layers)

    def _gather(self, wanted: Sequence[tuple[int, int]]) -> None:
        """Cross moments of layers with the sums at the ends of others, in one pass."""
        missing = sorted({*wanted} - self.crossed.keys())
        if not missing:
            return
        totals: dict[tuple[int, int], dict] = {pair: {} for pair in missing}
        for batch in self.rows:
            state, taps = self.network.embed(batch), {}
            for n in range(max(until for _, until in missing) + 1):
                taps[n] = self.network.taps(n, self.network.layers[n], state)
                state = state | {"x": taps[n].output}
                for pair in (pair for pair in missing if pair[1] == n):
                    sums = self.network.cross(taps[pair[0]], taps[n].total, state["mask"])
                    add(totals[pair], sums)
                done = [k for k in taps if not any(f == k and until > n for f, until in missing)]
                for k in done:
                    del taps[k]
        for pair, total in totals.items():
            cross = cross_matrix(total)[self.parts[pair[0]].rows]
            self.crossed[pair] = cross.astype(np.float32)

    def with_layers(self, arch: LayerwiseArch, layers: Sequence[tuple[int, Any]]) -> P:
        """The parent with other layers, which are an architecture's."""
        params = jax.tree.map(np.asarray, self.network.params)
        encoder = {"embeddings": params["encoder"]["embeddings"]}
        encoder |= {f"layer_{n}": layer for n, (_, layer) in enumerate(layers)}
        config = replace(self.network.config, arch=self._plain(arch))
        changed: Any = {"config": config, "params": {**params, "encoder": encoder}}
        parent: Any = self.parent
        return replace(parent, **changed)

    def _plain(self, arch: LayerwiseArch) -> Arch | LayerwiseArch:
        """An `Arch` where it can say the same: equal layers with H = A · head size."""
        sizes = {*arch.sizes()}
        if len(sizes) == 1 and arch.hidden == arch.sizes()[0][0] * arch.head_size:
            return Arch(arch.depth, arch.sizes()[0][0], arch.hidden, arch.sizes()[0][1])
        return arch

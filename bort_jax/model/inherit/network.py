# SPDX-License-Identifier: Apache-2.0
"""A parent as programs over batches of rows, and how far other last states are from its answers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bort_jax.model.bert import BertConfig, Embeddings, Headless, Layer, MaskedLM
from bort_jax.model.inherit.gram import Side, Taps, cross_of_units, read_taps, sums_of_layer
from bort_jax.model.inherit.layer import in_order, pad

Batch = dict[str, Any]
COLUMNS = 16  # batches are cut to a multiple of this
BATCH = 64
DROPOUT = 0.1  # where a parent has none
LEAST = 1e-6  # e is never 0: W divides by it
SQUARED = ("none", "regression")
NOTHING = np.zeros(())  # for parameters; of an empty tree pmap loses count


def split(rows: Mapping[str, Any], heldout: float, *, seed: int) -> tuple[dict, dict]:
    """Rows to fit on, and a share of them that is held out; at least one of each.

    Raises:
      ValueError: fewer than two rows, or a share that is not between 0 and 1.
    """
    n = len(rows["ids"])
    if n < 2 or not 0 < heldout < 1:
        raise ValueError(f"expected two rows and a share between 0 and 1; got {n} and {heldout:g}")
    order = np.random.default_rng(seed).permutation(n)
    held = min(max(1, round(n * heldout)), n - 1)
    take = lambda picked: {name: np.asarray(values)[picked] for name, values in rows.items()}
    return take(order[held:]), take(order[:held])


def batches(rows: Mapping[str, Any], *, batch_size: int = BATCH) -> list[Batch]:
    """Rows of like lengths together, without the columns that are padding in all.

    Args:
      rows: `ids: int[n, s]` or `[n, c, s]`, `mask: bool` of the same shape, padding to the right,
        and other arrays of n rows.

    Returns:
      batches of equally many rows, so that devices can share them: the last is filled up with rows
      without tokens, whose `there: float[b]` is 0.
    """
    length = np.asarray(rows["mask"]).sum(-1).reshape(len(rows["ids"]), -1).max(1)
    order = np.argsort(length, kind="stable")
    parts = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return [_batch(rows, part, int(length[part].max()), batch_size) for part in parts]


def _batch(rows, picked, longest: int, batch_size: int) -> Batch:
    there = np.arange(batch_size) < len(picked)
    picked = np.resize(picked, batch_size)
    batch = {name: np.asarray(values)[picked] for name, values in rows.items()}
    width = min(-(-longest // COLUMNS) * COLUMNS, batch["ids"].shape[-1])
    batch |= {name: batch[name][..., :width] for name in ("ids", "mask")}
    real = there.reshape(-1, *[1] * (batch["mask"].ndim - 1))
    return batch | {"mask": batch["mask"] & real, "there": there.astype(np.float32)}


@lru_cache(maxsize=256)
def program(map_fn: Callable, fn: Callable, *static) -> Callable:
    """`map_fn` of `fn` with its first arguments: compiled once, for whoever asks again."""
    return map_fn(partial(fn, *static))


@dataclass(frozen=True)
class Network:
    """A parent, layer by layer.

    Attributes:
      model: `Classifier`, `Headless` or `MaskedLM`.
      head: `classification`, `regression`, `choice`, `masked_lm` or `none`.
      params: of the model.
      map_fn: turns `fn(params, batch) -> tree of [b, …]` into a program over a batch's rows.
    """

    model: Any
    head: str
    params: Any
    map_fn: Callable

    @classmethod
    def of(cls, parent, *, map_fn: Callable) -> "Network":
        """The network of a checkpoint, its parameters on the device."""
        kinds = {Headless: "none", MaskedLM: "masked_lm"}
        head = kinds.get(type(parent.model), getattr(parent, "problem", "classification"))
        return cls(parent.model, head, jax.device_put(parent.params), map_fn)

    @property
    def config(self) -> BertConfig:
        return self.model.config

    @cached_property
    def layers(self) -> list[Any]:
        return in_order(self.params["encoder"])

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        return self.config.arch.sizes()

    def embed(self, batch: Batch) -> Batch:
        """Token rows as `x: [rows, s, h]` and `mask`; the choices of a question are rows."""
        flat, embeddings = _flat(batch), self.params["encoder"]["embeddings"]
        return self._run(embed_rows)(embeddings, flat) | {"mask": flat["mask"]}

    def at_size(self, number: int, layer) -> Any:
        """A layer padded to the size of the parent's, so that one program serves all."""
        return jax.device_put(pad(layer, self.layers[number]))

    def through(self, number: int, layer, state: Batch) -> Batch:
        """The state after a layer of the size of the parent's at its place."""
        return state | {"x": self._run(layer_output, self.sizes[number])(layer, state)}

    def taps(self, number: int, layer, state: Batch) -> Taps:
        """What such a layer computes on its way."""
        return self._run(layer_taps, self.sizes[number])(layer, state)

    def sums(self, number: int, layer, state: Batch, *sides: Side) -> dict[str, Any]:
        """Moments of some of its sides, see `sums_of_layer`."""
        return self._run(sums_of_layer, self.sizes[number], sides)(layer, state)

    def cross(self, taps: Taps, target, mask) -> dict[str, Any]:
        """Cross moments of a layer's units with what brings its residual to `target`."""
        batch = {"units": taps.units, "middle": taps.middle, "target": target, "mask": mask}
        return program(self.map_fn, cross_of_units)(NOTHING, batch)

    def with_dropout(self, batch: Batch, key) -> Batch:
        """The last states under dropout, of the parent's rate if it has one; on one device."""
        config = self.config if self.config.dropout else replace(self.config, dropout=DROPOUT)
        flat, first, *keys = _flat(batch), *jax.random.split(key, 1 + len(self.layers))
        run = program(jax.jit, embed_with_dropout, config)
        state = flat | {"x": run(self.params["encoder"]["embeddings"], flat, first)}
        for sizes, layer, key in zip(self.sizes, self.layers, keys, strict=True):
            run = program(jax.jit, layer_with_dropout, config, sizes)
            state |= {"x": run(layer, state, key)}
        return state

    def _run(self, fn: Callable, *static) -> Callable:
        return program(self.map_fn, fn, self.config, *static)

    def answers(self, batch: Batch, state: Batch) -> "Answers":
        """What the head makes of last states, see `Answers`."""
        return program(self.map_fn, answers, self.model, self.head)(self._head, batch | state)

    @cached_property
    def _head(self):
        """All parameters but the layers'."""
        encoder = {"embeddings": self.params["encoder"]["embeddings"]}
        return {**self.params, "encoder": encoder}


def _flat(batch: Batch) -> Batch:
    return {name: batch[name].reshape(-1, batch[name].shape[-1]) for name in ("ids", "mask")}


class Answers(NamedTuple):
    """What is compared: n vectors a row, each with its weight.

    Attributes:
      values: logits, or states, or the one number of a regression.
      weights: 0 where there is nothing.
    """

    values: Float[Array, "b n c"]
    weights: Float[Array, "b n"]


def embed_rows(config: BertConfig, params, batch: Batch) -> Batch:
    module = Embeddings(config)
    return {"x": module.apply({"params": params}, batch["ids"], batch["mask"], deterministic=True)}


def layer_taps(config: BertConfig, sizes: tuple[int, int], params, batch: Batch) -> Taps:
    return read_taps(config, sizes, params, batch["x"], batch["mask"])


def layer_output(config: BertConfig, sizes: tuple[int, int], params, batch: Batch) -> Array:
    return layer_taps(config, sizes, params, batch).output


def answers(model, head: str, params, batch: Batch) -> Answers:
    """A head on the last states `batch["x"]`."""
    x, there = batch["x"], batch["there"]
    if head == "none":
        return Answers(x.astype(jnp.float32), batch["mask"].astype(jnp.float32))
    if head == "masked_lm":
        logits = model.apply({"params": params}, x, batch["positions"], method="answer")
        return Answers(logits, batch["weights"] * there[:, None])
    logits = model.apply({"params": params}, x, method="answer")
    return Answers(logits.reshape(len(there), 1, -1), there[:, None])


def answer_distance(head: str, _, both: tuple[Answers, Answers]) -> Float[Array, "b"]:
    """In each row: the squared distance of both, or KL(first ‖ second)."""
    (p, weights), (q, _) = both
    if head in SQUARED:
        return jnp.sum(jnp.sum((p - q) ** 2, axis=-1) * weights, axis=-1)
    log_p, log_q = jax.nn.log_softmax(p), jax.nn.log_softmax(q)
    return jnp.sum(jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1) * weights, axis=-1)


def moments_of(head: str, _, given: Answers) -> dict[str, Float[Array, "b ..."]]:
    """In each row: weight, sum, sum of squares and, of classes, entropy of the parent's answers."""
    values, weights = given
    log_p = jax.nn.log_softmax(values)
    entropy = -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)
    return {
        "weight": weights.sum(-1),
        "sum": jnp.einsum("bnc,bn->bc", values, weights),
        "square": jnp.einsum("bnc,bnc,bn->b", values, values, weights),
        "entropy": jnp.sum(entropy * weights, axis=-1),
    }


@dataclass(frozen=True)
class Measure:
    """e on held-out rows: what the parent leaves uncertain, and what a smaller network adds.

    Of classes, choices and masked tokens e is the cross-entropy to the parent's answers, in nats:
    the parent's own entropy and KL(parent ‖ network). Of states and numbers it is the share of
    their variance that is not explained, and at the base the parent's under its own dropout.

    Attributes:
      network: the parent.
      rows: batches of held-out rows.
      parents: the parent's answers to each.
      scale: what a sum over the rows is divided by.
      base: e of the parent itself, more than 0.
    """

    network: Network
    rows: list[Batch]
    parents: list[Answers]
    scale: float
    base: float

    @classmethod
    def of(
        cls, network: Network, rows: Sequence[Batch], states: Sequence[Batch], *, seed: int
    ) -> "Measure":
        """The measure on held-out rows, whose last states in the parent these are."""
        given = [network.answers(batch, state) for batch, state in zip(rows, states, strict=True)]
        total = _summed(network, given)
        squared = network.head in SQUARED
        scale = max(_variance(total) if squared else float(total["weight"]), LEAST)
        measure = cls(network, list(rows), given, scale, 0.0)
        base = measure.under_dropout(seed) if squared else float(total["entropy"]) / scale
        return replace(measure, base=max(base, LEAST))

    def added(self, states: Sequence[Batch]) -> float:
        """What last states add to e: 0 for the parent's own."""
        found = [self.network.answers(b, s) for b, s in zip(self.rows, states, strict=True)]
        return self._apart(found)

    def under_dropout(self, seed: int) -> float:
        """The distance of the parent's answers under its dropout from those without."""
        keys = jax.random.split(jax.random.key(seed), len(self.rows))
        states = [self.network.with_dropout(b, k) for b, k in zip(self.rows, keys, strict=True)]
        return self.added(states)

    def _apart(self, found: Sequence[Answers]) -> float:
        run = program(self.network.map_fn, answer_distance, self.network.head)
        pairs = zip(self.parents, found, strict=True)
        total = sum(np.asarray(run(NOTHING, pair)).sum(dtype=np.float64) for pair in pairs)
        return max(0.0, float(total)) / self.scale  # a divergence of 0 may come out below it


def embed_with_dropout(config: BertConfig, params, batch: Batch, key) -> Array:
    apply: Any = Embeddings(config).apply
    rngs = {"dropout": key}
    return apply({"params": params}, batch["ids"], batch["mask"], deterministic=False, rngs=rngs)


def layer_with_dropout(
    config: BertConfig, sizes: tuple[int, int], params, batch: Batch, key
) -> Array:
    apply: Any = Layer(config, *sizes).apply
    rngs = {"dropout": key}
    return apply({"params": params}, batch["x"], batch["mask"], deterministic=False, rngs=rngs)


def _summed(network: Network, given: Sequence[Answers]) -> dict[str, np.ndarray]:
    run = program(network.map_fn, moments_of, network.head)
    parts = [run(NOTHING, one) for one in given]
    add = lambda *values: sum(np.asarray(x).sum(0, dtype=np.float64) for x in values)
    return jax.tree.map(add, *parts)


def _variance(total: Mapping[str, np.ndarray]) -> float:
    mean = total["sum"] / max(float(total["weight"]), 1.0)
    return float(total["square"] - total["weight"] * np.sum(mean**2))

# SPDX-License-Identifier: Apache-2.0
"""One masked LM of the largest size whose architecture is data: a compilation serves every ξ.

The network is exactly the small one. Features beyond H are held at 0 and kept out of every
mean; a head is a run of `grain`s of features, and which grains belong to it depends on the
head size; features beyond I are put to 0 after GELU; layers beyond D are not run. So
neither values nor gradients ever come from outside the slice.
Letters as in bert.py, and `d` layer, `f` attention feature, `n` grain, `g` feature of a grain.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from bort_jax.arch import Arch
from bort_jax.model.bert import BertConfig, MaskedLM
from bort_jax.model.params import random_params

QKV = ("query", "key", "value")
# Scanning copies what the backward pass needs; a few layers at a time it is a third faster on CPU.
UNROLL = 4


class Shape(NamedTuple):
    """An architecture as data; each layer may have its own heads and intermediate size.

    Attributes:
      hidden: H.
      head_size: features of a head, the same in all layers.
      heads: heads of each layer; heads · head_size may be less than H.
      intermediate: feed-forward features of each layer.
      keep: whether the layer is there; one that is not passes its input on.
    """

    hidden: Any  # int32[]
    head_size: Any  # int32[]
    heads: Any  # int32[d]
    intermediate: Any  # int32[d]
    keep: Any  # bool[d]

    @classmethod
    def of(cls, arch: Arch, *, depth: int) -> "Shape":
        """The shape of a uniform architecture in a network of `depth` layers."""
        layers = np.ones(depth, dtype=np.int32)
        return cls(
            hidden=np.int32(arch.hidden),
            head_size=np.int32(arch.head_size),
            heads=arch.heads * layers,
            intermediate=arch.intermediate * layers,
            keep=np.arange(depth) < arch.depth,
        )


@dataclass(frozen=True)
class ElasticLM:
    """Masked LM, without dropout, of the size of `config.arch`; call it with a `Shape`.

    Attributes:
      config: of the largest network; its arch need not be a valid tuple, its heads are the most
        that any shape has.
      grain: a common divisor of `config.arch.hidden` and of all head sizes.
    """

    config: BertConfig
    grain: int

    @property
    def largest(self) -> Arch:
        return cast(Arch, self.config.arch)

    @classmethod
    def over(cls, archs: Iterable[Arch], *, vocab_size: int, positions: int) -> "ElasticLM":
        """The smallest elastic network that holds all of `archs`."""
        archs = list(archs)
        largest = Arch(*map(max, zip(*archs, strict=True)))
        config = BertConfig(largest, vocab_size, positions=positions, dropout=0.0)
        return cls(config, math.gcd(largest.hidden, *(arch.head_size for arch in archs)))

    def shape(self, arch: Arch) -> Shape:
        """A uniform architecture as data.

        Raises:
          ValueError: it does not fit into this network, or its heads are not whole grains.
        """
        largest = self.largest
        if arch.head_size % self.grain or any(np.greater(arch.validate(), largest)):
            raise ValueError(
                f"{arch} is no part of {largest} with heads of a multiple of {self.grain} features"
            )
        return Shape.of(arch, depth=largest.depth)

    def init(self, *, seed: int):
        """Fresh parameters: those of the largest `MaskedLM`, its layers stacked (`stack_layers`).

        Their leading slices are fresh parameters of the small networks.
        """
        largest = self.largest._replace(heads=1)  # heads change no shape once flattened
        config = BertConfig(largest, self.config.vocab_size, positions=self.config.positions)
        return stack_layers(random_params(MaskedLM(config), seed=seed))

    def __call__(
        self,
        params,
        shape: Shape,
        ids: Int[Array, "b s"],
        mask: Bool[Array, "b s"],
        positions: Int[Array, "b m"],
    ) -> Float[Array, "b m v"]:
        """Logits, as those of `MaskedLM`."""
        x = self.encode(params["encoder"], shape, ids, mask)
        x = jnp.take_along_axis(x, positions[:, :, None], axis=1)
        head = params["head"]
        x = self._norm(
            head["norm"], jax.nn.gelu(_dense(head["transform"], x), approximate=False), shape
        )
        table = params["encoder"]["embeddings"]["word"]["embedding"]
        return jnp.einsum("bmh,vh->bmv", x, table) + head["bias"][None, None]

    def encode(self, params, shape: Shape, ids, mask) -> Float[Array, "b s h"]:
        """Hidden states; 0 beyond H."""
        embeddings = params["embeddings"]
        x = embeddings["word"]["embedding"][ids]
        x = x + embeddings["position"]["embedding"][None, : ids.shape[1]]
        x = self._norm(embeddings["norm"], x, shape)

        def layer(x, inputs):
            layer_params, heads, intermediate, keep = inputs
            run = lambda x: self._layer(layer_params, x, mask, shape, heads, intermediate)
            return jax.lax.cond(keep, run, lambda x: x, x), None

        per_layer = (params["layers"], shape.heads, shape.intermediate, shape.keep)
        return jax.lax.scan(layer, x, per_layer, unroll=UNROLL)[0]

    def _layer(self, params, x, mask, shape: Shape, heads, intermediate):
        branch = self._attention(params["attention"], x, mask, shape, heads)
        x = self._norm(params["attention_norm"], x + branch, shape)
        branch = _feed_forward(params["feed_forward"], x, intermediate)
        return self._norm(params["feed_forward_norm"], x + branch, shape)

    def _attention(self, params, x, mask, shape: Shape, heads):
        q, k, v = (self._grains(_dense(params[name], x)) for name in QKV)
        member = self._membership(shape.head_size, heads)
        q = q * jax.lax.rsqrt(shape.head_size.astype(x.dtype))
        scores = jnp.einsum("bsng,btng->bnst", q, k)
        scores = jnp.einsum("bnst,na->bast", scores, member)
        scores = jnp.where(mask[:, None, None, :], scores, jnp.finfo(scores.dtype).min)
        weights = jnp.einsum("bast,na->bnst", jax.nn.softmax(scores), member)
        mixed = jnp.einsum("bnst,btng->bsng", weights, v)
        return _dense(params["out"], mixed.reshape(x.shape))

    def _grains(self, x: Float[Array, "b s f"]) -> Float[Array, "b s n g"]:
        return x.reshape(*x.shape[:2], -1, self.grain)

    def _membership(self, head_size, heads) -> Float[Array, "n a"]:
        """1 where grain n belongs to head a; grains beyond the last head belong to none."""
        grains = jnp.arange(self.config.arch.hidden // self.grain)
        numbers = jnp.arange(self.largest.heads)
        mine = (grains * self.grain // head_size)[:, None] == numbers[None]
        return (mine & (numbers < heads)[None]).astype(jnp.float32)

    def _norm(self, params, x, shape: Shape):
        """LayerNorm over the first H features, two-pass as in bert.py; 0 beyond them."""
        inside = _first(x, shape.hidden)
        count = shape.hidden.astype(x.dtype)
        mean = jnp.where(inside, x, 0).sum(-1, keepdims=True) / count
        centred = jnp.where(inside, x - mean, 0)
        variance = (centred**2).sum(-1, keepdims=True) / count
        scale, bias = params["scale"][None, None], params["bias"][None, None]
        scaled = centred * jax.lax.rsqrt(variance + self.config.layer_norm_eps) * scale
        return jnp.where(inside, scaled + bias, 0)


def _feed_forward(params, x, intermediate):
    up = jax.nn.gelu(_dense(params["up"], x), approximate=False)
    return _dense(params["down"], jnp.where(_first(up, intermediate), up, 0))


def _dense(params, x):
    return jnp.dot(x, params["kernel"]) + params["bias"][None, None]


def _first(x: Float[Array, "b s f"], count) -> Bool[Array, "1 1 f"]:
    return (jnp.arange(x.shape[-1]) < count)[None, None]


def stack_layers(params):
    """`MaskedLM` parameters with layers stacked on a leading axis [d, ...] and heads flattened."""
    encoder = params["encoder"]
    names = sorted(
        (name for name in encoder if name.startswith("layer_")), key=lambda name: int(name[6:])
    )
    layers = [_flat_heads(encoder[name]) for name in names]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *layers)
    return params | {"encoder": {"embeddings": encoder["embeddings"], "layers": stacked}}


def _flat_heads(layer):
    """[h, a, k] to [h, f], and back to front for the output."""
    attention = layer["attention"]
    hidden = attention["out"]["kernel"].shape[-1]
    flat = {
        name: {
            "kernel": attention[name]["kernel"].reshape(hidden, -1),
            "bias": attention[name]["bias"].reshape(-1),
        }
        for name in QKV
    }
    out = attention["out"] | {"kernel": attention["out"]["kernel"].reshape(-1, hidden)}
    return layer | {"attention": flat | {"out": out}}

# SPDX-License-Identifier: Apache-2.0
"""Linen BERT, parametrised by an `Arch` (arXiv 2010.10499, section 3; bort companion code).

Learned positions, exact GELU, LayerNorm after the residual sum; Bort's presets have neither token
types nor a pooler.
Letters: `b` batch, `s`/`t` query/key position, `m` masked position, `a` head, `k` head size,
`h` hidden, `i` intermediate, `v` vocabulary, `c` class.
"""

import json
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from bort_jax.arch import Arch, LayerwiseArch
from bort_jax.model import cpu
from bort_jax.model.attention import attention, device_kind
from bort_jax.model.remat import Remat, with_remat

DTYPES = ("float32", "bfloat16")
INIT = nn.initializers.normal(stddev=0.02)


@dataclass(frozen=True)
class BertConfig:
    """Everything that fixes the shapes and the arithmetic of a model.

    Attributes:
      arch: <D, A, H, I>, or one in which every layer has sizes of its own.
      vocab_size: rows of the embedding table.
      positions: learned positions; the longest sequence.
      dropout: on embeddings, attention weights and each residual branch.
      layer_norm_eps: ε of every LayerNorm, but perhaps not of the masked-LM head's.
      head_norm_eps: ε of that one, where it is another (GluonNLP); stock BERT cannot express it.
      token_types: rows of the token-type table; 0: there is none.
      separator: id of the token after which types are 1, not 0; None: all are 0.
      padding: id of the token that takes no position, as RoBERTa's padding that stands in a text;
        None: every token takes one.
      dtype: of the operands of products of matrices, `float32` or `bfloat16`; parameters are
        always float32.
    """

    arch: Arch | LayerwiseArch
    vocab_size: int
    positions: int = 512
    dropout: float = 0.1
    layer_norm_eps: float = 1e-5
    head_norm_eps: float | None = None
    token_types: int = 0
    separator: int | None = None
    padding: int | None = None
    dtype: str = "float32"

    def key(self) -> str:
        """The fields that are not at their defaults, as JSON: what fingerprints are made of.

        So a field that is added later keeps the key of every config that does not use it; the
        default of a field must stay what it is.
        """
        given = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if getattr(self, field.name) != field.default
        }
        return json.dumps(given | {"arch": str(self.arch)}, sort_keys=True)

    @property
    def on_cpu(self) -> bool:
        """Whether the parts in cpu.py are used; other devices have flax's own."""
        return device_kind() == "cpu"

    @property
    def activations(self) -> str:
        """Type of what lies between products: `dtype`, but float32 on CPUs, which at best multiply
        matrices of bfloat16 and have no other arithmetic for it."""
        return "float32" if self.on_cpu else self.dtype

    def layer_norm(self, name: str | None = None, *, eps: float | None = None) -> nn.LayerNorm:
        # From the mean of squares, flax's default, the variance would lose digits to cancellation.
        return nn.LayerNorm(
            self.layer_norm_eps if eps is None else eps,
            dtype=self.activations,
            use_fast_variance=False,
            name=name,
        )

    def drop(self) -> Any:
        """A dropout layer."""
        return (cpu.Dropout if self.on_cpu else nn.Dropout)(self.dropout)

    def dense(
        self, features, name: str | None = None, axis: int | tuple[int, ...] = -1
    ) -> nn.DenseGeneral:
        matmul = cpu.narrow_matmul if self.narrow else jnp.dot
        return nn.DenseGeneral(
            features,
            axis=axis,
            dtype=self.activations,
            kernel_init=INIT,
            dot_general=partial(cpu.dot_general, matmul=matmul) if self.on_cpu else None,
            name=name,
        )

    @property
    def narrow(self) -> bool:
        """Whether products round their operands to less than `activations`."""
        return self.activations != self.dtype

    def decode(self, x: Float[Array, "b m h"], table: Float[Array, "v h"]) -> Float[Array, "b m v"]:
        """x · tableᵀ, as one product of two matrices."""
        flat = x.reshape(-1, x.shape[-1])
        if self.narrow:
            logits = cpu.narrow_matmul_t(flat, table)
        else:
            logits = jnp.dot(flat, table.T.astype(x.dtype))
        return logits.reshape(*x.shape[:-1], -1)


class Embeddings(nn.Module):
    config: BertConfig

    def setup(self):
        config = self.config
        self.word = nn.Embed(config.vocab_size, config.arch.hidden, embedding_init=INIT)
        self.position = nn.Embed(config.positions, config.arch.hidden, embedding_init=INIT)
        if config.token_types:
            self.token_type = nn.Embed(config.token_types, config.arch.hidden, embedding_init=INIT)
        self.norm = config.layer_norm()
        self.dropout = config.drop()

    def __call__(self, ids, mask, *, deterministic: bool):
        own = jnp.where(ids < 0, ~ids, ids)  # see `token_types`
        x = self.word(own) + self.places(own)
        if self.config.token_types:
            x = x + self.token_type(token_types(ids, mask, separator=self.config.separator))
        return self.dropout(
            self.norm(x.astype(self.config.activations)), deterministic=deterministic
        )

    def places(self, ids: Int[Array, "b s"]) -> Float[Array, "... s h"]:
        """Embeddings of positions. Stock RoBERTa counts them over all tokens but the padding, which
        has none (`create_position_ids_from_input_ids`)."""
        table = self.position.embedding
        if self.config.padding is None:
            return table[None, : ids.shape[1]]
        counted = ids != self.config.padding
        places = jnp.maximum(jnp.cumsum(counted, axis=1) - 1, 0)
        return jnp.where(counted[..., None], table[places], 0)


def token_types(
    ids: Int[Array | np.ndarray, "b s"],
    mask: Bool[Array | np.ndarray, "b s"],
    *,
    separator: int | None,
) -> Int[Array | np.ndarray, "b s"]:
    """1 for tokens after the first separator, as in `[CLS] a [SEP] b [SEP]`; 0 before, and in
    padding: what BERT's tokenizer gives for a text and for a pair.

    A separator that stands in a text is `~id`, and ends nothing. Arrays of numpy give one of numpy.
    """
    if separator is None:
        return 0 * ids
    ends = (ids == separator).astype("int32")
    return ((ends.cumsum(axis=1) > ends) & mask).astype("int32")


class Attention(nn.Module):
    config: BertConfig
    heads: int

    @nn.compact
    def __call__(self, x, mask, *, deterministic: bool):
        config, arch = self.config, self.config.arch
        q, k, v = (
            config.dense((self.heads, arch.head_size), name=name)(x)
            for name in ("query", "key", "value")
        )
        active = config.dropout > 0 and not deterministic
        drop = lambda weights: config.drop()(weights, deterministic=False)
        mixed = attention(q, k, v, mask, drop=drop if active else None)
        return config.dense(arch.hidden, axis=(-2, -1), name="out")(mixed)


class FeedForward(nn.Module):
    config: BertConfig
    intermediate: int

    @nn.compact
    def __call__(self, x):
        x = self.config.dense(self.intermediate, name="up")(x)
        return self.config.dense(self.config.arch.hidden, name="down")(
            nn.gelu(x, approximate=False)
        )


class Layer(nn.Module):
    config: BertConfig
    heads: int
    intermediate: int

    @nn.compact
    def __call__(self, x, mask, deterministic: bool):
        def residual(branch, name):
            branch = self.config.drop()(branch, deterministic=deterministic)
            return self.config.layer_norm(name)(x + branch)

        attention = Attention(self.config, self.heads, name="attention")
        x = residual(attention(x, mask, deterministic=deterministic), "attention_norm")
        feed_forward = FeedForward(self.config, self.intermediate, name="feed_forward")
        return residual(feed_forward(x), "feed_forward_norm")


class Encoder(nn.Module):
    """Embeddings and D layers: ids to hidden states.

    Call with `ids: int[b, s]`, `mask: bool[b, s]` (True where there is a token); returns
    `float[b, s, h]`. Padding to the right never changes the states of the tokens.
    """

    config: BertConfig
    remat: Remat = "none"

    def setup(self):
        self.embeddings = Embeddings(self.config)
        layer = with_remat(Layer, self.remat)
        self.layers = [
            layer(self.config, heads, intermediate, name=f"layer_{n}")
            for n, (heads, intermediate) in enumerate(self.config.arch.sizes())
        ]

    def __call__(
        self, ids: Int[Array, "b s"], mask: Bool[Array, "b s"], *, deterministic: bool = True
    ) -> Float[Array, "b s h"]:
        x = self.embeddings(ids, mask, deterministic=deterministic)
        for layer in self.layers:
            x = layer(x, mask, deterministic)
        return x


class MlmHead(nn.Module):
    config: BertConfig

    @nn.compact
    def __call__(self, x, table):
        """Dense, GELU, LayerNorm, then the embedding `table: [v, h]` as decoder, and a bias."""
        x = nn.gelu(
            self.config.dense(self.config.arch.hidden, name="transform")(x), approximate=False
        )
        x = self.config.layer_norm("norm", eps=self.config.head_norm_eps)(x)
        bias = self.param("bias", nn.initializers.zeros, (self.config.vocab_size,))
        return self.config.decode(x, table).astype(jnp.float32) + bias[None, None]


class Headless(nn.Module):
    """`Encoder` alone, its parameters named as those of the models with a head."""

    config: BertConfig
    remat: Remat = "none"

    def setup(self):
        self.encoder = Encoder(self.config, self.remat)

    def __call__(
        self, ids: Int[Array, "b s"], mask: Bool[Array, "b s"], *, deterministic: bool = True
    ) -> Float[Array, "b s h"]:
        return self.encoder(ids, mask, deterministic=deterministic)


class MaskedLM(nn.Module):
    """Encoder and masked-LM head; positions are gathered before the vocabulary.

    Call with `ids`, `mask` as `Encoder`, and `positions: int[b, m]`; returns float32 logits
    `[b, m, v]`. Gathering first keeps the logits at the masked 15 % of the tokens.
    """

    config: BertConfig
    remat: Remat = "none"

    def setup(self):
        self.encoder = Encoder(self.config, self.remat)
        self.head = MlmHead(self.config)

    def __call__(
        self,
        ids: Int[Array, "b s"],
        mask: Bool[Array, "b s"],
        positions: Int[Array, "b m"],
        *,
        deterministic: bool = True,
    ) -> Float[Array, "b m v"]:
        return self.states_and_logits(ids, mask, positions, deterministic=deterministic)[1]

    def states_and_logits(
        self,
        ids: Int[Array, "b s"],
        mask: Bool[Array, "b s"],
        positions: Int[Array, "b m"],
        *,
        deterministic: bool = True,
    ) -> tuple[Float[Array, "b s h"], Float[Array, "b m v"]]:
        """The last hidden states too, of the same pass."""
        x = self.encoder(ids, mask, deterministic=deterministic)
        return x, self.answer(x, positions)

    def answer(
        self, states: Float[Array, "b s h"], positions: Int[Array, "b m"]
    ) -> Float[Array, "b m v"]:
        """The head alone, on given states."""
        masked = jnp.take_along_axis(states, positions[:, :, None], axis=1)
        return self.head(masked, self.encoder.embeddings.word.embedding)


class Classifier(nn.Module):
    """Encoder and a linear classifier over the first token: dropout, dense, tanh, dropout, dense.

    Call with `ids`, `mask` as `Encoder`; returns float32 logits `[b, c]`.
    """

    config: BertConfig
    classes: int
    remat: Remat = "none"

    def setup(self):
        self.encoder = Encoder(self.config, self.remat)
        self.pooler = self.config.dense(self.config.arch.hidden)
        self.output = self.config.dense(self.classes)
        self.dropout = self.config.drop()

    def __call__(
        self, ids: Int[Array, "b s"], mask: Bool[Array, "b s"], *, deterministic: bool = True
    ) -> Float[Array, "b c"]:
        return self.states_and_logits(ids, mask, deterministic=deterministic)[1]

    def states_and_logits(
        self, ids: Int[Array, "b s"], mask: Bool[Array, "b s"], *, deterministic: bool = True
    ) -> tuple[Float[Array, "b s h"], Float[Array, "b c"]]:
        """The last hidden states too, of the same pass."""
        states = self.encoder(ids, mask, deterministic=deterministic)
        return states, self.answer(states, deterministic=deterministic)

    def answer(
        self, states: Float[Array, "b s h"], *, deterministic: bool = True
    ) -> Float[Array, "b c"]:
        """The head alone, on given states."""
        first = states[:, 0]
        first = nn.tanh(self.pooler(self.dropout(first, deterministic=deterministic)))
        first = self.dropout(first, deterministic=deterministic)
        return self.output(first).astype(jnp.float32)

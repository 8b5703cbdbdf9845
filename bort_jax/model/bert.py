# SPDX-License-Identifier: Apache-2.0
"""Linen BERT, parametrised by an `Arch` (arXiv 2010.10499, section 3; bort companion code).

Learned positions, no token types, no pooler, exact GELU, LayerNorm after the residual sum.
Letters: `b` batch, `s`/`t` query/key position, `m` masked position, `a` head, `k` head size,
`h` hidden, `i` intermediate, `v` vocabulary, `c` class.
"""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from bort_jax.arch import Arch

INIT = nn.initializers.normal(stddev=0.02)


@dataclass(frozen=True)
class BertConfig:
    """Everything that fixes the shapes and the arithmetic of a model.

    Attributes:
      arch: <D, A, H, I>.
      vocab_size: rows of the embedding table.
      positions: learned positions; the longest sequence.
      dropout: on embeddings, attention weights and each residual branch.
      layer_norm_eps: ε of every LayerNorm.
      dtype: of activations, `float32` or `bfloat16`; parameters are always float32.
    """

    arch: Arch
    vocab_size: int
    positions: int = 512
    dropout: float = 0.1
    layer_norm_eps: float = 1e-5
    dtype: str = "float32"

    def layer_norm(self, name: str | None = None) -> nn.LayerNorm:
        # The one-pass variance loses digits to cancellation; the two-pass form agrees with torch.
        return nn.LayerNorm(
            self.layer_norm_eps, dtype=self.dtype, use_fast_variance=False, name=name
        )

    def dense(
        self, features, name: str | None = None, axis: int | tuple[int, ...] = -1
    ) -> nn.DenseGeneral:
        return nn.DenseGeneral(features, axis=axis, dtype=self.dtype, kernel_init=INIT, name=name)


class Embeddings(nn.Module):
    config: BertConfig

    def setup(self):
        config = self.config
        self.word = nn.Embed(config.vocab_size, config.arch.hidden, embedding_init=INIT)
        self.position = nn.Embed(config.positions, config.arch.hidden, embedding_init=INIT)
        self.norm = config.layer_norm()
        self.dropout = nn.Dropout(config.dropout)

    def __call__(self, ids, *, deterministic: bool):
        x = self.word(ids) + self.position.embedding[: ids.shape[1]]
        return self.dropout(self.norm(x.astype(self.config.dtype)), deterministic=deterministic)


class Attention(nn.Module):
    config: BertConfig

    @nn.compact
    def __call__(self, x, mask, *, deterministic: bool):
        config, arch = self.config, self.config.arch
        q, k, v = (
            config.dense((arch.heads, arch.head_size), name=name)(x)
            for name in ("query", "key", "value")
        )
        scores = jnp.einsum("bsak,btak->bast", q * arch.head_size**-0.5, k)
        # A finite floor, so that a row without any key gives numbers and not NaN.
        scores = jnp.where(mask[:, None, None, :], scores, jnp.finfo(scores.dtype).min)
        weights = jax.nn.softmax(scores.astype(jnp.float32)).astype(x.dtype)
        weights = nn.Dropout(config.dropout)(weights, deterministic=deterministic)
        mixed = jnp.einsum("bast,btak->bsak", weights, v)
        return config.dense(arch.hidden, axis=(-2, -1), name="out")(mixed)


class FeedForward(nn.Module):
    config: BertConfig

    @nn.compact
    def __call__(self, x):
        x = self.config.dense(self.config.arch.intermediate, name="up")(x)
        return self.config.dense(self.config.arch.hidden, name="down")(
            nn.gelu(x, approximate=False)
        )


class Layer(nn.Module):
    config: BertConfig

    @nn.compact
    def __call__(self, x, mask, *, deterministic: bool):
        def residual(branch, name):
            branch = nn.Dropout(self.config.dropout)(branch, deterministic=deterministic)
            return self.config.layer_norm(name)(x + branch)

        attention = Attention(self.config, name="attention")
        x = residual(attention(x, mask, deterministic=deterministic), "attention_norm")
        return residual(FeedForward(self.config, name="feed_forward")(x), "feed_forward_norm")


class Encoder(nn.Module):
    """Embeddings and D layers: ids to hidden states.

    Call with `ids: int[b, s]`, `mask: bool[b, s]` (True where there is a token); returns
    `float[b, s, h]`. Padding to the right never changes the states of the tokens.
    """

    config: BertConfig

    def setup(self):
        self.embeddings = Embeddings(self.config)
        self.layers = [Layer(self.config, name=f"layer_{n}") for n in range(self.config.arch.depth)]

    def __call__(
        self, ids: Int[Array, "b s"], mask: Bool[Array, "b s"], *, deterministic: bool = True
    ) -> Float[Array, "b s h"]:
        x = self.embeddings(ids, deterministic=deterministic)
        for layer in self.layers:
            x = layer(x, mask, deterministic=deterministic)
        return x


class MlmHead(nn.Module):
    config: BertConfig

    @nn.compact
    def __call__(self, x, table):
        """Dense, GELU, LayerNorm, then the embedding `table: [v, h]` as decoder, and a bias."""
        x = nn.gelu(
            self.config.dense(self.config.arch.hidden, name="transform")(x), approximate=False
        )
        x = self.config.layer_norm("norm")(x)
        bias = self.param("bias", nn.initializers.zeros, (self.config.vocab_size,))
        return jnp.einsum("bmh,vh->bmv", x, table.astype(x.dtype)).astype(jnp.float32) + bias


class MaskedLM(nn.Module):
    """Encoder and masked-LM head; positions are gathered before the vocabulary.

    Call with `ids`, `mask` as `Encoder`, and `positions: int[b, m]`; returns float32 logits
    `[b, m, v]`. Gathering first keeps the logits at the masked 15 % of the tokens.
    """

    config: BertConfig

    def setup(self):
        self.encoder = Encoder(self.config)
        self.head = MlmHead(self.config)

    def __call__(
        self,
        ids: Int[Array, "b s"],
        mask: Bool[Array, "b s"],
        positions: Int[Array, "b m"],
        *,
        deterministic: bool = True,
    ) -> Float[Array, "b m v"]:
        x = self.encoder(ids, mask, deterministic=deterministic)
        x = jnp.take_along_axis(x, positions[:, :, None], axis=1)
        return self.head(x, self.encoder.embeddings.word.embedding)


class Classifier(nn.Module):
    """Encoder and a linear classifier over the first token: dropout, dense, tanh, dropout, dense.

    Call with `ids`, `mask` as `Encoder`; returns float32 logits `[b, c]`.
    """

    config: BertConfig
    classes: int

    def setup(self):
        self.encoder = Encoder(self.config)
        self.pooler = self.config.dense(self.config.arch.hidden)
        self.output = self.config.dense(self.classes)
        self.dropout = nn.Dropout(self.config.dropout)

    def __call__(
        self, ids: Int[Array, "b s"], mask: Bool[Array, "b s"], *, deterministic: bool = True
    ) -> Float[Array, "b c"]:
        first = self.encoder(ids, mask, deterministic=deterministic)[:, 0]
        first = nn.tanh(self.pooler(self.dropout(first, deterministic=deterministic)))
        first = self.dropout(first, deterministic=deterministic)
        return self.output(first).astype(jnp.float32)

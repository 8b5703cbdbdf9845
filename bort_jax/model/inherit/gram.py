# SPDX-License-Identifier: Apache-2.0
"""What a layer's heads and units do on rows of text, as second moments.

A layer has two sides: its heads, whose outputs the attention's output projection reads, and its
units, which the feed-forward's down projection reads after GELU. With a 1 before them for the bias,
[1 f], a side's Gram matrix is G = Σ [1 f]ᵀ[1 f] over the tokens of the rows: all that a
least-squares fit of the projection needs. Products are float32, sums over batches float64.
Letters as in bert.py; `f`, `g` a feature: of heads (a·k) or of units (i).
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from bort_jax.model.bert import BertConfig, Layer

Batch = dict[str, Any]
Side = Literal["heads", "units"]
SIDES: tuple[Side, ...] = ("heads", "units")
GRAM_BYTES, SUM_BYTES = 4, 8
BLOCKS = 4  # of the rows of a symmetric matrix, of which a half is computed


class Taps(NamedTuple):
    """What one layer computes on its way from `x` to `output`, both `[b, s, h]`.

    Attributes:
      heads: outputs of the heads, `[b, s, f]`.
      attended: the sum that the first LayerNorm gets.
      middle: what the feed-forward reads, and the residual beside it.
      units: after GELU, `[b, s, f]`.
      total: the sum that the last LayerNorm gets.
      output: of the layer.
    """

    heads: Any
    attended: Any
    middle: Any
    units: Any
    total: Any
    output: Any


def gram_bytes(config: BertConfig) -> int:
    """Bytes that the Gram matrices of all layers take, while one of them is being summed.

    At rest they are float32; of one layer at a time there are two (to fit, to choose λ) in float64.
    """
    sides = [
        (1 + heads * config.arch.head_size) ** 2 + (1 + intermediate) ** 2
        for heads, intermediate in config.arch.sizes()
    ]
    return GRAM_BYTES * sum(sides) + 2 * SUM_BYTES * max(sides)


def read_taps(config: BertConfig, sizes: tuple[int, int], params, x, mask) -> Taps:
    """Runs a layer of (heads, intermediate) and keeps what it computes on its way."""
    seen = {}

    def look(call, args, kwargs, context):
        seen[context.module.name] = args[0]
        return call(*args, **kwargs)

    with nn.intercept_methods(look):
        layer = Layer(config, *sizes)
        output: Any = layer.apply({"params": params}, x, mask, deterministic=True)
    heads = seen["out"].reshape(*x.shape[:2], -1)
    attended, total = seen["attention_norm"], seen["feed_forward_norm"]
    return Taps(heads, attended, seen["up"], seen["down"], total, output)


def sums_of_layer(
    config: BertConfig, sizes: tuple[int, int], sides: tuple[Side, ...], params, batch: Batch
) -> dict[str, Any]:
    """Moments of some sides, with a leading axis of 1 to be added up over, and the output `x`.

    Where `batch` has a `target: [rows, s, h]`, there are cross moments too, and no output: what
    comes after the sides is then not computed.
    """
    taps = read_taps(config, sizes, params, batch["x"], batch["mask"])
    residual = {"heads": batch["x"], "units": taps.middle}
    sums: dict[str, Any] = {} if "target" in batch else {"x": taps.output}
    for side in sides:
        features = getattr(taps, side)
        sums[side] = _moments(features, batch["mask"])
        if "target" in batch:
            sums[side] |= _cross(features, batch["target"] - residual[side], batch["mask"])
    return sums


def cross_of_units(_, batch: Batch):
    """Cross moments of `units` with what takes `middle` to `target`, all of one batch."""
    return _cross(batch["units"], batch["target"] - batch["middle"], batch["mask"])


# Highest: GPUs would round operands to 10 bits, and a Gram matrix's least eigenvalues are small.
product = partial(jnp.einsum, precision="highest")


def _moments(features: Float[Array, "b s f"], mask: Bool[Array, "b s"]):
    f = _tokens(features, mask)
    count = jnp.sum(mask, dtype=jnp.float32)
    return {"count": count[None], "sums": f.sum(0)[None], "products": _upper(f)[None]}


def _upper(f: Float[Array, "n f"]) -> Float[Array, "f f"]:
    """fᵀf in the blocks on the diagonal and to the right of it, and 0 in the others."""
    wide = -(-f.shape[1] // BLOCKS)
    rows = [
        product("nf,ng->fg", f[:, start : start + wide], f[:, start:])
        for start in range(0, f.shape[1], wide)
    ]
    return jnp.concatenate([jnp.pad(row, ((0, 0), (f.shape[1] - row.shape[1], 0))) for row in rows])


def _cross(features: Float[Array, "b s f"], target: Float[Array, "b s h"], mask):
    """A target's moments with features: the projection should give it, less the residual."""
    f, t = _tokens(features, mask), _tokens(target, mask)
    return {"cross": product("nf,nh->fh", f, t)[None], "targets": t.sum(0)[None]}


def _tokens(x, mask):
    return jnp.where(mask[..., None], x, 0).astype(jnp.float32).reshape(-1, x.shape[-1])


def add(total: dict[str, np.ndarray], part: Mapping[str, Any]) -> None:
    """Adds to `total`, in place and in float64, what a batch gave, over its devices."""
    for name, values in part.items():
        added = np.asarray(values).sum(0, dtype=np.float64)
        total[name] = total[name] + added if name in total else added


def gram_matrix(total: Mapping[str, np.ndarray]) -> Float[np.ndarray, "f f"]:
    """G = Σ [1 f]ᵀ[1 f] of added moments, in float64."""
    sums = total["sums"]
    upper = np.block(
        [[total["count"].reshape(1, 1), sums[None]], [0 * sums[:, None], total["products"]]]
    )
    return np.triu(upper) + np.triu(upper, 1).T


def cross_matrix(total: Mapping[str, np.ndarray]) -> Float[np.ndarray, "f h"]:
    """Σ [1 f]ᵀ t of added moments, in float64."""
    return np.vstack([total["targets"], total["cross"]])

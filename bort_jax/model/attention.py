# SPDX-License-Identifier: Apache-2.0
"""Softmax attention, by the kernel that suits the device: XLA's products, cuDNN's or splash.

Source: Vaswani et al. (arXiv 1706.03762, section 3.2.1). The fused kernels are jax's own; neither
writes the weights to memory. Letters as in bert.py.
"""

import math
from collections.abc import Callable
from typing import Literal, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Kernel = Literal["plain", "cudnn", "splash"]
AMPERE = 8.0  # the first compute capability that cuDNN's fused attention runs on
LANES, LARGEST_BLOCK = 128, 512  # of splash attention's blocks


def attention(
    q: Float[Array, "b s a k"],
    k: Float[Array, "b t a k"],
    v: Float[Array, "b t a k"],
    mask: Bool[Array, "b t"],
    *,
    drop: Callable | None = None,
) -> Float[Array, "b s a k"]:
    """drop(softmax(q · k / √head size)) · v over the keys where `mask` is True.

    All kernels give the same at tokens, to rounding, and something finite elsewhere, if padding
    is to the right: cuDNN is told lengths only, and takes all before a row's last token for tokens.

    Args:
      drop: dropout on the weights, where it is active. No fused kernel can have it: a model
        trains with them only at `dropout` 0, but a teacher, evaluation and prediction use them.
    """
    if drop is not None:
        return plain(q, k, v, mask, drop=drop)
    chosen = kernel(device_kind(), dtype=q.dtype, head_size=q.shape[-1], length=q.shape[1])
    return {"plain": plain, "cudnn": cudnn, "splash": splash}[chosen](q, k, v, mask)


def kernel(kind: str, *, dtype, head_size: int, length) -> Kernel:
    """The fused kernel of a device (see `device_kind`), if it takes such queries and keys.

    A symbolic length is that of an exported program, which runs on other devices too.
    """
    if not isinstance(length, int):
        return "plain"
    if kind == "cudnn" and dtype in (jnp.bfloat16, jnp.float16):
        # jax 0.10 and 0.11 refuse the gradient at odd lengths.
        fits = head_size % 8 == 0 and head_size <= 128 and length % 2 == 0
        return "cudnn" if fits else "plain"
    if kind == "tpu" and dtype == jnp.bfloat16:
        return "splash" if head_size % 64 == 0 and length % LANES == 0 else "plain"
    return "plain"


def device_kind() -> str:
    """`cudnn`: an NVIDIA GPU that its fused attention runs on; otherwise jax's platform."""
    first = jax.local_devices()[0]
    if first.platform != "gpu" or "cuda" not in first.client.platform_version:
        return first.platform
    return "cudnn" if float(first.compute_capability) >= AMPERE else first.platform


def plain(q, k, v, mask, *, drop: Callable | None = None) -> Float[Array, "b s a k"]:
    """`attention` by products, for any device, type and shape."""
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q, k, v))
    scores = jnp.einsum("bask,batk->bast", q * q.shape[-1] ** -0.5, k)
    # A finite floor, so that a row without any key gives numbers and not NaN.
    scores = jnp.where(mask[:, None, None, :], scores, jnp.finfo(scores.dtype).min)
    return jnp.swapaxes(softmax_mean(scores, v, drop=drop or (lambda weights: weights)), 1, 2)


def softmax_mean(
    scores: Float[Array, "b a s t"], v: Float[Array, "b a t k"], *, drop: Callable
) -> Float[Array, "b a s k"]:
    """drop(softmax(scores)) · v, divided by the sum only after the product.

    XLA on CPU then needs half the time: it does not write the weights a second time.
    """
    scores = scores.astype(jnp.float32)
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
    mixed = jnp.einsum("bast,batk->bask", drop(weights).astype(v.dtype), v)
    return mixed / weights.sum(-1, keepdims=True).astype(v.dtype)


def cudnn(q, k, v, mask) -> Float[Array, "b s a k"]:
    """`attention` by cuDNN, on NVIDIA GPUs.

    Queries that are padding are computed too: what cuDNN would leave at them is not specified.
    """
    # Under vmap over models that share a batch, jax's rule wants both lengths mapped as q is.
    zeros = 0 * q[:, 0, 0, 0].astype(jnp.int32)
    return jax.nn.dot_product_attention(
        q,
        k,
        v,
        query_seq_lengths=q.shape[1] + zeros,
        key_value_seq_lengths=lengths(mask) + zeros,
        implementation="cudnn",
    )


def lengths(mask: Bool[Array, "b t"]) -> Int[Array, " b"]:
    """Up to each row's last token; 1 in a row without any, so that its mean is over something."""
    return jnp.where(mask, jnp.arange(1, mask.shape[1] + 1, dtype=jnp.int32), 1).max(-1)


def splash(q, k, v, mask) -> Float[Array, "b s a k"]:
    """`attention` by jax's splash attention, on TPUs; padding is a segment of its own."""
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        BlockSizes,
        FullMask,
        MultiHeadMask,
        SegmentIds,
        make_splash_mha,
    )

    length, heads = q.shape[1], q.shape[2]
    block = math.gcd(length, LARGEST_BLOCK)
    sizes = BlockSizes(
        block_q=block,
        block_kv=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        block_q_dq=block,
        block_kv_dq=block,
    )
    run = make_splash_mha(
        MultiHeadMask([FullMask((length, length))] * heads),
        block_sizes=sizes,
        head_shards=1,
        q_seq_shards=1,
    )
    segments = mask.astype(jnp.int32)
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q * q.shape[-1] ** -0.5, k, v))
    one = lambda q, k, v, ids: cast(Array, run(q, k, v, segment_ids=SegmentIds(ids, ids)))
    return jnp.swapaxes(jax.vmap(one)(q, k, v, segments), 1, 2)

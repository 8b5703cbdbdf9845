# SPDX-License-Identifier: Apache-2.0
"""Forward passes over any number of rows: class logits, tokens, states, resampling.

Rows of different lengths share batches of one of few widths: as many compilations as widths.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from bort_jax.data.tokenizer import Special
from bort_jax.engine.parallel import parallel_map, replicate
from bort_jax.interop import Checkpoint
from bort_jax.model import BertConfig, Classifier, Headless, MaskedLM, forward
from bort_jax.model.attention import device_kind

BatchSize = int | Sequence[int]  # rows of a batch, or the few sizes that one may have


def for_device(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with parameters and arithmetic in the type that this device predicts in:
    bfloat16 where jax has a fused kernel for attention, else float32."""
    dtype = "bfloat16" if device_kind() in ("cudnn", "tpu") else "float32"
    params = jax.tree.map(lambda x: np.asarray(x).astype(dtype, copy=False), checkpoint.params)
    return replace(checkpoint, config=replace(checkpoint.config, dtype=dtype), params=params)


def class_logits(model: Classifier, *, pad: int, batch_size: BatchSize = 64) -> Callable:
    """Builds `(params, x: int[*rows, s]) -> outputs: float[m, c]`, a line for each of the m rows of
    tokens; compiled once for each of `widths(s)` that occurs."""

    def run_share(params, batch):
        logits = forward(model, params, batch["ids"], batch["ids"] != pad)
        return logits.astype(jnp.float32)

    run = by_length(parallel_map(run_share), batch_size, pad=pad)
    return lambda params, x: run(params, {"ids": x.reshape(-1, x.shape[-1])})


def top_tokens(
    model: MaskedLM, *, pad: int, top_k: int, batch_size: BatchSize = 64
) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Builds `(params, x: int[n, s], positions: int[n]) -> (probabilities, tokens)`, both [n, k]:
    the likeliest tokens at one position of each row, the best first."""

    def run_share(params, batch):
        ids = batch["ids"]
        logits = forward(model, params, ids, ids != pad, batch["positions"][:, None])
        return jax.lax.top_k(jax.nn.softmax(logits[:, 0].astype(jnp.float32)), top_k)

    run = by_length(parallel_map(run_share), batch_size, pad=pad)
    return lambda params, x, positions: run(params, {"ids": x, "positions": positions})


def text_states(
    config: BertConfig, params, *, pad: int, pooling: str, batch_size: BatchSize = 64
) -> Callable:
    """Builds `x: int[n, s] -> float[n, h]`: an encoder's state of each row.

    Args:
      params: of any model with an encoder.
      pooling: `first`, the first token's state, or `mean`, over all tokens.

    Raises:
      ValueError: another pooling.
    """
    if pooling not in ("first", "mean"):
        raise ValueError(f"pooling must be first or mean; got {pooling!r}")
    model = Headless(config)

    def run_share(params, batch):
        mask = batch["ids"] != pad
        states = forward(model, params, batch["ids"], mask).astype(jnp.float32)
        if pooling == "first":
            return states[:, 0]
        weights = mask[:, :, None] / mask.sum(axis=1)[:, None, None]
        return (states * weights).sum(axis=1)

    run = by_length(parallel_map(run_share), batch_size, pad=pad)
    params = replicate({"encoder": params["encoder"]})
    return lambda x: run(params, {"ids": x})


def resampler(model: MaskedLM, params, special: Special, *, batch_size: BatchSize = 64) -> Callable:
    """Builds `(x, positions, seed) -> tokens`: other tokens that a masked LM draws.

    The token that stands there and the special tokens cannot be drawn, so every
    position changes. Resampling is at temperature 1.

    Returns:
      a function of `x: int[n, s]`, `positions: int[n, m]` and an int, to `int[n, m]`.
    """

    def run_share(params, batch):
        ids, positions = batch["ids"], batch["positions"]
        rows = jnp.arange(len(ids))[:, None]
        masked = ids.at[rows, positions].set(special.mask)
        logits = forward(model, params, masked, ids != special.pad, positions)
        logits = logits.at[..., jnp.array(special)].set(-jnp.inf)
        now = jnp.take_along_axis(ids, positions, axis=1)
        logits = jnp.where(jax.nn.one_hot(now, logits.shape[-1], dtype=bool), -jnp.inf, logits)
        draw = lambda key, row: jax.random.categorical(jax.random.wrap_key_data(key), row)
        return jax.vmap(draw)(batch["keys"], logits)

    run = by_length(parallel_map(run_share), batch_size, pad=special.pad)
    params = replicate(params)

    def resample(
        x: Int[np.ndarray, "n s"], positions: Int[np.ndarray, "n m"], seed: int
    ) -> Int[np.ndarray, "n m"]:
        keys = jax.random.key_data(jax.random.split(jax.random.key(seed), len(x)))
        return run(params, {"ids": x, "positions": positions, "keys": np.asarray(keys)})

    return resample


def in_batches(
    run: Callable, batch_size: BatchSize, *, between: Callable[[], object] = lambda: None
) -> Callable:
    """Runs over batches of one size, the last filled up with copies of its first row; of several
    sizes each batch has the smallest that holds all that is left, else the largest.

    `between()` is called after each; what it raises ends the rest.
    """
    devices = jax.local_device_count()
    sizes = sorted({-(-int(size) // devices) * devices for size in np.atleast_1d(batch_size)})

    def over_all(params, batch):
        n, start = len(next(iter(batch.values()))), 0
        outputs = []
        while start < n:
            size = next((size for size in sizes if size >= n - start), sizes[-1])
            picked = np.arange(start, start + size)
            picked[picked >= n] = start
            outputs.append(run(params, {name: values[picked] for name, values in batch.items()}))
            between()
            start += size
        return jax.tree.map(lambda *parts: np.concatenate(parts)[:n], *outputs)

    return over_all


def widths(seq_len: int) -> tuple[int, ...]:
    """Powers of two below `seq_len`, from 16 on, and `seq_len`: the widths that rows are cut to."""
    return (*(2**k for k in range(4, (seq_len - 1).bit_length())), seq_len)


def by_length(run: Callable, batch_size: BatchSize, *, pad: int) -> Callable:
    """As `in_batches`, with rows of like lengths together and their padding cut off.

    A batch holds `ids: int[n, s]`, padded on the right, and arrays of n rows; each part of it is as
    wide as its longest row, rounded up to one of `widths(s)`.
    """
    run = in_batches(cut_to_width(run, pad=pad), batch_size)

    def over_all(params, batch):
        order = np.argsort(lengths(batch["ids"], pad=pad), kind="stable")
        outputs = run(params, {name: values[order] for name, values in batch.items()})
        return jax.tree.map(lambda values: values[np.argsort(order)], outputs)

    return over_all


def cut_to_width(run: Callable, *, pad: int) -> Callable:
    """Takes away the columns of `ids` that are padding in all rows, but for those up to a width."""

    def narrow(params, batch):
        ids = batch["ids"]
        longest = lengths(ids, pad=pad).max()
        width = next(width for width in widths(ids.shape[1]) if width >= longest)
        return run(params, batch | {"ids": ids[:, :width]})

    return narrow


def lengths(ids: Int[np.ndarray, "n s"], *, pad: int) -> Int[np.ndarray, " n"]:
    """Tokens of each row, which is padded on the right."""
    return ids.shape[1] - (ids[:, ::-1] != pad).argmax(axis=1)

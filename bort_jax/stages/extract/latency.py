# SPDX-License-Identifier: Apache-2.0
"""Seconds of a forward pass: the real model, compiled, awaited, warm."""

import time
from collections.abc import Callable, Sequence
from functools import partial

import jax
import numpy as np
from jaxtyping import Float

from bort_jax.arch import Arch
from bort_jax.model import BertConfig, Encoder, forward

WARM = 3


def forward_seconds(
    archs: Sequence[Arch],
    *,
    vocab_size: int,
    seq_len: int,
    batch: int = 1,
    dtype: str = "float32",
    repeats: int = 31,
) -> Float[np.ndarray, " n"]:
    """The median time of a forward pass of each encoder on the first local device.

    All are compiled first; then each runs once a round, so that a machine that slows down for a
    while slows all of them. Weights are constants: values do not change the time. They are on the
    device before the clock starts; ids go with each call.
    """
    runs = [
        compiled(arch, vocab_size=vocab_size, seq_len=seq_len, batch=batch, dtype=dtype)
        for arch in archs
    ]
    rounds = [[_seconds(run) for run in runs] for _ in range(WARM + repeats)]
    return np.median(rounds[WARM:], axis=0)


def compiled(
    arch: Arch, *, vocab_size: int, seq_len: int, batch: int, dtype: str
) -> Callable[[], jax.Array]:
    """One forward pass of an encoder, ready to be called."""
    model = Encoder(BertConfig(arch, vocab_size, positions=seq_len, dropout=0.0, dtype=dtype))
    ids = np.random.default_rng(0).integers(0, vocab_size, (batch, seq_len)).astype(np.int32)
    mask = np.ones((batch, seq_len), dtype=bool)
    shapes = jax.eval_shape(model.init, jax.random.key(0), ids, mask)["params"]
    params = jax.device_put(
        jax.tree.map(lambda leaf: np.full(leaf.shape, 0.01, leaf.dtype), shapes),
        jax.local_devices()[0],
    )
    run = jax.jit(partial(forward, model)).lower(params, ids, mask).compile()
    return lambda: run(params, ids, mask)


def _seconds(run: Callable[[], jax.Array]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start

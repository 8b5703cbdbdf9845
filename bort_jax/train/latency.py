# SPDX-License-Identifier: Apache-2.0
"""Seconds of a forward pass: the real model, compiled, awaited, warm."""

import time

import jax
import numpy as np

from bort_jax.arch import Arch
from bort_jax.model import BertConfig, Encoder, forward, init_params

WARM = 3


def forward_seconds(
    arch: Arch,
    *,
    vocab_size: int,
    seq_len: int,
    batch: int = 1,
    dtype: str = "float32",
    repeats: int = 21,
) -> float:
    """The median over `repeats` forward passes of an encoder on the first local device.

    Weights are random: their values do not change the time. Parameters are on the device
    before the clock starts; ids go with each call.
    """
    config = BertConfig(arch, vocab_size, positions=seq_len, dropout=0.0, dtype=dtype)
    model = Encoder(config)
    device = jax.local_devices()[0]
    params = jax.device_put(init_params(model, seed=0), device)
    run = jax.jit(lambda params, ids, mask: forward(model, params, ids, mask))
    ids = np.random.default_rng(0).integers(0, vocab_size, (batch, seq_len)).astype(np.int32)
    mask = np.ones((batch, seq_len), dtype=bool)
    return float(np.median([_once(run, params, ids, mask) for _ in range(WARM + repeats)][WARM:]))


def _once(run, *inputs) -> float:
    start = time.perf_counter()
    jax.block_until_ready(run(*inputs))
    return time.perf_counter() - start

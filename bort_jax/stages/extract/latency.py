# SPDX-License-Identifier: Apache-2.0
"""Seconds of a forward pass: the real model, compiled, awaited, warm; and a fit to some of them."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float

from bort_jax.arch import Arch, LayerwiseArch, SearchSpace
from bort_jax.cost import Latency, fit_latency
from bort_jax.cost.latency import TimeFn
from bort_jax.model import BertConfig, Encoder, forward
from bort_jax.ose import Extraction
from bort_jax.report.terminal import say
from bort_jax.stages.extract.shared_errors import one_at_a_time
from bort_jax.stages.extract.tables import ranking
from bort_jax.storage.checks import explain_damage
from bort_jax.storage.files import read_json, write_json

WARM = 3
RIVALS = 5  # whose latency is measured beside the winner's


def forward_seconds(
    archs: Sequence[Arch | LayerwiseArch],
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
        compile_forward(arch, vocab_size=vocab_size, seq_len=seq_len, batch=batch, dtype=dtype)
        for arch in archs
    ]
    rounds = [[_seconds(run) for run in runs] for _ in range(WARM + repeats)]
    return np.median(rounds[WARM:], axis=0)


def compile_forward(
    arch: Arch | LayerwiseArch, *, vocab_size: int, seq_len: int, batch: int, dtype: str
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


def run_latency(space: SearchSpace, out: Path, time_fn: TimeFn, *, size: int) -> Latency:
    """The fit of a run: timed by the first process, read from `latency.json` by later ones."""
    file = out / "latency.json"
    with one_at_a_time(out):
        if file.exists():
            with explain_damage(file):
                found = read_json(file)
                times = dict(zip(map(Arch.parse, found["archs"]), found["seconds"], strict=True))
                known = lambda archs: [float(times[arch]) for arch in archs]
                latency = fit_latency(space, known, size=len(times))
        else:
            say(f"timing {min(size, len(space.archs()))} architectures")
            latency = fit_latency(space, time_fn, size=size)
            seconds = (latency.measured / 1e3).tolist()
            write_json(file, {"archs": list(map(str, latency.archs)), "seconds": seconds})
    say(str(latency))
    return latency


def compare_latency(extraction: Extraction, time_fn: TimeFn) -> list[tuple]:
    """(architecture, predicted ms, measured ms) of the winner, the first rivals and T."""
    predicted = extraction.candidates.columns.get("latency_ms")
    if predicted is None:
        return []
    chosen = [*ranking(extraction)[: 1 + RIVALS], extraction.candidates.maximum_point]
    archs = [extraction.archs[k] for k in dict.fromkeys(chosen)]
    measured = 1e3 * np.asarray(time_fn(archs))
    return [
        (str(arch), float(predicted[k]), float(ms))
        for arch, k, ms in zip(archs, dict.fromkeys(chosen), measured, strict=True)
    ]

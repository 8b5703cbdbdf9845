# SPDX-License-Identifier: Apache-2.0
"""How fast a run is: tokens a second, and its share of what the devices could do (MFU).

MFU is the model's floating-point operations, not the machine's: what rematerialisation computes
twice counts once, and a multiply-add counts two (PaLM, arXiv 2204.02311, appendix B).
"""

import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bort_jax.cost import bert_network
from bort_jax.cost.layerwise import layer_cost
from bort_jax.model import BertConfig

# FLOP/s of one jax device in bfloat16 (float16 on V100) without sparsity, by the beginning of its
# `device_kind`. Sources: NVIDIA's data sheets of H100, H200, GH200, A100 and V100; Google Cloud's
# pages on TPU versions. On TPU v2 and v3 a jax device is a core, half a chip.
PEAKS = {
    "NVIDIA H100": 989.4e12,
    "NVIDIA H100 NVL": 835.5e12,
    "NVIDIA H100 PCIe": 756.0e12,
    "NVIDIA H200": 989.4e12,
    "NVIDIA GH200": 989.4e12,
    "NVIDIA A100": 312.0e12,
    "Tesla V100": 125.0e12,
    "Tesla V100-PCIE": 112.0e12,
    "TPU v2": 22.5e12,
    "TPU v3": 61.5e12,
    "TPU v4": 275.0e12,
    "TPU v5 lite": 197.0e12,
    "TPU v5e": 197.0e12,
    "TPU v5": 459.0e12,
    "TPU v6 lite": 918.0e12,
    "TPU v6e": 918.0e12,
}
SIDE = 1024  # of the matrices whose product stands for a peak that no table has


class Peak(NamedTuple):
    """What the devices of all processes could do.

    Attributes:
      flops: floating-point operations a second.
      source: where the number is from.
    """

    flops: float
    source: str


def peak(dtype: str) -> Peak:
    """The peak in PEAKS, else what a large product of matrices of `dtype` reaches here."""
    device = jax.local_devices()[0]
    known = known_peak(device.device_kind)
    if known:
        return Peak(known * jax.device_count(), f"data sheet of {device.device_kind}, bfloat16")
    # The devices of a CPU are shares of the same cores.
    units = jax.process_count() if device.platform == "cpu" else jax.device_count()
    source = f"measured: {dtype} product of two {SIDE} × {SIDE} matrices on {device.device_kind}"
    return Peak(units * measured_peak(dtype), source)


def known_peak(kind: str) -> float | None:
    """The entry of PEAKS with the longest beginning of a device kind, or None."""
    fitting = [name for name in PEAKS if kind.startswith(name)]
    return PEAKS[max(fitting, key=len)] if fitting else None


@lru_cache
def measured_peak(dtype: str) -> float:
    """FLOP/s of the best of some products of two square matrices on one device."""
    matrix = jnp.ones((SIDE, SIDE), dtype)
    # On CPUs float32 sums are what makes XLA use their units for bfloat16.
    product = jax.jit(lambda a, b: jnp.dot(a, b, preferred_element_type=jnp.float32))
    seconds = []
    for _ in range(8):
        start = time.perf_counter()
        jax.block_until_ready(product(matrix, matrix))
        seconds.append(time.perf_counter() - start)
    return 2 * SIDE**3 / min(seconds)


def forward_flops(config: BertConfig, *, seq_len: int, masked: int) -> int:
    """Of one row through encoder and masked-LM head: twice the multiply-adds of its products.

    Args:
      masked: positions that the head is applied to.
    """
    arch = config.arch
    sizes = dict(hidden=arch.hidden, head_size=arch.head_size, seq_len=seq_len)
    layers = sum(layer_cost(layer, **sizes)[1] for layer in arch.sizes())
    network = bert_network(
        vocab_size=config.vocab_size,
        positions=max(config.positions, masked),
        seq_len=masked,
        head="mlm",
    )
    row = (len(arch.sizes()), 1, arch.hidden, 1)
    return 2 * (layers + network.c.macs(row))


def step_flops(student: BertConfig, teacher: BertConfig | None = None) -> Callable:
    """Builds `(seq_len, masked) -> FLOPs of training on one row`: three forward passes of the
    student, for the gradient is two, and one of the teacher."""

    @lru_cache
    def of_row(seq_len: int, masked: int) -> int:
        sizes = dict(seq_len=seq_len, masked=masked)
        teaching = forward_flops(teacher, **sizes) if teacher else 0
        return 3 * forward_flops(student, **sizes) + teaching

    return of_row


class Meter:
    """Counts the batches that pass, and the time that a step waits for its batch."""

    def __init__(self, flops: Callable[[int, int], int], peak: Peak):
        self.flops, self.peak = flops, peak
        self.reset()

    def reset(self) -> None:
        self.start = time.monotonic()
        self.steps = self.tokens = self.operations = 0
        self.waited = 0.0

    def watch(self, batches: Iterable[dict[str, np.ndarray]]) -> Iterator[dict[str, np.ndarray]]:
        """The same batches; counting begins at the second, after the compilation."""
        batches, first = iter(batches), True
        while True:
            before = time.monotonic()
            batch = next(batches, None)
            if batch is None:
                return
            self.waited += time.monotonic() - before
            if not first:
                self._count(batch)
            yield batch
            if first:
                self.reset()
                first = False

    def _count(self, batch: dict[str, np.ndarray]) -> None:
        rows = len(batch["ids"]) * jax.process_count()
        seq_len, masked = batch["ids"].shape[1], batch["positions"].shape[1]
        self.steps += 1
        self.tokens += rows * seq_len
        self.operations += rows * self.flops(seq_len, masked)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What is done meanwhile is not training."""
        before = time.monotonic()
        yield
        self.start += time.monotonic() - before

    def lap(self) -> dict[str, float]:
        """Rates since the last lap, over all processes; none before the second batch."""
        seconds = time.monotonic() - self.start
        if not self.steps:
            return {"memory_bytes": memory_in_use()}
        rates = {
            "tokens_per_second": self.tokens / seconds,
            "seconds_per_step": seconds / self.steps,
            "mfu": self.operations / seconds / self.peak.flops,
            "waited_for_data": self.waited / seconds,
            "memory_bytes": memory_in_use(),
        }
        self.reset()
        return rates


def memory_in_use() -> float:
    """Most bytes that were in use: of the first device, or of the process where devices do not
    say."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return float(stats["peak_bytes_in_use"])
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)

# SPDX-License-Identifier: Apache-2.0
"""The speed of a run: tokens a second, and its share of what the devices could do (MFU).

MFU is the model's floating-point operations, not the machine's: what rematerialisation computes
twice counts once, and a multiply-add counts two (PaLM, arXiv 2204.02311, appendix B).
"""

import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache

import jax
import numpy as np

from bort_jax.cost import bert_network
from bort_jax.cost.layerwise import layer_cost
from bort_jax.model import BertConfig


def forward_flops(config: BertConfig, *, seq_len: int, masked: int) -> int:
    """FLOPs of one row through encoder and masked-LM head: twice the multiply-adds of its products.

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
    """Counts the batches that pass, and the time that a step waits for its batch.

    Args:
      flops: `(seq_len, masked) -> FLOPs` of training on one row.
      peak: FLOPs a second of all devices together; None: unknown, and so is the MFU.
    """

    def __init__(self, flops: Callable[[int, int], int], peak: float | None):
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
    def pause(self) -> Iterator[None]:
        """The time spent meanwhile is not training's."""
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
            "waited_for_data": self.waited / seconds,
            "memory_bytes": memory_in_use(),
        }
        if self.peak:
            rates["mfu"] = self.operations / seconds / self.peak
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

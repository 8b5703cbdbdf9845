# SPDX-License-Identifier: Apache-2.0
"""What a pretraining would take, from ten of its real steps, with nothing written."""

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import jax

from bort_jax.data.prepared import holds_corpus
from bort_jax.engine.parallel import BoundStep
from bort_jax.engine.step import State
from bort_jax.model import count_params
from bort_jax.stages.pretrain.config import HOUR, PretrainConfig, check
from bort_jax.stages.pretrain.objectives import Stream
from bort_jax.stages.pretrain.stage import Stage
from bort_jax.stages.pretrain.teacher_cache import CachedTeacherStream

STEPS = 10


class Plan(NamedTuple):
    """A pretraining before it is begun.

    Attributes:
      params: trainable parameters.
      device_bytes: of memory that one device needs for a step, as compiled.
      kept_bytes: what of these is there between steps: weights, optimizer, teacher, batch.
      steps: gradient steps; from the time of one where the run has hours.
      tokens: of all steps.
      epochs: passes over the training text.
      seconds_per_step: median of ten real steps.
      compile_seconds: of the first, with its compilation.
      seconds: of the whole run, without evaluation and checkpoints.
    """

    params: int
    device_bytes: int
    kept_bytes: int
    steps: int
    tokens: int
    epochs: float
    seconds_per_step: float
    compile_seconds: float
    seconds: float


def dry_run(config: PretrainConfig) -> Plan:
    """Builds everything that `pretrain` would and runs ten steps of it.

    Text that is not built yet is built in a temporary folder.

    Raises:
      ValueError: as `pretrain`.
    """
    check(config)
    with elsewhere(config) as config:
        stage = Stage.of(config)
        state, step = stage.new_state(), stage.step()
        items = first_batches(stage.stream, STEPS + 1)
        memory = step.lower(state, items[0]).compile().memory_analysis()
        first, *rest = seconds_of(step, state, items)
        pace = statistics.median(rest)
        budget = config.hours and config.hours * HOUR
        total = int(budget / pace) if budget else config.steps
        tokens = total * config.batch_size * config.seq_len
        return Plan(
            params=count_params(stage.model),
            device_bytes=device_bytes(memory),
            kept_bytes=memory.argument_size_in_bytes,
            steps=total,
            tokens=tokens,
            epochs=tokens / stage.corpus.train.n_tokens,
            seconds_per_step=pace,
            compile_seconds=first,
            seconds=budget or first + total * pace,
        )


def first_batches(stream: Stream, number: int) -> list[dict]:
    """This host's part of the first batches; those of a teacher cache with fewer come again."""
    there = stream.cache.batches if isinstance(stream, CachedTeacherStream) else number
    part = {"host": jax.process_index(), "hosts": jax.process_count()}
    return [stream.batch(index % there, **part) for index in range(number)]


def seconds_of(step: BoundStep, state: State, items: Sequence[dict]) -> Iterator[float]:
    """Of each step, awaited."""
    for item in items:
        begun = time.monotonic()
        state, metrics = step(state, item)
        jax.block_until_ready((state, metrics))
        yield time.monotonic() - begun


def device_bytes(memory) -> int:
    """Arguments, what the results need beside them, and all that lives only inside a step."""
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return memory.argument_size_in_bytes + results + memory.temp_size_in_bytes


@contextmanager
def elsewhere(config: PretrainConfig) -> Iterator[PretrainConfig]:
    """The configuration in a folder that is removed, unless its text is built already."""
    if holds_corpus(Path(config.out) / "data"):
        yield config
        return
    with TemporaryDirectory() as folder:
        yield replace(config, out=folder)

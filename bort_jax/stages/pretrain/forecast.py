# SPDX-License-Identifier: Apache-2.0
"""Memory, time and epochs of a pretraining, from ten of its real steps, with nothing written."""

import statistics
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax

from bort_jax.engine.parallel import BoundStep
from bort_jax.engine.step import State
from bort_jax.model import count_params
from bort_jax.stages.pretrain.objectives import Stream
from bort_jax.stages.pretrain.recipe import Pacing
from bort_jax.stages.pretrain.setup import Setup
from bort_jax.stages.pretrain.teacher_cache import CachedTeacherStream

STEPS = 10


class Forecast(NamedTuple):
    """A pretraining before it is begun.

    Attributes:
      params: trainable parameters.
      device_bytes: memory that one device needs for a step, as compiled.
      kept_bytes: the part of these that stays between steps: weights, optimizer, teacher, batch.
      steps: training steps; from the time of one where the run has hours.
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


def forecast(setup: Setup, pacing: Pacing, *, tokens_per_step: int) -> Forecast:
    """Compiles the step, runs it on the first batches, and reckons the whole run."""
    state, step = setup.new_state(), setup.step()
    items = first_batches(setup.stream, STEPS + 1)
    memory = step.lower(state, items[0]).compile().memory_analysis()
    first, *rest = step_seconds(step, state, items)
    pace = statistics.median(rest)
    steps = int(pacing.seconds / pace) if pacing.seconds else pacing.steps
    return Forecast(
        params=count_params(setup.model),
        device_bytes=device_bytes(memory),
        kept_bytes=memory.argument_size_in_bytes,
        steps=steps,
        tokens=steps * tokens_per_step,
        epochs=steps * tokens_per_step / setup.corpus.train.n_tokens,
        seconds_per_step=pace,
        compile_seconds=first,
        seconds=pacing.seconds or first + steps * pace,
    )


def first_batches(stream: Stream, number: int) -> list[dict]:
    """This host's part of the first batches; those of a teacher cache with fewer come again."""
    there = stream.cache.batches if isinstance(stream, CachedTeacherStream) else number
    part = {"host": jax.process_index(), "hosts": jax.process_count()}
    return [stream.batch(index % there, **part) for index in range(number)]


def step_seconds(step: BoundStep, state: State, items: Sequence[dict]) -> Iterator[float]:
    """The seconds of each step, awaited."""
    for item in items:
        start = time.monotonic()
        state, metrics = step(state, item)
        jax.block_until_ready((state, metrics))
        yield time.monotonic() - start


def device_bytes(memory) -> int:
    """Arguments, what the results need beside them, and all that lives only inside a step."""
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return memory.argument_size_in_bytes + results + memory.temp_size_in_bytes

# SPDX-License-Identifier: Apache-2.0
"""Trains populations in groups that the devices hold, a few steps in each call of the program."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.core import ShapedArray
from tqdm import tqdm

from bort_jax.engine.parallel import at_a_time, stack_members, unstack_members
from bort_jax.engine.processes import gather_items, shard_items
from bort_jax.stages.finetune.early_stopping import EarlyStopper, EarlyStopping, Tuned
from bort_jax.stages.finetune.group_size import (
    half,
    is_out_of_memory,
    largest_group,
    memory_limit,
    round_up,
)
from bort_jax.stages.finetune.population import (
    Member,
    Population,
    nan_like,
    start_member,
    tree_bytes,
)

SEGMENT = 32  # steps in one call of the program
SMALL = 1 << 27  # bytes of an encoder; two larger ones on one CPU are in each other's way


class TuningJob(NamedTuple):
    """A fine-tuning that is to be done.

    Attributes:
      member: makes its per-run inputs; of hundreds of jobs only those at hand have a head in
        memory.
      batches: makes its endless batches, from the first on; all jobs' batches have one shape.
      steps: training steps.
    """

    member: Callable[[], Member]
    batches: Callable[[], Iterator[dict[str, np.ndarray]]]
    steps: int


class GroupShape(NamedTuple):
    """Members of a device in one program, and groups that run side by side on the same devices."""

    members: int
    beside: int = 1


class GroupTrainer:
    """Trains jobs whose batches have one shape.

    Args:
      population: the programs.
      encoder: what every member starts from, on the host.
      at_once: members of a device that are trained together, at the most.

    Attributes:
      devices: of this process, that it uses.
      memory: bytes of a device that a group may take.
      small: bytes of an encoder below which groups of one member run side by side.
    """

    def __init__(self, population: Population, encoder: Any, *, at_once: int):
        self.population, self.encoder = population, encoder
        self.at_once = at_once  # fewer once the device has run out of memory
        self.devices, self.memory, self.small = jax.local_device_count(), memory_limit(), SMALL

    def first(
        self, jobs: Sequence[TuningJob], *, stopping: EarlyStopping | None = None
    ) -> list[Tuned]:
        """The first of the jobs, as many as the devices of all processes hold at a time."""
        tuned = gather_items(self._first_here(shard_items(jobs), stopping))[: len(jobs)]
        return [Tuned(params, int(steps)) for params, steps in tuned]

    def _first_here(self, jobs: Sequence[TuningJob], stopping: EarlyStopping | None) -> list[Tuned]:
        """As `first`, on the devices of this process."""
        shape = self.group_shape(jobs)
        while True:
            try:
                held = shape.members * self._devices_for(jobs) * shape.beside
                return self._in_groups(jobs[:held], shape, stopping)
            except jax.errors.JaxRuntimeError as error:
                if not is_out_of_memory(error) or shape == GroupShape(1):
                    raise
                self.at_once = half(shape.members)
                shape = GroupShape(self.at_once)

    def group_shape(self, jobs: Sequence[TuningJob]) -> GroupShape:
        """The groups that so many jobs are trained in here."""
        share = -(-len(jobs) // self._devices_for(jobs))
        members = self._members(jobs, share)
        small = tree_bytes(self.encoder) < self.small
        return GroupShape(members, at_a_time() if members == 1 < share and small else 1)

    def _members(self, jobs: Sequence[TuningJob], share: int) -> int:
        """Members of a device, found by what the compiler says they need."""
        most = min(round_up(share), self.at_once)
        if most == 1:
            return 1
        devices, limit = self._devices_for(jobs), self.memory
        member, batches = jobs[0].member(), segment(jobs[0].batches(), SEGMENT)
        state = jax.eval_shape(start_member, self.encoder, member)

        def bytes_of(members: int) -> int:
            # Of several processes, pmap takes no other stand-in for an array than this.
            shaped = lambda x: ShapedArray((devices, members, *x.shape), x.dtype)
            inputs = jax.tree.map(shaped, (state, member, batches))
            steps = ShapedArray((), np.dtype(np.int32))
            return self.population.train.bytes(*inputs, steps)

        # Parameters, their moments and their gradients: more than these allow need not be tried.
        most = min(most, limit // (4 * tree_bytes(state.params)))
        return largest_group(bytes_of, limit=limit, most=max(1, most))

    def _devices_for(self, jobs: Sequence[TuningJob]) -> int:
        """Devices that have a member."""
        return min(len(jobs), self.devices)

    def _in_groups(self, jobs: Sequence[TuningJob], shape: GroupShape, stopping) -> list[Tuned]:
        size = shape.members * self._devices_for(jobs)
        parts = [jobs[start : start + size] for start in range(0, len(jobs), size)]
        with ThreadPoolExecutor(shape.beside) as pool:
            tuned = pool.map(lambda part: self._one_group(part, shape.members, stopping), parts)
            return [one for part in tuned for one in part]

    def _one_group(self, jobs: Sequence[TuningJob], members: int, stopping) -> list[Tuned]:
        """Trains jobs together, a device's share each; places left over hold copies of the last."""
        devices, total = -(-len(jobs) // members), jobs[0].steps
        filled = [jobs[min(k, len(jobs) - 1)] for k in range(devices * members)]
        inputs = stack_members([job.member() for job in filled], devices)
        streams = [job.batches() for job in filled]
        states = self.population.begin(self.encoder, inputs)
        stopper = (
            EarlyStopper(stopping, self.population, (devices, members), total) if stopping else None
        )
        every = stopping.every if stopping else total
        with tqdm(total=total, desc=title(jobs), unit="step", leave=False, disable=None) as bar:
            for done, n in segments(total, every=every):
                batches = stack_members([segment(stream, n) for stream in streams], devices)
                states = self.population.train(states, inputs, batches, np.int32(n))
                jax.block_until_ready(states.step)
                bar.update(n)
                if stopper and stopper.is_over(states, done):
                    break
        if stopper:
            return stopper.take_best(len(jobs))
        ended = unstack_members((states.params, states.in_a_row), len(jobs))
        return [Tuned(nan_like(p) if in_a_row else p, total) for p, in_a_row in ended]


def segments(total: int, *, every: int) -> Iterator[tuple[int, int]]:
    """(steps done afterwards, steps of this call) until `total`, with a stop at each multiple of
    `every`."""
    done = 0
    while done < total:
        n = min(SEGMENT, total - done, every - done % every)
        done += n
        yield done, n


def segment(batches: Iterator[dict], n: int) -> dict[str, np.ndarray]:
    """The next n batches in a stack of SEGMENT; what is behind them is never looked at."""
    picked = list(islice(batches, n))
    picked += [picked[-1]] * (SEGMENT - n)
    return {name: np.stack([batch[name] for batch in picked]) for name in picked[0]}


def title(jobs: Sequence[TuningJob]) -> str:
    return f"fine-tune {len(jobs)} at once" if len(jobs) > 1 else "fine-tune"

# SPDX-License-Identifier: Apache-2.0
"""Data parallelism: the only file that says pmap.

No array carries a leading device axis but the batch: parameters go in with `in_axes=None`
and come out with `out_axes=None`. A population is the second axis: its members are spread over
the devices of this process, each whole on one.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from bort_jax.engine.step import State, UpdateRule, gradient_sums, guarded_update

AXIS = "data"
LAG = 2


def parallel_step(
    loss_fn: Callable,
    *,
    optimizer: str,
    clip: float,
    accumulate: int = 1,
    clock: Callable[[], float] | None = None,
) -> "ParallelStep":
    """Builds `step(state, frozen, batch, key) -> (state, metrics)` over all devices.

    Sums and counts are added over micro-batches and devices before the one division, in the loss
    and in its gradient: a mean of means is wrong where they hold different counts. A step whose
    loss or gradient is not finite changes neither the parameters nor the optimizer's state.

    Args:
      loss_fn: `(params, frozen, batch, key) -> sums`, a dict of scalars with at least `loss`
        and `count`; the mean loss `loss / count` is what is minimised.
      optimizer: `adamw` or `lamb`.
      clip: largest global norm of the gradient.
      accumulate: micro-batches that a device's share of a batch is cut into.
      clock: seconds used so far. The learning rate is then a function of them, the latest of all
        processes, and not of the steps done.

    Returns:
      a function whose `batch` is the host's, [b, ...] with b a multiple of the local devices
      times the micro-batches. Its metrics are the sums divided by the count, and `grad_norm`,
      `learning_rate`, `skipped` and `in_a_row` (see State), and with a clock `seconds`.
    """
    gradient = gradient_sums(loss_fn, parts=accumulate)
    rule = UpdateRule(optimizer, clip)

    def step(state: State, frozen, batch, key, seconds):
        # Each device drops other units; each step too, with no key in the checkpoint.
        key = jax.random.fold_in(jax.random.fold_in(key, state.step), jax.lax.axis_index(AXIS))
        grads, sums = sum_over_devices(gradient(state.params, frozen, batch, key))
        seconds = jax.lax.pmax(seconds, AXIS)
        time = None if clock is None else seconds
        state, metrics = guarded_update(state, grads, sums, rule=rule, time=time)
        used = {} if clock is None else {"seconds": seconds}
        return state._replace(seconds=seconds), metrics | used

    run = jax.pmap(
        step, axis_name=AXIS, in_axes=(None, None, 0, None, 0), out_axes=None, donate_argnums=0
    )

    return ParallelStep(run, clock)


@dataclass(frozen=True)
class ParallelStep:
    """The step that `parallel_step` builds: a call is one on a host's batch."""

    run: Any
    clock: Callable[[], float] | None

    def __call__(self, state: State, frozen, batch, key) -> tuple[State, dict]:
        return self.run(*self._arguments(state, frozen, batch, key))

    def bind(self, frozen, key) -> "BoundStep":
        """`(state, batch) -> (state, metrics)`; `frozen` is put on the devices once."""
        return BoundStep(self, replicate(frozen), key)

    def lower(self, state: State, frozen, batch, key):
        """The step as jax lowers it: `.compile()` knows its memory."""
        return self.run.lower(*self._arguments(state, frozen, batch, key))

    def _arguments(self, state: State, frozen, batch, key):
        # A host's arrays would compile a second program, beside the one for its own results.
        state = replicate(state) if isinstance(state.step, np.generic | np.ndarray) else state
        now = self.clock() if self.clock else 0.0
        return state, frozen, shard(batch), key, np.full(jax.local_device_count(), now, np.float32)


class BoundStep(NamedTuple):
    """A step that has all but what changes."""

    step: ParallelStep
    frozen: Any
    key: Any

    def __call__(self, state: State, batch) -> tuple[State, dict]:
        return self.step(state, self.frozen, batch, self.key)

    def lower(self, state: State, batch):
        return self.step.lower(state, self.frozen, batch, self.key)


def sum_over_devices(sums):
    """Sums over all devices of all processes; of one device they are what it has, not a copy."""
    return sums if jax.device_count() == 1 else jax.lax.psum(sums, AXIS)


def parallel_map(fn: Callable) -> Callable:
    """Maps `fn(params, batch) -> tree of [b, ...]` over the devices' shares of a batch."""
    run = jax.pmap(fn, axis_name=AXIS, in_axes=(None, 0))

    def over_batch(params, batch):
        return jax.tree.map(
            lambda x: np.asarray(x).reshape(-1, *x.shape[2:]), run(params, shard(batch))
        )

    return over_batch


class OverMembers:
    """`fn` mapped over a population, on as many devices as its arguments say.

    Arguments with axis 0 are `[devices, members of a device, …]` (`stack_members`), and so are the
    results; the others are shared by all members. The members of a device run under `vmap`; a
    single one runs as it would alone. Nothing is shared between members, nor with other processes.
    Each shape of arguments compiles once, and threads may call it.

    Args:
      donate: whether the first argument's memory becomes the result's.
      devices: default: all of this process.
    """

    def __init__(
        self,
        fn: Callable,
        in_axes: tuple[int | None, ...],
        *,
        donate: bool = False,
        devices: Sequence[Any] | None = None,
    ):
        self.fn, self.in_axes = _over_members(fn, in_axes), in_axes
        self.donate, self.devices = (0,) if donate else (), list(devices or jax.local_devices())
        self.lock, self.programs = threading.Lock(), {}

    def __call__(self, *args):
        return self._program(args)(*args)

    def bytes(self, *args) -> int:
        """Bytes that a device needs for the call: arguments, results and what lies between."""
        found = self._program(args).memory_analysis()
        held = found.argument_size_in_bytes + found.output_size_in_bytes
        return held + found.temp_size_in_bytes - found.alias_size_in_bytes

    def _program(self, args):
        key = str(jax.tree.map(lambda x: (np.shape(x), str(x.dtype)), args))
        with self.lock:
            if key not in self.programs:
                self.programs[key] = self._compile(args)
        return self.programs[key]

    def _compile(self, args):
        devices = jax.tree.leaves(args[self.in_axes.index(0)])[0].shape[0]
        run = jax.pmap(
            self.fn,
            in_axes=self.in_axes,
            devices=self.devices[:devices],
            donate_argnums=self.donate,
        )
        return run.lower(*args).compile()


def _over_members(fn: Callable, in_axes: tuple[int | None, ...]) -> Callable:
    """`vmap`, but for a device with one member, whose products need no batch axis."""
    own = [axis == 0 for axis in in_axes]

    def over_members(*args):
        if jax.tree.leaves(args[own.index(True)])[0].shape[0] > 1:
            return jax.vmap(fn, in_axes=in_axes)(*args)
        alone = jax.tree.map(lambda x: x[0], [arg for arg, is_own in zip(args, own) if is_own])
        found = fn(*(alone.pop(0) if is_own else arg for arg, is_own in zip(args, own)))
        return jax.tree.map(lambda x: x[None], found)

    return over_members


def on_devices(fn: Callable, items: Sequence) -> list:
    """[fn(item, device), …] in threads, one a device or more: while one compiles another runs."""
    devices = jax.local_devices()
    with ThreadPoolExecutor(max(len(devices), at_a_time())) as pool:
        return list(pool.map(lambda k: fn(items[k], devices[k % len(devices)]), range(len(items))))


def at_a_time() -> int:
    """Small steps leave cores idle that a second program can use; accelerators queue anyway."""
    return 2 if jax.default_backend() == "cpu" else 1


def stack_members(trees: Sequence, devices: int):
    """Trees of host arrays as one, `[devices, members of a device, …]`."""

    def put(*leaves):
        return np.stack(leaves).reshape(devices, -1, *np.shape(leaves[0]))

    return jax.tree.map(put, *trees)


def unstack_members(tree, count: int) -> list:
    """The first `count` members' trees, on the host."""
    tree = jax.tree.map(lambda x: np.asarray(x).reshape(-1, *x.shape[2:]), tree)
    return [jax.tree.map(lambda x, k=k: x[k], tree) for k in range(count)]


def replicate(tree):
    """Puts a host tree on every local device once, in the form that `parallel_step` takes."""
    if not jax.tree.leaves(tree):  # pmap of several processes cannot give back nothing
        return tree
    # Over an axis of another name it would have another type: the step would compile twice.
    spread = jax.pmap(lambda tree, _: tree, axis_name=AXIS, in_axes=(None, 0), out_axes=None)
    return spread(tree, np.zeros(jax.local_device_count(), np.float32))


def largest_of_all() -> Callable[[int], int]:
    """Builds `poll(value) -> largest`: of what all processes gave to the same call, or, on
    accelerators, to the call `LAG` earlier, so that asking waits for no step that runs.

    Every process calls it equally often.
    """
    if jax.process_count() == 1:
        return lambda value: value
    lag = 0 if jax.default_backend() == "cpu" else LAG
    largest = jax.pmap(lambda x: jax.lax.pmax(x, AXIS), axis_name=AXIS, out_axes=None)
    pending = deque()

    def poll(value: int) -> int:
        pending.append(largest(np.full(jax.local_device_count(), value, np.int32)))
        return int(pending.popleft()) if len(pending) > lag else 0

    return poll


def shard(batch):
    """[b, ...] to [devices, b / devices, ...].

    Raises:
      ValueError: b is not a multiple of the local devices.
    """
    devices = jax.local_device_count()

    def split(x):
        if len(x) % devices:
            raise ValueError(f"a batch of {len(x)} cannot be shared by {devices} devices equally")
        return x.reshape(devices, -1, *x.shape[1:])

    return jax.tree.map(split, batch)

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
import jax.numpy as jnp
import numpy as np
import optax

from bort_jax.engine.optimizer import Hyper, begun, clipping, learning_rate, limited, make_optimizer

AXIS = "data"
LAG = 2


class State(NamedTuple):
    """All that training changes, and the hyperparameters as arrays.

    Attributes:
      step: int32, steps done; those that were skipped count.
      params: float32 tree.
      opt_state: optax's.
      hyper: traced, so that one compiled step serves every hyperparameter set.
      seconds: float32, time used; 0 in a run that has a number of steps.
      skipped: int32, steps without a finite loss and gradient.
      in_a_row: int32, how many of these were the last ones.
    """

    step: Any
    params: Any
    opt_state: Any
    hyper: Hyper
    seconds: Any = ()
    skipped: Any = ()
    in_a_row: Any = ()


def new_state(params, hyper: Hyper, *, optimizer: str) -> State:
    """A state at step 0, in numpy."""
    return State(
        np.int32(0),
        params,
        begun(optimizer, params),
        hyper,
        seconds=np.float32(0),
        skipped=np.int32(0),
        in_a_row=np.int32(0),
    )


def parallel_step(
    loss_fn: Callable,
    *,
    optimizer: str,
    clip: float,
    clip_weights: float | None = None,
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
      clip_weights: largest weight after a step; None: no limit.
      accumulate: micro-batches that a device's share of a batch is cut into.
      clock: seconds used so far. The learning rate is then a function of them, the latest of all
        processes, and not of the steps done.

    Returns:
      a function whose `batch` is the host's, [b, ...] with b a multiple of the local devices
      times the micro-batches. Its metrics are the sums divided by the count, and `grad_norm`,
      `learning_rate`, `skipped` and `in_a_row` (see State), and with a clock `seconds`.
    """
    gradient = gradient_sums(loss_fn, parts=accumulate)

    def step(state: State, frozen, batch, key, seconds):
        # Each device drops other units; each step too, with no key in the checkpoint.
        key = jax.random.fold_in(jax.random.fold_in(key, state.step), jax.lax.axis_index(AXIS))
        grads, sums = over_devices(gradient(state.params, frozen, batch, key))
        metrics = {name: total / sums["count"] for name, total in sums.items() if name != "count"}
        seconds = jax.lax.pmax(seconds, AXIS)
        rate = learning_rate(state.hyper, state.step if clock is None else seconds)
        norm = optax.global_norm(grads) / sums["count"]
        # One factor for the mean and for clipping, inside the update: no gradient is written twice.
        scale = clipping(norm, clip) / sums["count"]
        transform = make_optimizer(optimizer, state.hyper, rate=rate, scale=scale)

        def taken(state: State) -> State:
            updates, opt_state = transform.update(grads, state.opt_state, state.params)
            params = limited(optax.apply_updates(state.params, updates), clip_weights)
            return state._replace(params=params, opt_state=opt_state, in_a_row=jnp.int32(0))

        def skipped(state: State) -> State:
            return state._replace(skipped=state.skipped + 1, in_a_row=state.in_a_row + 1)

        finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(norm)
        # A branch: a select would write weights and moments once more, a third of an update on CPU.
        new = jax.lax.cond(finite, taken, skipped, state)
        new = new._replace(step=state.step + 1, seconds=seconds)
        counts = {"skipped": new.skipped, "in_a_row": new.in_a_row}
        used = {} if clock is None else {"seconds": seconds}
        return new, metrics | {"grad_norm": norm, "learning_rate": rate} | counts | used

    run = jax.pmap(
        step, axis_name=AXIS, in_axes=(None, None, 0, None, 0), out_axes=None, donate_argnums=0
    )

    return ParallelStep(run, clock)


@dataclass(frozen=True)
class ParallelStep:
    """What `parallel_step` builds: a call is one step on a host's batch."""

    run: Any
    clock: Callable[[], float] | None

    def __call__(self, state: State, frozen, batch, key) -> tuple[State, dict]:
        return self.run(*self._arguments(state, frozen, batch, key))

    def bound(self, frozen, key) -> "BoundStep":
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


def over_devices(sums):
    """Sums over all devices of all processes; of one device they are what it has, not a copy."""
    return sums if jax.device_count() == 1 else jax.lax.psum(sums, AXIS)


def gradient_sums(loss_fn: Callable, *, parts: int) -> Callable:
    """Builds `(params, frozen, batch, key) -> (gradient of the summed loss, sums)`.

    The batch is cut into `parts` micro-batches of consecutive rows; one after the other adds to
    the sums, so that the activations of only one are alive.
    """

    def whole(params, frozen, batch, key):
        def summed(params):
            sums = loss_fn(params, frozen, batch, key)
            return sums["loss"], sums

        return jax.grad(summed, has_aux=True)(params)

    def in_parts(params, frozen, batch, key):
        batches = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), batch)

        def add(total, part):
            number, batch = part
            found = whole(params, frozen, batch, jax.random.fold_in(key, number))
            return jax.tree.map(jnp.add, total, found), None

        first = jax.tree.map(lambda x: x[0], batches)
        shapes = jax.eval_shape(whole, params, frozen, first, key)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return jax.lax.scan(add, zeros, (jnp.arange(parts), batches))[0]

    return whole if parts == 1 else in_parts


def parallel_map(fn: Callable) -> Callable:
    """Maps `fn(params, batch) -> tree of [b, ...]` over the devices' shares of a batch."""
    run = jax.pmap(fn, axis_name=AXIS, in_axes=(None, 0))

    def mapped(params, batch):
        return jax.tree.map(
            lambda x: np.asarray(x).reshape(-1, *x.shape[2:]), run(params, shard(batch))
        )

    return mapped


def parallel_population(fn: Callable, *, devices: Sequence[Any] | None = None) -> Callable:
    """Builds `fold(carry, members, items, *, end, watch) -> [end(carry), …]`, one for each member.

    Each member starts from the same host tree `carry` and does `carry = fn(carry, member, item)`
    for every item. As many members as there are devices (default: this process's) run at a time,
    under one compilation; `end` picks what is fetched; `watch()` is called after every item.
    Nothing is shared between members, nor with other processes.
    """
    devices = list(devices or jax.local_devices())
    run = CompiledOnce(jax.pmap(fn, in_axes=(0, 0, None), devices=devices, donate_argnums=0))

    def fold(carry, members: Sequence, items: Sequence, *, end: Callable, watch: Callable) -> list:
        def group(start: int) -> list:
            # The last group is filled up with copies of its last member.
            picked = [members[min(start + k, len(members) - 1)] for k in range(len(devices))]
            state, group = _stacked([carry] * len(devices)), _stacked(picked)
            for item in items:
                state = jax.block_until_ready(run(state, group, item))
                watch()
            ended = jax.device_get(end(state))
            return [jax.tree.map(lambda x, k=k: x[k], ended) for k in range(len(devices))]

        starts = range(0, len(members), len(devices))
        with ThreadPoolExecutor(at_a_time()) as pool:
            return [ended for part in pool.map(group, starts) for ended in part][: len(members)]

    return fold


class OverMembers:
    """`fn` mapped over a population, on as many devices as its arguments say.

    Arguments with axis 0 are `[devices, members of a device, …]`, and so are the results; the
    others are shared by all members. The members of a device run under `vmap`; a single one runs as
    it would alone. One compilation serves each shape, and threads may call it.
    """

    def __init__(self, fn: Callable, in_axes: tuple[int | None, ...], *, donate: bool = False):
        self.in_axes, self.donate = in_axes, (0,) if donate else ()
        self.fn = _over_members(fn, in_axes)
        self.programs: dict[int, CompiledOnce] = {}

    def __call__(self, *args):
        return self._program(args)(*args)

    def bytes(self, *args) -> int:
        """What a device needs for the call: arguments, results and what lies between."""
        return self._program(args).bytes(*args)

    def _program(self, args) -> "CompiledOnce":
        devices = jax.tree.leaves(args[self.in_axes.index(0)])[0].shape[0]
        if devices not in self.programs:
            run = jax.pmap(
                self.fn,
                in_axes=self.in_axes,
                devices=jax.local_devices()[:devices],
                donate_argnums=self.donate,
            )
            self.programs[devices] = CompiledOnce(run)
        return self.programs[devices]


def _over_members(fn: Callable, in_axes: tuple[int | None, ...]) -> Callable:
    """`vmap`, but for a device with one member, whose products need no batch axis."""
    own = [axis == 0 for axis in in_axes]

    def mapped(*args):
        if jax.tree.leaves(args[own.index(True)])[0].shape[0] > 1:
            return jax.vmap(fn, in_axes=in_axes)(*args)
        alone = jax.tree.map(lambda x: x[0], [arg for arg, is_own in zip(args, own) if is_own])
        found = fn(*(alone.pop(0) if is_own else arg for arg, is_own in zip(args, own)))
        return jax.tree.map(lambda x: x[None], found)

    return mapped


def on_devices(fn: Callable, items: Sequence) -> list:
    """[fn(item, device), …] in threads, one a device or more: while one compiles another runs."""
    devices = jax.local_devices()
    with ThreadPoolExecutor(max(len(devices), at_a_time())) as pool:
        return list(pool.map(lambda k: fn(items[k], devices[k % len(devices)]), range(len(items))))


class CompiledOnce:
    """A pmapped function that threads can call at once: each shape of arguments compiles once."""

    def __init__(self, run: Any):
        self.run, self.lock, self.programs = run, threading.Lock(), {}

    def __call__(self, *args):
        return self._program(args)(*args)

    def bytes(self, *args) -> int:
        """What a device needs for the call: arguments, results and what lies between."""
        found = self._program(args).memory_analysis()
        held = found.argument_size_in_bytes + found.output_size_in_bytes
        return held + found.temp_size_in_bytes - found.alias_size_in_bytes

    def _program(self, args):
        key = str(jax.tree.map(lambda x: (np.shape(x), str(x.dtype)), args))
        with self.lock:
            if key not in self.programs:
                self.programs[key] = self.run.lower(*args).compile()
        return self.programs[key]


def at_a_time() -> int:
    """Small steps leave cores idle that a second program can use; accelerators queue anyway."""
    return 2 if jax.default_backend() == "cpu" else 1


def _stacked(trees: list):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


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
    asked = deque()

    def poll(value: int) -> int:
        asked.append(largest(np.full(jax.local_device_count(), value, np.int32)))
        return int(asked.popleft()) if len(asked) > lag else 0

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

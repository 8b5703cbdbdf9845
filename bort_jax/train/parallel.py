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
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.experimental import multihost_utils

from bort_jax.train.optimizer import Hyper, learning_rate, limited, make_optimizer

AXIS = "data"
LAG = 2


class State(NamedTuple):
    """All that training changes, and the hyperparameters as arrays.

    Attributes:
      step: int32, steps done.
      params: float32 tree.
      opt_state: optax's.
      hyper: traced, so that one compiled step serves every hyperparameter set.
    """

    step: Any
    params: Any
    opt_state: Any
    hyper: Hyper


def new_state(params, hyper: Hyper, *, optimizer: str, clip: float) -> State:
    """A state at step 0, in numpy."""
    transform = make_optimizer(optimizer, hyper, rate=0.0, clip=clip)
    opt_state = jax.tree.map(np.asarray, transform.init(params))
    return State(np.int32(0), params, opt_state, hyper)


def parallel_step(
    loss_fn: Callable, *, optimizer: str, clip: float, clip_weights: float | None = None
) -> Callable:
    """Builds `step(state, frozen, batch, key) -> (state, metrics)` over all devices.

    Sums and counts are added over devices before the one division, in the loss and in its
    gradient: a mean of per-device means is wrong where devices hold different counts.

    Args:
      loss_fn: `(params, frozen, batch, key) -> sums`, a dict of scalars with at least `loss`
        and `count`; the mean loss `loss / count` is what is minimised.
      optimizer: `adamw` or `lamb`.
      clip: largest global norm of the gradient.
      clip_weights: largest weight after a step; None: no limit.

    Returns:
      a function whose `batch` is the host's, [b, ...] with b a multiple of the local devices,
      and whose metrics are the sums divided by the count, and `grad_norm`, `learning_rate`.
    """

    def step(state: State, frozen, batch, key):
        # Each device drops other units; each step too, with no key in the checkpoint.
        key = jax.random.fold_in(jax.random.fold_in(key, state.step), jax.lax.axis_index(AXIS))

        def summed(params):
            sums = loss_fn(params, frozen, batch, key)
            return sums["loss"], sums

        grads, sums = jax.grad(summed, has_aux=True)(state.params)
        grads, sums = jax.lax.psum((grads, sums), AXIS)
        grads = jax.tree.map(lambda g: g / sums["count"], grads)
        metrics = {name: total / sums["count"] for name, total in sums.items() if name != "count"}
        rate = learning_rate(state.hyper, state.step)
        transform = make_optimizer(optimizer, state.hyper, rate=rate, clip=clip)
        updates, opt_state = transform.update(grads, state.opt_state, state.params)
        metrics |= {"grad_norm": optax.global_norm(grads), "learning_rate": rate}
        params = limited(optax.apply_updates(state.params, updates), clip_weights)
        return State(state.step + 1, params, opt_state, state.hyper), metrics

    run = jax.pmap(
        step, axis_name=AXIS, in_axes=(None, None, 0, None), out_axes=None, donate_argnums=0
    )

    def stepped(state: State, frozen, batch, key):
        # A host's arrays would compile a second program, beside the one for its own results.
        state = replicate(state) if isinstance(state.step, np.generic | np.ndarray) else state
        return run(state, frozen, shard(batch), key)

    return stepped


def parallel_map(fn: Callable) -> Callable:
    """Maps `fn(params, batch) -> tree of [b, ...]` over the devices' shares of a batch."""
    run = jax.pmap(fn, in_axes=(None, 0))

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
    run = compiled_once(jax.pmap(fn, in_axes=(0, 0, None), devices=devices, donate_argnums=0))

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
        with ThreadPoolExecutor(_at_a_time()) as pool:
            return [ended for part in pool.map(group, starts) for ended in part][: len(members)]

    return fold


def on_devices(fn: Callable, items: Sequence) -> list:
    """[fn(item, device), …] in threads, one a device or more: while one compiles another runs."""
    devices = jax.local_devices()
    with ThreadPoolExecutor(max(len(devices), _at_a_time())) as pool:
        return list(pool.map(lambda k: fn(items[k], devices[k % len(devices)]), range(len(items))))


def compiled_once(run: Any) -> Callable:
    """A pmapped function that threads can call at once: each shape of arguments compiles once."""
    lock, programs = threading.Lock(), {}

    def call(*args):
        key = str(jax.tree.map(lambda x: (np.shape(x), np.result_type(x)), args))
        with lock:
            if key not in programs:
                programs[key] = run.lower(*args).compile()
        return programs[key](*args)

    return call


def _at_a_time() -> int:
    """Small steps leave cores idle that a second program can use; accelerators queue anyway."""
    return 2 if jax.default_backend() == "cpu" else 1


def _stacked(trees: list):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def replicate(tree):
    """Puts a host tree on every local device once, in the form that `parallel_step` takes."""
    return jax.pmap(lambda tree, _: tree, in_axes=(None, 0), out_axes=None)(
        tree, np.zeros(jax.local_device_count())
    )


def is_leader() -> bool:
    """Whether this is the one process that writes files other than orbax's."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Waits until every process is here; nothing with one process."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def leader_first(make: Callable) -> Any:
    """Calls `make` in the leader, then in the others, which find what it wrote.

    Raises:
      RuntimeError: in the others, where it raised in the leader.
    """
    made, failure = None, None
    if is_leader():
        try:
            made = make()
        except Exception as error:
            failure = error
    went_well = from_leader(failure is None)
    if failure:
        raise failure
    if not went_well:
        raise RuntimeError("the first process failed; its message says why")
    return made if is_leader() else make()


def from_leader(value: int) -> int:
    """The leader's value, in every process."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


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

# SPDX-License-Identifier: Apache-2.0
"""One loss curve on 1, 2 and 4 devices of a host and in 2 processes, and what the wrapper costs.

python tools/bench_scaling.py CORPUS                  # as `bort-jax data build` wrote it

Rows end with their documents, so the shares of a batch hold different numbers of masked tokens.
Every layout is the ordinary command; the exit status is 1 where a curve differs by more than
TOLERANCE.
"""

import argparse
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import jax
import numpy as np
import optax

from bort_jax.engine.loop import read_metrics
from bort_jax.engine.optimizer import clip_scale, learning_rate, make_optimizer
from bort_jax.engine.schedule import Steps
from bort_jax.engine.step import State
from bort_jax.stages.pretrain.config import PretrainConfig
from bort_jax.stages.pretrain.objectives import masked_lm_loss
from bort_jax.stages.pretrain.run import setup_of
from bort_jax.stages.pretrain.setup import Setup
from bort_jax.stages.pretrain.training import batches

TOLERANCE = 1e-5
REPEATS = 24


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--steps", type=int, default=30)
    given = parser.parse_args()
    config = PretrainConfig(
        data=str(given.corpus),
        out="",
        arch="D2-A4-H64-I128",
        steps=given.steps,
        batch_size=16,
        seq_len=64,
        positions=64,
        packing="documents",
        dropout=0.0,
        learning_rate=1e-3,
        log_every=1,
        eval_rows=16,
    )
    wrapper(config)
    raise SystemExit(curves(config))


def curves(config: PretrainConfig) -> int:
    """Trains in every layout; 0 if all loss curves are one."""
    layouts = {
        "1 device": (1, 1, 1),
        "2 devices": (2, 1, 1),
        "4 devices": (4, 1, 1),
        "1 device, 4 micro-batches": (1, 1, 4),
        "2 processes of 1 device": (1, 2, 1),
        "2 processes of 2 devices": (2, 2, 1),
    }
    largest, first = 0.0, None
    with TemporaryDirectory() as folder:
        for k, (name, (*devices, parts)) in enumerate(layouts.items()):
            wanted = replace(config, out=f"{folder}/{k}", accumulation_steps=parts)
            losses = trained(wanted, *devices)
            first = losses if first is None else first
            difference = float(np.abs(losses - first).max())
            largest = max(largest, difference)
            line = f"largest difference of {len(first)} losses: {difference:.1e}"
            print(f"{name:28} {line}", flush=True)
    return int(largest > TOLERANCE)


def trained(config: PretrainConfig, devices: int, processes: int) -> np.ndarray:
    """The losses of the ordinary command with so many devices in each of so many processes."""
    options = [f"--{name}={value}" for name, value in vars(config).items() if value is not None]
    command = [sys.executable, "-m", "bort_jax.cli", "pretrain", *options]
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    coordinator = f"--coordinator=127.0.0.1:{free_port()}"
    ranks = [
        [coordinator, f"--processes={processes}", f"--process={k}"] if processes > 1 else []
        for k in range(processes)
    ]
    running = [
        subprocess.Popen(
            [*command, *rank],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ranks
    ]
    for process in running:
        _, errors = process.communicate()
        if process.returncode:
            raise SystemExit(errors)
    return np.array([record["loss"] for record in read_metrics(Path(config.out))])


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def wrapper(config: PretrainConfig) -> None:
    """A step through `parallel_step` on one device beside a bare `jax.jit` of the same sums."""
    if jax.local_device_count() > 1:
        print("the wrapper's cost is measured on one device: skipped")
        return
    with TemporaryDirectory() as folder:
        setup = setup_of(replace(config, out=folder))
        endless = Steps(REPEATS, done=0)
        items = list(islice(batches(setup.stream, start=0, horizon=endless), REPEATS))
    start = jax.tree.map(jax.numpy.array, setup.new_state())
    runs = {"bare jit": (bare_step(setup), start), "parallel": (setup.step(), setup.new_state())}
    times = interleaved(runs, items)
    for name, seconds in times.items():
        print(f"{name:28} {1e3 * np.median(seconds):.2f} ms a step, median of {len(seconds)}")
    over = np.median(np.array(times["parallel"]) - np.array(times["bare jit"]))
    share = over / np.median(times["bare jit"])
    print(f"{'wrapper':28} {1e6 * over:.0f} µs more, {100 * share:.1f} % of a step")


def bare_step(setup: Setup) -> Callable:
    """The same loss, key and update without guard, devices and clock."""
    recipe, loss_fn = setup.recipe, masked_lm_loss(setup.model)
    key = jax.random.key(recipe.seed)

    def step(state: State, batch):
        def summed(params):
            sums = loss_fn(params, (), batch, jax.random.fold_in(key, state.step))
            return sums["loss"], sums

        grads, sums = jax.grad(summed, has_aux=True)(state.params)
        grads = jax.tree.map(lambda g: g / sums["count"], grads)
        rate = learning_rate(state.hyper, state.step)
        scale = clip_scale(optax.global_norm(grads), recipe.clip)
        transform = make_optimizer(recipe.optimizer, state.hyper, rate=rate, scale=scale)
        updates, opt_state = transform.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {name: total / sums["count"] for name, total in sums.items()}
        return state._replace(step=state.step + 1, params=params, opt_state=opt_state), metrics

    return jax.jit(step, donate_argnums=0)


def interleaved(runs: dict, items: Sequence) -> dict[str, list[float]]:
    """Seconds of each run's step on each batch but the first, which compiles."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    states = {name: state for name, (_, state) in runs.items()}
    for item in items:
        for name, (step, _) in runs.items():
            begun = time.perf_counter()
            states[name], metrics = step(states[name], item)
            jax.block_until_ready((states[name], metrics))
            times[name].append(time.perf_counter() - begun)
    return {name: seconds[2:] for name, seconds in times.items()}


if __name__ == "__main__":
    main()

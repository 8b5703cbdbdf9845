# SPDX-License-Identifier: Apache-2.0
"""The one training loop, and the hooks that watch it."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import jax

from bort_jax.engine.step import State

Hook = Callable[[int, State, dict], None]


def fit(state: State, batches: Iterable, *, step_fn: Callable, hooks: Iterable[Hook] = ()) -> State:
    """Runs `step_fn(state, batch) -> (state, metrics)` over the batches.

    Args:
      state: its `step` counts on from where it stands.
      batches: dicts of arrays.
      hooks: called with (steps done, state, metrics) after every step, in order; the metrics are
        device scalars, so that looking at them costs a wait, and not looking costs nothing.
    """
    hooks = tuple(hooks)
    for step, batch in enumerate(batches, start=int(state.step) + 1):
        state, metrics = step_fn(state, batch)
        if jax.default_backend() == "cpu":
            # More than 32 un-awaited steps deadlock the collectives of several host devices.
            jax.block_until_ready(metrics)
        for hook in hooks:
            hook(step, state, metrics)
    return state


class Diverged(ValueError):
    """Too many steps in a row had no finite loss and gradient."""


class Guard:
    """Stops a run in which `most` steps in a row, or more, were skipped; looks every `every`."""

    def __init__(self, most: int, *, every: int):
        self.most, self.every = most, every

    def __call__(self, step: int, state: State, metrics: dict) -> None:
        if step % self.every or (in_a_row := int(metrics["in_a_row"])) < self.most:
            return
        raise Diverged(
            f"neither loss nor gradient was finite in batches {step - in_a_row} to {step - 1}, "
            f"{in_a_row} in a row; the weights are as before them. A lower learning_rate may "
            "help, or float32"
        )


class Trace:
    """Writes a profile of LENGTH steps, after AFTER, for TensorBoard or Perfetto."""

    AFTER, LENGTH = 10, 5

    def __init__(self, folder: Path, *, start: int):
        self.folder, self.begin, self.running = folder, start + self.AFTER, False

    def __call__(self, step: int, state: State, metrics: dict) -> None:
        if step == self.begin:
            jax.block_until_ready(metrics)
            jax.profiler.start_trace(str(self.folder))
            self.running = True
        elif step == self.begin + self.LENGTH:
            jax.block_until_ready(metrics)
            self.close()

    def close(self) -> None:
        if self.running:
            jax.profiler.stop_trace()
            self.running = False


def read_metrics(folder: Path) -> list[dict]:
    """The records of `metrics.jsonl`; a line that a kill cut short is left out."""
    file, records = folder / "metrics.jsonl", []
    for line in file.read_text().splitlines() if file.exists() else []:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records

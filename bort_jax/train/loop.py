# SPDX-License-Identifier: Apache-2.0
"""The one training loop, and the hooks that watch it."""

import json
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import jax
from tqdm import tqdm

from bort_jax.train.parallel import State

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


class Reporter:
    """Progress bar, JSON lines and TensorBoard, every `every` steps and at the last."""

    def __init__(
        self, folder: Path, *, start: int, total: int, every: int, tokens: int, title: str
    ):
        from tensorboardX import SummaryWriter

        folder.mkdir(parents=True, exist_ok=True)
        _forget_after(folder / "metrics.jsonl", start)
        self.lines = (folder / "metrics.jsonl").open("a", buffering=1)
        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1)
        # Into a file a line every ten seconds is enough.
        seconds = 0.1 if sys.stderr.isatty() else 10
        self.bar = tqdm(total=total, initial=start, desc=title, unit="step", mininterval=seconds)
        self.total, self.every, self.tokens = total, every, tokens
        self.time, self.done = time.monotonic(), start

    def __call__(self, step: int, state: State, metrics: dict) -> None:
        self.bar.update()
        if step % self.every and step != self.total:
            return
        values = {name: float(value) for name, value in metrics.items()}
        now = time.monotonic()
        values["tokens_per_second"] = (step - self.done) * self.tokens / (now - self.time)
        self.time, self.done = now, step
        self.record(step, values)
        self.bar.set_postfix_str(
            f"loss {values['loss']:.3f}, {values['tokens_per_second']:,.0f} tokens/s", refresh=False
        )

    def record(self, step: int, values: dict[str, float]) -> None:
        self.lines.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self.board.add_scalar(name, value, step)

    def close(self) -> None:
        self.bar.close()
        self.lines.close()
        self.board.close()


def read_metrics(folder: Path) -> list[dict]:
    """The records of `metrics.jsonl`; a line that a kill cut short is left out."""
    file, records = folder / "metrics.jsonl", []
    for line in file.read_text().splitlines() if file.exists() else []:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records


def _forget_after(file: Path, step: int) -> None:
    """Drops the records of steps that will be run again."""
    kept = [record for record in read_metrics(file.parent) if record["step"] <= step]
    partial = file.with_name(file.name + ".partial")
    partial.write_text("".join(json.dumps(record) + "\n" for record in kept))
    partial.replace(file)  # a kill in between keeps the records there were

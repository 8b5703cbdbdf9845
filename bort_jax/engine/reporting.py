# SPDX-License-Identifier: Apache-2.0
"""The reports of a run: a bar or lines of text, JSON lines, TensorBoard."""

import json
import math
import sys
import time
from datetime import timedelta
from pathlib import Path

import jax
from tqdm import tqdm

from bort_jax.engine.loop import read_metrics
from bort_jax.engine.schedule import Horizon, Steps
from bort_jax.engine.step import State
from bort_jax.engine.throughput import Meter
from bort_jax.storage.files import write_text

SECONDS = 10.0  # between two lines of text: into a file this is enough


class Records:
    """`metrics.jsonl` and TensorBoard in a run's folder; those of steps to come are forgotten."""

    def __init__(self, folder: Path, *, start: int):
        from tensorboardX import SummaryWriter

        folder.mkdir(parents=True, exist_ok=True)
        _forget_after(folder / "metrics.jsonl", start)
        self.lines = (folder / "metrics.jsonl").open("a", buffering=1)
        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1)

    def add(self, step: int, values: dict[str, float]) -> None:
        # JSON has no NaN.
        plain = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self.lines.write(json.dumps({"step": step, **plain}) + "\n")
        for name, value in values.items():
            self.board.add_scalar(name, value, step)

    def close(self) -> None:
        self.lines.close()
        self.board.close()


class Reporter:
    """The hook that records and shows a run every `every` steps and at the last."""

    def __init__(
        self,
        records: Records,
        meter: Meter,
        horizon: Horizon,
        *,
        every: int,
        shown: "Bar | Lines",
    ):
        self.records, self.meter, self.horizon, self.every = records, meter, horizon, every
        self.shown = shown
        self.pace = 0.0

    def __call__(self, step: int, state: State, metrics: dict) -> None:
        self.shown.advance()
        if step % self.every and not self.horizon.over and "heldout_loss" not in metrics:
            return
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        values |= self.meter.lap()
        self.pace = values.get("seconds_per_step", self.pace)
        left = self.horizon.seconds_left(step, self.pace)
        self.records.add(step, values | {"seconds_left": left})
        self.shown.show(step, summary(values), left)

    def close(self) -> None:
        self.shown.close()


def summary(values: dict[str, float]) -> str:
    """One line: the loss and its parts, the rate, and how fast it goes."""
    shown = [f"loss {values['loss']:.3f}"]
    for name in ("mlm", "distillation", "hidden"):
        if name in values and values["loss"] != values[name]:
            shown.append(f"{name} {values[name]:.3f}")
    if "heldout_loss" in values:
        shown.append(f"held-out loss {values['heldout_loss']:.3f}")
    shown.append(f"rate {values['learning_rate']:.1e}")
    if values["skipped"]:
        shown.append(f"{values['skipped']:.0f} skipped")
    if "tokens_per_second" in values:
        shown.append(f"{values['tokens_per_second']:,.0f} tokens/s")
        shown.append(f"MFU {100 * values['mfu']:.1f} %" if "mfu" in values else "MFU unknown")
    return ", ".join(shown)


class Bar:
    """In a terminal."""

    def __init__(self, title: str, total: int | None, start: int):
        self.bar = tqdm(total=total, initial=start, desc=title, unit="step")

    def advance(self) -> None:
        self.bar.update()

    def show(self, step: int, text: str, left: float) -> None:
        self.bar.set_postfix_str(text, refresh=False)

    def close(self) -> None:
        self.bar.close()


class Lines:
    """Where stderr is no terminal: a line of text every SECONDS, and the first and last."""

    def __init__(self, title: str, horizon: Horizon):
        self.title, self.horizon, self.said = title, horizon, -math.inf

    def advance(self) -> None:
        pass

    def show(self, step: int, text: str, left: float) -> None:
        if time.monotonic() - self.said < SECONDS and not self.horizon.over:
            return
        self.said = time.monotonic()
        ahead = f"{timedelta(seconds=round(left))} left"
        print(
            f"{self.title}: {self.horizon.progress(step)}, {text}, {ahead}",
            file=sys.stderr,
            flush=True,
        )

    def close(self) -> None:
        pass


def display(title: str, horizon: Horizon, start: int) -> Bar | Lines:
    if sys.stderr.isatty():
        return Bar(title, horizon.total if isinstance(horizon, Steps) else None, start)
    return Lines(title, horizon)


def _forget_after(file: Path, step: int) -> None:
    """Drops the records of steps that will be run again."""
    kept = [record for record in read_metrics(file.parent) if record["step"] <= step]
    write_text(file, "".join(json.dumps(record) + "\n" for record in kept))

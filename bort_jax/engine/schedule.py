# SPDX-License-Identifier: Apache-2.0
"""When a run ends: after its steps, or when its time is used up. The learning rate follows.

Either is the first hook of a loop; `over` is true from the run's last step on, and `clock` is
what `parallel_step` takes.
"""

import time
from collections.abc import Callable

import jax

# Read through this name, so that a test can bring its own time.
monotonic = time.monotonic


class Steps:
    """A run of `total` steps, of which `done` are done."""

    clock = None

    def __init__(self, total: int, *, done: int):
        self.total, self.over = total, done >= total

    def __call__(self, step: int, state, metrics: dict) -> None:
        self.over = step >= self.total

    def seconds_left(self, step: int, seconds_per_step: float) -> float:
        """Seconds to the end, at this pace."""
        return max(self.total - step, 0) * seconds_per_step

    def progress(self, step: int) -> str:
        return f"step {step:,}/{self.total:,}"


class Time:
    """A run of `total` seconds, of which `used` were used before it went on at `began`.

    The seconds are those that the devices agreed on, so that every process ends after the same
    step. Reading them waits for the step: where steps are not awaited anyway, this is done every
    `every` steps.
    """

    def __init__(self, total: float, *, used: float, began: float, every: int):
        self.total, self.used, self.began, self.every = total, used, began, every
        self.over = used >= total

    @property
    def clock(self) -> Callable[[], float]:
        return self.now

    def now(self) -> float:
        """Seconds used, over all resumptions."""
        return self.used + monotonic() - self.began

    def __call__(self, step: int, state, metrics: dict) -> None:
        if step % self.every == 0 or jax.default_backend() == "cpu":
            self.over = float(metrics["seconds"]) >= self.total

    def seconds_left(self, step: int, seconds_per_step: float) -> float:
        return max(self.total - self.now(), 0.0)

    def progress(self, step: int) -> str:
        return f"step {step:,}, {100 * min(self.now() / self.total, 1):.1f} % of the time"


Horizon = Steps | Time

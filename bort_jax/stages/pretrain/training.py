# SPDX-License-Identifier: Apache-2.0
"""The loop of a pretraining, from its newest checkpoint to its last scores."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import jax

from bort_jax.engine.checkpoint import Checkpoints
from bort_jax.engine.loop import Guard, Hook, Trace, fit
from bort_jax.engine.peaks import peak_flops
from bort_jax.engine.processes import barrier, is_leader
from bort_jax.engine.reporting import Records, Reporter, display
from bort_jax.engine.schedule import Horizon
from bort_jax.engine.signals import Interrupted, Stopping, StopRequest, stop_signals
from bort_jax.engine.step import State
from bort_jax.engine.throughput import Meter, step_flops
from bort_jax.engine.watchdog import Watchdog
from bort_jax.interop import Checkpoint
from bort_jax.stages.predict.mlm_scores import MlmScores, mlm_scores
from bort_jax.stages.pretrain.objectives import Stream
from bort_jax.stages.pretrain.recipe import Pacing
from bort_jax.stages.pretrain.setup import Setup


def train(
    setup: Setup,
    pacing: Pacing,
    out: Path,
    dog: Watchdog,
    *,
    began: float,
    hooks: Sequence[Hook] = (),
    profile: bool = False,
) -> tuple[State, MlmScores]:
    """Trains from the newest checkpoint in `OUT/checkpoints`, or from the start.

    Args:
      began: when the run's time began to count, by `schedule.monotonic`.
      hooks: called last after every step.
      profile: whether to write a trace of some steps to `OUT/profile`.

    Raises:
      Diverged: too many steps in a row without a finite loss and gradient.
      Interrupted: a signal came; the state was saved.
      OSError: a checkpoint could not be written.
    """
    checkpoints = Checkpoints(
        out / "checkpoints",
        identity={**setup.run_key, "teacher": setup.teacher_sha256},
        keep=pacing.keep,
        keep_best=pacing.keep_best,
    )
    state = setup.new_state()
    state = checkpoints.restore(state) or state
    start = int(state.step)
    horizon, meter = pacing.horizon(state, began=began), meter_of(setup)
    with stop_signals() as stop, closing(checkpoints), ExitStack() as stack:
        score = heldout_score(setup, rows=pacing.eval_rows, between=stop.check)
        evaluation = Evaluation(score, horizon, meter, dog, every=pacing.eval_every)
        guard = Guard(pacing.most_skipped, every=pacing.log_every)
        every: list[Hook] = [horizon, guard, evaluation]
        if is_leader():
            records = stack.enter_context(closing(Records(out, start=start)))
            title = f"pretrain {setup.model.config.arch}"
            shown = stack.enter_context(closing(display(title, horizon, start)))
            every.append(Reporter(records, meter, horizon, every=pacing.log_every, shown=shown))
        if is_leader() and profile:
            every.append(stack.enter_context(closing(Trace(out / "profile", start=start))))
        every.append(Saver(checkpoints, pacing.save_every, horizon, stop, dog))
        items = meter.watch(batches(setup.stream, start=start, horizon=horizon))
        step_fn = dog.watch_steps(setup.step(clock=horizon.clock), start=start)
        state = fit(state, items, step_fn=step_fn, hooks=(*every, *hooks))
        dog.begin(int(state.step), "ending")
        scores = evaluation.scores or evaluation.measure(state)
        if scores is None:
            raise Interrupted(int(state.step), stop.agreed)
    return state, scores


def meter_of(setup: Setup) -> Meter:
    student, teacher = setup.model.config, setup.teacher.config if setup.teacher else None
    return Meter(step_flops(student, teacher), peak_flops())


def heldout_score(
    setup: Setup, *, rows: int, between: Callable[[], object]
) -> Callable[[Any], MlmScores]:
    """Builds `params -> scores` on held-out text; `between` is called between its batches."""
    return mlm_scores(
        setup.model,
        setup.corpus.heldout,
        rows=rows,
        seq_len=setup.stream.seq_len,
        teacher=comparable(setup.teacher),
        between=between,
    )


def comparable(teacher: Checkpoint | None) -> Checkpoint | None:
    """The teacher, if it has a distribution to compare the student's with."""
    if teacher is None or teacher.head != "masked_lm":
        return None
    # As it is run for training: rows of running text are no pairs.
    return replace(teacher, config=replace(teacher.config, separator=None))


class Evaluation:
    """The hook that adds held-out scores to a step's metrics, now and then and at the last."""

    def __init__(
        self,
        score: Callable[[Any], MlmScores],
        horizon: Horizon,
        meter: Meter,
        dog: Watchdog,
        *,
        every: int,
    ):
        self.score, self.horizon, self.meter, self.every = score, horizon, meter, every
        self.dog = dog
        self.scores: MlmScores | None = None

    def __call__(self, step: int, state: State, metrics: dict) -> None:
        if step % self.every and not self.horizon.over:
            return
        self.scores = self.measure(state)
        if self.scores:
            scores = self.scores.as_dict() | {"accuracy": self.scores.accuracy}
            metrics |= {f"heldout_{name}": value for name, value in scores.items()}

    def measure(self, state: State) -> MlmScores | None:
        """None where a request to stop came first."""
        with self.meter.pause(), self.dog.during("evaluating"):
            try:
                return self.score(state.params)
            except Stopping:
                return None


def batches(stream: Stream, *, start: int, horizon: Horizon) -> Iterator[dict]:
    """This host's part of the batches from `start` to the end of the run."""
    part = {"host": jax.process_index(), "hosts": jax.process_count()}
    with ThreadPoolExecutor(1) as pool:  # the next is made while the devices are at this one
        coming = pool.submit(stream.batch, start, **part)
        for index in count(start + 1):
            if horizon.over:
                return
            batch = coming.result()
            coming = pool.submit(stream.batch, index, **part)
            yield batch


class Saver:
    """Saves every `save_every` steps, at the last, and before giving way to a signal."""

    def __init__(
        self,
        checkpoints: Checkpoints,
        every: int,
        horizon: Horizon,
        stop: StopRequest,
        dog: Watchdog,
    ):
        self.checkpoints, self.every, self.horizon = checkpoints, every, horizon
        self.stop, self.dog = stop, dog

    def __call__(self, step: int, state: State, metrics: dict) -> None:
        signum = self.stop.poll()
        self.checkpoints.check()
        if step % self.every == 0 or self.horizon.over or signum:
            with self.dog.during("saving"):
                self.checkpoints.save(step, state, heldout_loss=metrics.get("heldout_loss"))
        if signum:
            with self.dog.during("saving"):
                self.checkpoints.wait()
                barrier("stopped")  # who leaves first would count as dead
            raise Interrupted(step, signum)

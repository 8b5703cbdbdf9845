# SPDX-License-Identifier: Apache-2.0
"""Pretraining: masked LM, alone or with distillation from a teacher on the same batch."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import jax

from bort_jax.engine import schedule
from bort_jax.engine.checkpoint import Checkpoints
from bort_jax.engine.loop import Guard, Hook, Trace, fit
from bort_jax.engine.processes import barrier, is_leader, leader_first
from bort_jax.engine.reporting import Records, Reporter, display
from bort_jax.engine.schedule import Horizon, Steps, Time
from bort_jax.engine.signals import Interrupted, Stopping, StopRequest, stop_signals
from bort_jax.engine.step import State
from bort_jax.engine.throughput import Meter, peak, step_flops
from bort_jax.engine.watchdog import Watchdog, ending_together
from bort_jax.interop import Checkpoint, save
from bort_jax.stages.predict.mlm_scores import MlmScores, mlm_scores
from bort_jax.stages.pretrain.config import FREE, HOUR, PretrainConfig, check
from bort_jax.stages.pretrain.objectives import Stream, without_map
from bort_jax.stages.pretrain.stage import Stage, trained_checkpoint
from bort_jax.storage.run_folder import claim, full_disk_named, read_json, write_json

SCORES = "scores.json"


def pretrain(config: PretrainConfig, *, profile: bool = False) -> MlmScores:
    """Runs, or resumes, a pretraining; writes `OUT/model` and `OUT/scores.json`.

    Args:
      profile: whether to write a trace of some steps to `OUT/profile`.

    Raises:
      RunMismatch: OUT holds a run of another configuration.
      ValueError: rows longer than the positions, a teacher of another vocabulary, an unknown
        optimizer or dtype, a batch that the devices cannot share.
      Diverged: too many steps in a row without a finite loss and gradient.
      Interrupted: a signal came; the state was saved, and the same call resumes.
      OSError: the disk is full, say; what was saved stays.
    """
    began = schedule.monotonic()
    check(config)
    out = Path(config.out)
    leader_first(lambda: claim(out, config, free=FREE))
    if (out / SCORES).is_file():  # written last: there is nothing left to do
        return MlmScores(**read_json(out / SCORES, remedy="delete it, and the run ends again"))
    with ending_together(out) as dog, full_disk_named(out):
        stage = Stage.of(config)
        state, scores = train(stage, dog, began=began, profile=profile)
        if is_leader():
            save(finished(stage, state, scores), out / "model")
            write_json(out / SCORES, scores.measured())
        barrier("finished")
    return scores


def finished(stage: Stage, state: State, scores: MlmScores) -> Checkpoint:
    """The trained model, and what its card says."""
    return trained_checkpoint(
        stage.model,
        without_map(jax.device_get(state.params)),
        stage.start,
        tokenizer=stage.corpus.tokenizer,
        facts=card_facts(stage.config, scores, steps=int(state.step)),
    )


def card_facts(config: PretrainConfig, scores: MlmScores, *, steps: int) -> dict[str, str]:
    """What the model card says of a run."""
    taught_by = config.teacher or config.teacher_cache
    teacher = {"teacher": Path(taught_by).name} if taught_by else {}
    start = {"started from": Path(config.init_from).name} if config.init_from else {}
    rows = f"{config.batch_size} rows of {config.seq_len} tokens"
    return {
        "data": Path(config.data).name,
        "pretrained": f"{steps:,} steps of {rows}",
        **start,
        **teacher,
        "held-out loss": f"{scores.loss:.3f} nats a masked token",
        "held-out error": f"{100 * scores.error:.1f} % of the masked tokens",
    }


def train(stage: Stage, dog: Watchdog, *, began: float, profile: bool) -> tuple[State, MlmScores]:
    """The loop of `pretrain`, from the newest checkpoint in `OUT/checkpoints` or from the start."""
    config, out = stage.config, Path(stage.config.out)
    state = stage.new_state()
    checkpoints = Checkpoints(
        out / "checkpoints",
        identity=stage.identity,
        keep=config.keep,
        keep_best=config.keep_best,
    )
    state = checkpoints.restore(state) or state
    start = int(state.step)
    horizon = horizon_of(config, state, began=began)
    meter = meter_of(stage)
    with stop_signals() as stop, closing(checkpoints), ExitStack() as stack:
        score = scorer(stage, between=stop.check)
        evaluation = Evaluation(score, horizon, meter, dog, every=config.eval_every)
        hooks: list[Hook] = [horizon, Guard(config.most_skipped, every=config.log_every)]
        hooks.append(evaluation)
        if is_leader():
            records = stack.enter_context(closing(Records(out, start=start)))
            shown = stack.enter_context(closing(display(f"pretrain {config.arch}", horizon, start)))
            hooks.append(Reporter(records, meter, horizon, every=config.log_every, shown=shown))
        if is_leader() and profile:
            hooks.append(stack.enter_context(closing(Trace(out / "profile", start=start))))
        hooks.append(Saver(checkpoints, config.save_every, horizon, stop, dog))
        items = meter.watch(batches(stage.stream, start=start, horizon=horizon))
        step_fn = dog.watched(stage.step(clock=horizon.clock), start=start)
        state = fit(state, items, step_fn=step_fn, hooks=hooks)
        dog.begins(int(state.step), "ending")
        scores = evaluation.scores or evaluation.measure(state)
        if scores is None:
            raise Interrupted(int(state.step), stop.agreed)
    return state, scores


def horizon_of(config: PretrainConfig, state: State, *, began: float) -> Horizon:
    """The end of the run; time is counted from `began`, on top of what `state` has used."""
    if config.hours is None:
        return Steps(config.steps, done=int(state.step))
    used = float(state.seconds)
    return Time(config.hours * HOUR, used=used, began=began, every=config.log_every)


def meter_of(stage: Stage) -> Meter:
    teacher = stage.teacher.config if stage.teacher else None
    return Meter(step_flops(stage.model.config, teacher), peak(stage.config.dtype))


def scorer(stage: Stage, *, between: Callable[[], object]) -> Callable[[Any], MlmScores]:
    config = stage.config
    return mlm_scores(
        stage.model,
        stage.corpus.heldout,
        rows=config.eval_rows,
        seq_len=config.seq_len,
        teacher=predicting(stage.teacher),
        between=between,
    )


def predicting(teacher: Checkpoint | None) -> Checkpoint | None:
    """The teacher, if there is a distribution to compare the student's with."""
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
            scores = self.scores.measured() | {"accuracy": self.scores.accuracy}
            metrics |= {f"heldout_{name}": value for name, value in scores.items()}

    def measure(self, state: State) -> MlmScores | None:
        """None where a request to stop came first."""
        with self.meter.paused(), self.dog.phase_of("evaluating"):
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
            with self.dog.phase_of("saving"):
                self.checkpoints.save(step, state, heldout_loss=metrics.get("heldout_loss"))
        if signum:
            with self.dog.phase_of("saving"):
                self.checkpoints.wait()
                barrier("stopped")  # who leaves first would count as dead
            raise Interrupted(step, signum)

# SPDX-License-Identifier: Apache-2.0
"""Pretraining: masked LM, alone or with distillation from a teacher on the same batch."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from itertools import count
from pathlib import Path
from typing import Any

import jax

from bort_jax.data.masking import MaskedStream
from bort_jax.data.prepared import Corpus
from bort_jax.interop import Checkpoint, save
from bort_jax.train import schedule
from bort_jax.train.checkpoint import Checkpoints
from bort_jax.train.evaluation import MlmScores, mlm_scores
from bort_jax.train.loop import Guard, Hook, Trace, fit
from bort_jax.train.parallel import State, is_leader, leader_first
from bort_jax.train.pretrain_config import HOUR, PretrainConfig, check
from bort_jax.train.reporting import Records, Reporter, display
from bort_jax.train.run_folder import claim, write_json
from bort_jax.train.schedule import Horizon, Steps, Time
from bort_jax.train.signals import Interrupted, StopRequest, stop_signals
from bort_jax.train.stage import Stage, identity
from bort_jax.train.throughput import Meter, peak, step_flops


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
    """
    began = schedule.monotonic()
    check(config)
    out = Path(config.out)
    leader_first(lambda: claim(out, config))
    if (out / "scores.json").is_file():  # written last: there is nothing left to do
        return MlmScores(**json.loads((out / "scores.json").read_text()))
    stage = Stage.of(config)
    state, scores = train(stage, began=began, profile=profile)
    if is_leader():
        save(finished(stage, state, scores), out / "model")
        write_json(out / "scores.json", scores.plain())
    return scores


def finished(stage: Stage, state: State, scores: MlmScores) -> Checkpoint:
    """The trained model, in the family of what it started from."""
    family = stage.start.family if stage.start else "bert"
    facts = card_facts(stage.config, scores, steps=int(state.step))
    params = jax.device_get(state.params)
    done = Checkpoint(stage.model.config, params, family=family, facts=facts)
    return done.with_tokenizer(stage.corpus.tokenizer, source=stage.config.out)


def card_facts(config: PretrainConfig, scores: MlmScores, *, steps: int) -> dict[str, str]:
    """What the model card says of a run."""
    teacher = {"teacher": Path(config.teacher).name} if config.teacher else {}
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


def train(stage: Stage, *, began: float, profile: bool) -> tuple[State, MlmScores]:
    """The loop of `pretrain`, from the newest checkpoint in `OUT/checkpoints` or from the start."""
    config, out = stage.config, Path(stage.config.out)
    state = stage.new_state()
    checkpoints = Checkpoints(out / "checkpoints", identity=identity(config, stage.corpus))
    restored = checkpoints.restore(state)
    state = restored.state if restored else state
    start = int(state.step)
    horizon = horizon_of(config, state, began=began)
    meter = meter_of(stage)
    evaluation = Evaluation(scorer(stage), horizon, meter, every=config.eval_every)
    with stop_signals() as stop, closing(checkpoints), ExitStack() as stack:
        hooks: list[Hook] = [horizon, Guard(config.most_skipped, every=config.log_every)]
        hooks.append(evaluation)
        if is_leader():
            records = stack.enter_context(closing(Records(out, start=start)))
            shown = stack.enter_context(closing(display(f"pretrain {config.arch}", horizon, start)))
            hooks.append(Reporter(records, meter, horizon, every=config.log_every, shown=shown))
        if is_leader() and profile:
            hooks.append(stack.enter_context(closing(Trace(out / "profile", start=start))))
        hooks.append(Saver(checkpoints, config, horizon, stop))
        items = meter.watch(batches(stage.corpus, config, start=start, horizon=horizon))
        state = fit(state, items, step_fn=stage.step(clock=horizon.clock), hooks=hooks)
    return state, evaluation.scores or evaluation.score(state.params)


def horizon_of(config: PretrainConfig, state: State, *, began: float) -> Horizon:
    """The end of the run; time is counted from `began`, on top of what `state` has used."""
    if config.hours is None:
        return Steps(config.steps, done=int(state.step))
    used = float(state.seconds)
    return Time(config.hours * HOUR, used=used, began=began, every=config.log_every)


def meter_of(stage: Stage) -> Meter:
    teacher = stage.teacher.config if stage.teacher else None
    return Meter(step_flops(stage.model.config, teacher), peak(stage.config.dtype))


def scorer(stage: Stage) -> Callable[[Any], MlmScores]:
    config = stage.config
    return mlm_scores(
        stage.model,
        stage.corpus.heldout,
        rows=config.eval_rows,
        seq_len=config.seq_len,
        teacher=stage.teacher,
    )


class Evaluation:
    """The hook that adds held-out scores to a step's metrics, now and then and at the last."""

    def __init__(
        self,
        score: Callable[[Any], MlmScores],
        horizon: Horizon,
        meter: Meter,
        *,
        every: int,
    ):
        self.score, self.horizon, self.meter, self.every = score, horizon, meter, every
        self.scores: MlmScores | None = None

    def __call__(self, step: int, state: State, metrics: dict) -> None:
        if step % self.every and not self.horizon.over:
            return
        with self.meter.paused():
            self.scores = self.score(state.params)
        scores = self.scores.plain() | {"accuracy": self.scores.accuracy}
        metrics |= {f"heldout_{name}": value for name, value in scores.items()}


def batches(
    corpus: Corpus, config: PretrainConfig, *, start: int, horizon: Horizon
) -> Iterator[dict]:
    """This host's part of the batches from `start` to the end of the run."""
    stream = MaskedStream(
        corpus.train,
        seed=config.seed,
        batch_size=config.batch_size,
        seq_len=config.seq_len,
        packing=config.packing,
        buckets=config.buckets,
        word_starts=corpus.tokenizer.word_starts() if config.whole_word else None,
    )
    for index in count(start):
        if horizon.over:
            return
        yield stream.batch(index, host=jax.process_index(), hosts=jax.process_count())


class Saver:
    """Saves every `save_every` steps, at the last, and before giving way to a signal."""

    def __init__(
        self,
        checkpoints: Checkpoints,
        config: PretrainConfig,
        horizon: Horizon,
        stop: StopRequest,
    ):
        self.checkpoints, self.horizon, self.stop = checkpoints, horizon, stop
        self.every = config.save_every

    def __call__(self, step: int, state: State, metrics: dict) -> None:
        signum = self.stop.poll()
        if step % self.every == 0 or self.horizon.over or signum:
            self.checkpoints.save(step, state)
        self.checkpoints.check()
        if signum:
            self.checkpoints.wait()
            raise Interrupted(step, signum)

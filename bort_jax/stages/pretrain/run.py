# SPDX-License-Identifier: Apache-2.0
"""Pretraining: masked LM, alone or with distillation from a teacher on the same batch."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bort_jax.data.prepared import Corpus, holds_corpus
from bort_jax.engine import schedule
from bort_jax.engine.loop import Hook
from bort_jax.engine.processes import barrier, is_leader, leader_first
from bort_jax.engine.watchdog import end_together
from bort_jax.interop import read, save
from bort_jax.interop.description import identity
from bort_jax.interop.verify import compare_written
from bort_jax.model import MaskedLM
from bort_jax.stages.predict.mlm_scores import MlmScores
from bort_jax.stages.pretrain.config import FREE, PretrainConfig, check
from bort_jax.stages.pretrain.forecast import Forecast, forecast
from bort_jax.stages.pretrain.objectives import teacher_stream, with_map
from bort_jax.stages.pretrain.setup import Setup, student_checkpoint
from bort_jax.stages.pretrain.starting import initial_params
from bort_jax.stages.pretrain.teacher_cache import CachedTeacherStream
from bort_jax.stages.pretrain.training import train
from bort_jax.storage.checks import explain_damage
from bort_jax.storage.files import read_json, write_json
from bort_jax.storage.hub import pin_revisions
from bort_jax.storage.run_folder import claim, claim_inputs, explain_full_disk

SCORES = "scores.json"


def pretrain(
    config: PretrainConfig, *, profile: bool = False, hooks: Sequence[Hook] = ()
) -> MlmScores:
    """Runs, or resumes, a pretraining; writes `OUT/model` and `OUT/scores.json`.

    Args:
      profile: whether to write a trace of some steps to `OUT/profile`.
      hooks: called as `hook(step, state, metrics)` after every step.

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
    config = pin_revisions(config)
    out = Path(config.out)
    leader_first(lambda: claim(out, config, free=FREE))
    if (out / SCORES).is_file():  # written last: there is nothing left to do
        leader_first(lambda: claim_inputs(out, inputs_of(config, config.corpus())))
        with explain_damage(out / SCORES):
            found = read_json(out / SCORES, remedy="delete it, and the run ends again")
            given: dict[str, Any] = {key: x if x is None else float(x) for key, x in found.items()}
            return MlmScores(**given)
    with end_together(out) as dog, explain_full_disk(out):
        setup = setup_of(config)
        leader_first(lambda: claim_inputs(out, inputs_of(config, setup.corpus)))
        state, scores = train(
            setup, config.pacing, out, dog, began=began, hooks=hooks, profile=profile
        )
        if is_leader():
            facts = card_facts(config, scores, steps=int(state.step))
            words, start = setup.corpus.tokenizer, setup.start
            done = student_checkpoint(setup.model, state, tokenizer=words, start=start, facts=facts)
            save(done, out / "model")
            compare_written(out / "model")
            write_json(out / SCORES, scores.as_dict())
        barrier("finished")
    return scores


def inputs_of(config: PretrainConfig, corpus: Corpus) -> dict[str, str | None]:
    """What a run is made from, by digests of content."""
    teacher = read(config.teacher) if config.teacher else None
    return {
        "corpus": corpus.sha256,
        "init_from": identity(config.start()),
        "teacher": identity(teacher),
    }


def dry_run(config: PretrainConfig) -> Forecast:
    """Builds everything that `pretrain` would and runs ten steps of it.

    Text that is not built yet is built in a temporary folder.

    Raises:
      ValueError: as `pretrain`.
    """
    check(config)
    with build_elsewhere(config) as config:
        tokens = config.batch_size * config.seq_len
        return forecast(setup_of(config), config.pacing, tokens_per_step=tokens)


def setup_of(config: PretrainConfig) -> Setup:
    """Reads the checkpoints, and builds the corpus where it is not built.

    Raises:
      ValueError: a checkpoint or a cache that does not fit, or a cache with fewer batches than
        the run has steps.
    """
    teacher = read(config.teacher) if config.teacher else None
    start = config.start()
    corpus = leader_first(config.corpus)
    model = MaskedLM(config.model_config(corpus, start), config.remat)
    params = initial_params(model, start, seed=config.seed)
    if config.hidden_weight and teacher:
        params = with_map(params, teacher, seed=config.seed)
    stream = teacher_stream(
        config.stream(corpus), corpus, config.losses, teacher=teacher, cache=config.teacher_cache
    )
    if isinstance(stream, CachedTeacherStream) and config.hours is None:
        stream.check_steps(config.steps)
    run_key = config.run_key(corpus, model.config.arch)
    return Setup(config.recipe, corpus, model, params, stream, run_key, teacher, start)


def card_facts(config: PretrainConfig, scores: MlmScores, *, steps: int) -> dict[str, str]:
    """The lines of the model card about a run."""
    sources = {
        "data": config.data,
        "started from": config.init_from,
        "teacher": config.teacher or config.teacher_cache,
    }
    rows = f"{config.batch_size} rows of {config.seq_len} tokens"
    return {
        **{name: Path(source).name for name, source in sources.items() if source},
        "pretrained": f"{steps:,} steps of {rows}",
        "held-out loss": f"{scores.loss:.3f} nats a masked token",
        "held-out error": f"{100 * scores.error:.1f} % of the masked tokens",
    }


@contextmanager
def build_elsewhere(config: PretrainConfig) -> Iterator[PretrainConfig]:
    """The configuration in a folder that is removed, unless its text is built already."""
    if holds_corpus(Path(config.out) / "data"):
        yield config
        return
    with TemporaryDirectory() as folder:
        yield replace(config, out=folder)

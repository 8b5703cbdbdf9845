# SPDX-License-Identifier: Apache-2.0
"""The checkpoint of a pre-training's run folder, finished or not."""

from pathlib import Path

from bort_jax.engine.checkpoint import best_verified, newest_verified, read_step
from bort_jax.engine.step import new_state
from bort_jax.interop import Checkpoint, load
from bort_jax.model import MaskedLM, init_params
from bort_jax.stages.pretrain.config import PretrainConfig
from bort_jax.stages.pretrain.objectives import with_map, without_map
from bort_jax.stages.pretrain.stage import (
    corpus_of,
    hyper,
    identity,
    model_config,
    trained_checkpoint,
)
from bort_jax.stages.pretrain.starting import starting_point
from bort_jax.storage.run_folder import claimed


def from_run(folder: Path, *, best: bool = False) -> Checkpoint:
    """The newest verified checkpoint of a pretraining run, or the best.

    Raises:
      ValueError: no checkpoint there verifies.
    """
    settings = claimed(folder)
    known = PretrainConfig.__dataclass_fields__
    settings = {name: value for name, value in settings.items() if name in known}
    config = PretrainConfig(**settings, out=str(folder))
    corpus = corpus_of(config)
    start = starting_point(config)
    model = MaskedLM(model_config(config, corpus, start=start))
    teacher = load(config.teacher) if config.teacher and config.hidden_weight else None
    params = with_map(init_params(model, seed=0), config, teacher)
    like = new_state(params, hyper(config), optimizer=config.optimizer)
    steps = folder / "checkpoints"
    step = best_verified(steps) if best else newest_verified(steps)
    if step is None:
        which = "is whole and has a held-out loss" if best else "is finished"
        raise ValueError(f"no checkpoint in {steps} {which}")
    state = read_step(steps / str(step), like, identity=identity(config, corpus))
    facts = {"data": Path(config.data).name, "pretrained": f"step {step:,} of a run"}
    return trained_checkpoint(
        model, without_map(state.params), start, tokenizer=corpus.tokenizer, facts=facts
    )

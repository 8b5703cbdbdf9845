# SPDX-License-Identifier: Apache-2.0
"""The checkpoint of a pretraining's run folder, finished or not."""

from pathlib import Path

from bort_jax.data.prepared import open_corpus
from bort_jax.engine.checkpoint import best_verified, newest_verified, read_step
from bort_jax.engine.step import new_state
from bort_jax.interop import Checkpoint, read
from bort_jax.model import MaskedLM, random_params
from bort_jax.stages.pretrain.config import PretrainConfig
from bort_jax.stages.pretrain.objectives import with_map
from bort_jax.stages.pretrain.setup import student_checkpoint
from bort_jax.storage.run_folder import CONFIG, read_claim

CHECKPOINTS = "checkpoints"


def is_run(folder: Path) -> bool:
    """Whether a pretraining has begun in the folder."""
    return (folder / CONFIG).is_file() and (folder / CHECKPOINTS).is_dir()


def load_run(folder: Path, *, best: bool = False) -> Checkpoint:
    """The newest verified checkpoint of a pretraining run, or the best.

    Raises:
      ValueError: no checkpoint there verifies.
    """
    settings = read_claim(folder)
    known = {
        name: settings[name] for name in PretrainConfig.__dataclass_fields__ if name in settings
    }
    config = PretrainConfig(**known, out=str(folder))
    corpus, start = open_corpus(config.corpus_folder), config.start()
    model = MaskedLM(config.model_config(corpus, start))
    params = random_params(model, seed=0)
    if config.teacher and config.hidden_weight:
        params = with_map(params, read(config.teacher), seed=config.seed)
    like = new_state(params, config.recipe.hyper, optimizer=config.optimizer)
    step = verified_step(folder / CHECKPOINTS, best=best)
    identity = config.run_key(corpus, model.config.arch)
    state = read_step(folder / CHECKPOINTS / str(step), like, identity=identity)
    facts = {"data": Path(config.data).name, "pretrained": f"step {step:,} of a run"}
    return student_checkpoint(model, state, tokenizer=corpus.tokenizer, start=start, facts=facts)


def verified_step(folder: Path, *, best: bool) -> int:
    """The newest step of which every byte is as written, or the best; ValueError without one."""
    step = best_verified(folder) if best else newest_verified(folder)
    if step is None:
        which = "is whole and has a held-out loss" if best else "is finished"
        raise ValueError(f"no checkpoint in {folder} {which}")
    return step

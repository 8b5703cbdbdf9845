# SPDX-License-Identifier: Apache-2.0
"""SRC is a checkpoint folder, or the run folder of a pretraining, finished or not: then its
newest verified checkpoint is taken. The copy is read back and compared."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bort_jax.interop import Checkpoint, hf_class, load, save
from bort_jax.model import MaskedLM, forward, init_params
from bort_jax.report.terminal import show_box
from bort_jax.train.checkpoint import Checkpoints
from bort_jax.train.parallel import new_state
from bort_jax.train.pretrain import PretrainConfig, corpus_of, hyper, model_config
from bort_jax.train.run_folder import CONFIG as RUN

POSITIONAL = {"source": "checkpoint folder, or run folder of a pretraining", "out": "new folder"}


@dataclass(frozen=True)
class Config:
    """From where to where.

    Attributes:
      source: checkpoint folder, or run folder of a pretraining.
      out: new folder.
    """

    source: str
    out: str


def run(config: Config) -> None:
    source = Path(config.source)
    is_run = (source / RUN).is_file() and (source / "checkpoints").is_dir()
    checkpoint = from_run(source) if is_run else load(source)
    save(checkpoint, config.out)
    difference = compared_with_stock(checkpoint, config.out)
    show_box(
        "conversion",
        [
            f"{hf_class(checkpoint)}, {checkpoint.config.arch}, in {config.out}",
            difference,
            f"next: transformers.{hf_class(checkpoint)}.from_pretrained({config.out!r})",
        ],
    )


def from_run(folder: Path) -> Checkpoint:
    """The newest verified checkpoint of a pretraining run.

    Raises:
      ValueError: no checkpoint there verifies.
    """
    settings = json.loads((folder / RUN).read_text())["config"]
    known = PretrainConfig.__dataclass_fields__
    settings = {name: value for name, value in settings.items() if name in known}
    config = PretrainConfig(**settings, out=str(folder))
    corpus = corpus_of(config)
    model = MaskedLM(model_config(config, corpus))
    like = new_state(
        init_params(model, seed=0), hyper(config), optimizer=config.optimizer, clip=config.clip
    )
    checkpoints = Checkpoints(folder / "checkpoints")
    state = checkpoints.restore(like)
    checkpoints.close()
    if state is None:
        raise ValueError(f"no checkpoint in {folder}/checkpoints verifies")
    return Checkpoint(model.config, state.params, tokenizer=corpus.tokenizer)


def compared_with_stock(checkpoint: Checkpoint, folder: str | Path) -> str:
    """What the written folder gives, in stock transformers if torch is here, else in ours.

    Raises:
      ValueError: the logits differ by more than 1e-4 (torch) or at all (ours).
    """
    ids = np.random.default_rng(0).integers(
        0, checkpoint.config.vocab_size, (2, min(32, checkpoint.config.positions))
    )
    ours = logits(checkpoint, ids)
    theirs, reader, tolerance = stock_logits(checkpoint, folder, ids), "stock transformers", 1e-4
    if theirs is None:
        theirs, reader, tolerance = logits(load(folder), ids), "its safetensors file", 0.0
    difference = float(np.abs(ours - theirs).max())
    if difference > tolerance:
        raise ValueError(f"{folder}: logits from {reader} differ by {difference:.1e}")
    return f"logits from {reader} equal ours to {difference:.1e}"


def logits(checkpoint: Checkpoint, ids: np.ndarray) -> np.ndarray:
    everywhere = np.tile(np.arange(ids.shape[1]), (len(ids), 1))
    positions = () if checkpoint.labels else (everywhere,)
    mask = np.ones(ids.shape, bool)
    return np.asarray(forward(checkpoint.model, checkpoint.params, ids, mask, *positions))


def stock_logits(checkpoint: Checkpoint, folder: str | Path, ids: np.ndarray) -> np.ndarray | None:
    """None where torch is not installed."""
    try:
        import torch
    except ImportError:
        return None
    import transformers

    transformers.utils.logging.disable_progress_bar()
    model = getattr(transformers, hf_class(checkpoint)).from_pretrained(folder).eval()
    transformers.AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        return model(torch.tensor(ids)).logits.numpy()

# SPDX-License-Identifier: Apache-2.0
"""SRC is a checkpoint folder in any of the formats below or of stock transformers (BERT, RoBERTa,
Bort), a `bort.params` of GluonNLP, or the run folder of a pretraining, finished or not: then its
newest verified checkpoint is taken. The copy is read back and compared.

hf: what stock transformers loads. orbax: arrays for any number of devices. stablehlo: the forward
pass as a program of its own, for cpu, cuda and tpu, with any batch and length."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from bort_jax.data.build import given_tokenizer
from bort_jax.data.tokenizer import NO_TOKENIZER
from bort_jax.interop import Checkpoint, hf_class, load, read, save
from bort_jax.interop.orbax_folder import load_orbax, save_orbax
from bort_jax.interop.stablehlo import load_program, load_stablehlo, save_stablehlo
from bort_jax.model import MaskedLM, forward, init_params
from bort_jax.report.terminal import show_box
from bort_jax.train.checkpoint import best_verified, newest_verified, read_step
from bort_jax.train.objectives import with_map, without_map
from bort_jax.train.parallel import new_state
from bort_jax.train.pretrain_config import PretrainConfig
from bort_jax.train.run_folder import CONFIG as RUN
from bort_jax.train.run_folder import claimed
from bort_jax.train.stage import corpus_of, hyper, identity, model_config
from bort_jax.train.starting import starting_point

POSITIONAL = {"source": "checkpoint folder, .params file, or run folder", "out": "new folder"}


class Format(NamedTuple):
    """How a format is written and read, and what the user does with it next."""

    write: Callable
    read: Callable
    holds: str
    next: str


FORMATS = {
    "hf": Format(
        save, load, "its safetensors file", "transformers.{name}.from_pretrained({out!r})"
    ),
    "orbax": Format(save_orbax, load_orbax, "its arrays", "bort-jax convert {out} FOLDER --to hf"),
    "stablehlo": Format(
        save_stablehlo,
        load_stablehlo,
        "its weights",
        "bort_jax.interop.stablehlo.load_program({out!r})(ids, mask, positions)",
    ),
}


@dataclass(frozen=True)
class Config:
    """From where to where.

    Attributes:
      source: checkpoint folder, `.params` file, or run folder of a pretraining.
      out: new folder.
      to: the format to write: hf, orbax or stablehlo.
      family: with --to hf, the stock classes to write for: bert or roberta; default: as it came.
      heads: attention heads of a `.params` file, which does not say them.
      best: of a run folder, the checkpoint with the lowest held-out loss, and not the newest.
      tokenizer: folder of a tokenizer to go with the model, instead of the one beside it.
    """

    source: str
    out: str
    to: Literal["hf", "orbax", "stablehlo"] = "hf"
    family: Literal["bert", "roberta"] | None = None
    heads: int = 8
    best: bool = False
    tokenizer: str = ""


def run(config: Config) -> None:
    check_free(Path(config.out))
    checkpoint = opened(Path(config.source), heads=config.heads, best=config.best)
    checkpoint = replace(checkpoint, family=config.family or checkpoint.family)
    if config.tokenizer:
        checkpoint = with_other_tokenizer(checkpoint, config.tokenizer)
    form = FORMATS[config.to]
    form.write(checkpoint, config.out)
    verified = verify(checkpoint, config.out, form=config.to)
    name = hf_class(checkpoint)
    show_box(
        "conversion",
        [
            f"{name}, {checkpoint.config.arch}, in {config.out}",
            *[f"left aside: {note}" for note in checkpoint.notes],
            *verified,
            f"next: {form.next.format(name=name, out=config.out)}",
        ],
    )


def check_free(out: Path) -> None:
    """Raises ValueError where files of another checkpoint would stand beside the new ones."""
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise ValueError(f"{out} is not empty; choose a new folder")


def with_other_tokenizer(checkpoint: Checkpoint, folder: str) -> Checkpoint:
    """Raises FileNotFoundError or ValueError where there is none of the model's size."""
    found = checkpoint.with_tokenizer(given_tokenizer(folder), source=folder)
    return replace(found, notes=tuple(n for n in found.notes if n != NO_TOKENIZER))


def opened(source: Path, *, heads: int, best: bool = False) -> Checkpoint:
    """The checkpoint of whatever SRC is.

    Raises:
      FileNotFoundError, ValueError: it is nothing of the kind, or damaged.
    """
    if (source / RUN).is_file() and (source / "checkpoints").is_dir():
        return from_run(source, best=best)
    if best:
        raise ValueError(f"--best chooses among a run's checkpoints; {source} is no run folder")
    return read(source, heads=heads)


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
    model = MaskedLM(model_config(config, corpus, start=starting_point(config)))
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
    params = without_map(state.params)
    return Checkpoint(model.config, params, tokenizer=corpus.tokenizer, facts=facts)


def verify(checkpoint: Checkpoint, folder: str | Path, *, form: str = "hf") -> list[str]:
    """What a written folder gives when it is read: by us, and by whom it was written for.

    Raises:
      ValueError: the logits differ at all (ours), or by more than 1e-4 (others).
    """
    read_back = FORMATS[form].read(folder)
    ids = some_ids(checkpoint)
    difference = float(np.abs(logits(checkpoint, ids) - logits(read_back, ids)).max())
    if difference > 0:
        raise ValueError(f"{folder}: logits from {FORMATS[form].holds} differ by {difference:.1e}")
    said = [f"logits from {FORMATS[form].holds} equal ours to {difference:.1e}"]
    if form == "hf":
        return compared_with_stock(checkpoint, folder) or said
    return said + ([compared_with_program(checkpoint, folder)] if form == "stablehlo" else [])


def compared_with_program(checkpoint: Checkpoint, folder: str | Path) -> str:
    """Raises ValueError if the exported program's logits differ by more than 1e-4."""
    ids = some_ids(checkpoint).astype(np.int32)
    theirs = load_program(folder)(ids, *inputs_beside(checkpoint, ids))
    difference = float(np.abs(logits(checkpoint, ids) - np.asarray(theirs)).max())
    if difference > 1e-4:
        raise ValueError(f"{folder}: logits of the exported program differ by {difference:.1e}")
    return f"logits of the exported program equal ours to {difference:.1e}"


def compared_with_stock(checkpoint: Checkpoint, folder: str | Path) -> list[str]:
    """What the written folder gives in stock transformers; nothing where torch is missing.

    Raises:
      ValueError: the logits differ by more than 1e-4.
    """
    ids = some_ids(checkpoint)
    theirs = stock_logits(checkpoint, folder, ids)
    if theirs is None:
        return []
    # Stock classes have one ε for all LayerNorms; what that costs is told apart from errors.
    stock = replace(checkpoint, config=replace(checkpoint.config, head_norm_eps=None))
    ours = logits(stock, ids)
    difference = float(np.abs(ours - theirs).max())
    if difference > 1e-4:
        raise ValueError(f"{folder}: logits from stock transformers differ by {difference:.1e}")
    said = [f"logits from stock transformers equal ours to {difference:.1e}"]
    own, common = checkpoint.config.head_norm_eps, checkpoint.config.layer_norm_eps
    if own not in (None, common):
        cost = float(np.abs(ours - logits(checkpoint, ids)).max())
        said += [
            f"but the head's LayerNorm has ε {own:g}, which stock classes cannot express: "
            f"with their {common:g} the logits differ by {cost:.1e}"
        ]
    return said


def some_ids(checkpoint: Checkpoint) -> np.ndarray:
    """Two rows of random tokens, none of them padding."""
    special = checkpoint.tokenizer.special if checkpoint.tokenizer else None
    width = min(32, checkpoint.config.positions)
    choices = np.setdiff1d(np.arange(checkpoint.config.vocab_size), special or [1])
    return np.random.default_rng(0).choice(choices, (2, width))


def logits(checkpoint: Checkpoint, ids: np.ndarray) -> np.ndarray:
    """Logits, or the hidden states where there is no head."""
    beside = inputs_beside(checkpoint, ids)
    return np.asarray(forward(checkpoint.model, checkpoint.params, ids, *beside))


def inputs_beside(checkpoint: Checkpoint, ids: np.ndarray) -> list[np.ndarray]:
    """The mask of full rows and, for a masked LM, every position."""
    everywhere = np.tile(np.arange(ids.shape[1], dtype=np.int32), (len(ids), 1))
    return [np.ones(ids.shape, bool)] + [everywhere] * (checkpoint.head == "masked_lm")


def stock_logits(checkpoint: Checkpoint, folder: str | Path, ids: np.ndarray) -> np.ndarray | None:
    """None where torch is not installed."""
    try:
        import torch
    except ImportError:
        return None
    import transformers

    transformers.utils.logging.disable_progress_bar()
    # A pooler that the encoder does not need would be drawn at random, with a warning.
    plain = {"add_pooling_layer": False} if checkpoint.headless else {}
    stock = getattr(transformers, hf_class(checkpoint)).from_pretrained(folder, **plain).eval()
    if checkpoint.tokenizer:
        transformers.AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        choice = checkpoint.head == "choice"  # rows [b, c, s]; here a question has one choice
        outputs = stock(torch.tensor(ids[:, None] if choice else ids))
        return (outputs.last_hidden_state if checkpoint.headless else outputs.logits).numpy()

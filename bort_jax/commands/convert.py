# SPDX-License-Identifier: Apache-2.0
"""SRC is a checkpoint folder in any of the formats below or of stock transformers (BERT, RoBERTa,
Bort), a `bort.params` of GluonNLP, or the run folder of a pretraining, finished or not: then its
newest verified checkpoint is taken. The copy is read back and compared.

hf: what stock transformers loads; layers of different sizes are filled up with zeros. orbax: arrays
for any number of devices. stablehlo: the forward pass as a program of its own, for cpu, cuda and
tpu, with any batch and length."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from bort_jax.data.tokenizer import NO_TOKENIZER, require_tokenizer
from bort_jax.interop import Checkpoint, hf_class, read
from bort_jax.interop.padding import padding_note
from bort_jax.interop.verify import FORMATS, verify
from bort_jax.report.terminal import say, show_box
from bort_jax.stages.pretrain.stored_run import is_run, load_run

POSITIONAL = {"source": "checkpoint folder, .params file, or run folder", "out": "new folder"}


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
    checkpoint = read_source(Path(config.source), heads=config.heads, best=config.best)
    checkpoint = replace(checkpoint, family=config.family or checkpoint.family)
    if config.tokenizer:
        checkpoint = replace_tokenizer(checkpoint, config.tokenizer)
    form = FORMATS[config.to]
    if config.to == "hf" and (note := padding_note(checkpoint)):
        say(note)
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


def replace_tokenizer(checkpoint: Checkpoint, folder: str) -> Checkpoint:
    """Raises FileNotFoundError or ValueError where there is none of the model's size."""
    found = checkpoint.with_tokenizer(require_tokenizer(folder), source=folder)
    return replace(found, notes=tuple(n for n in found.notes if n != NO_TOKENIZER))


def read_source(source: Path, *, heads: int, best: bool = False) -> Checkpoint:
    """The checkpoint that SRC holds.

    Raises:
      FileNotFoundError, ValueError: it is nothing of the kind, or damaged.
    """
    if is_run(source):
        return load_run(source, best=best)
    if best:
        raise ValueError(f"--best chooses among a run's checkpoints; {source} is no run folder")
    return read(source, heads=heads)

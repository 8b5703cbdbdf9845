# SPDX-License-Identifier: Apache-2.0
"""SRC is a checkpoint folder in any of the formats below or of stock transformers (BERT, RoBERTa,
Bort), a `bort.params` of GluonNLP, or the run folder of a pretraining, finished or not: then its
newest verified checkpoint is taken. The copy is read back and compared.

hf: what stock transformers loads; layers of different sizes are filled up with zeros. orbax: arrays
for any number of devices. stablehlo: the forward pass as a program of its own, for cpu, cuda and
tpu, with any batch and length. onnx: a folder for ONNX Runtime, optimum, sentence-transformers and
transformers.js, which this package does not read again; with --quantize int8 a second model in it,
scored before and after on --data."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from bort_jax.data.tokenizer_files import NO_TOKENIZER, require_tokenizer
from bort_jax.interop import Checkpoint, hf_class, read
from bort_jax.interop.formats import checkpoint_folder
from bort_jax.interop.onnx.folder import MODEL
from bort_jax.interop.padding import padding_note
from bort_jax.interop.verify import FORMATS, verify
from bort_jax.report.terminal import say, show_box
from bort_jax.stages.bench.config import scored_file
from bort_jax.stages.bench.export import export_onnx
from bort_jax.stages.pretrain.stored_run import is_run, load_run

POSITIONAL = {"source": "checkpoint folder, .params file, or run folder", "out": "new folder"}


@dataclass(frozen=True)
class Config:
    """From where to where.

    Attributes:
      source: checkpoint folder, `.params` file, or run folder of a pretraining.
      out: new folder.
      to: the format to write: hf, orbax, stablehlo or onnx.
      family: with --to hf, the stock classes to write for: bert or roberta; default: as it came.
      heads: attention heads of a `.params` file, which does not say them.
      best: of a run folder, the checkpoint with the lowest held-out loss, and not the newest.
      tokenizer: folder of a tokenizer to go with the model, instead of the one beside it.
      quantize: with --to onnx, an int8 model beside the float32 one.
      data: with --quantize, the file that both are scored on: labelled rows for a classifier, any
        text for other models.
      columns: of --data: one text column, or two of a pair.
      label: of --data: label column.
      task: a test set whose rows --data holds, such as glue/rte.
      seq_len: of --data: tokens in a row.
      max_loss: with --quantize, the most that a score may lose; else nothing is written.
    """

    source: str
    out: str
    to: Literal["hf", "orbax", "stablehlo", "onnx"] = "hf"
    family: Literal["bert", "roberta"] | None = None
    heads: int = 8
    best: bool = False
    tokenizer: str = ""
    quantize: Literal["int8"] | None = None
    data: str = ""
    columns: tuple[str, ...] = ("text",)
    label: str = "label"
    task: str = ""
    seq_len: int = 128
    max_loss: float = 0.01


def run(config: Config) -> None:
    check_free(Path(config.out))
    check_options(config)
    checkpoint = read_source(Path(config.source), heads=config.heads, best=config.best)
    family = config.family or checkpoint.family
    checkpoint = replace(checkpoint, family=family)
    checkpoint = checkpoint.with_tokenizer(checkpoint.tokenizer, source=config.source)
    if config.tokenizer:
        checkpoint = replace_tokenizer(checkpoint, config.tokenizer)
    if config.to == "onnx":
        verified, next = to_onnx(checkpoint, config)
    else:
        verified, next = to_format(checkpoint, config)
    show_box(
        "conversion",
        [
            f"{hf_class(checkpoint)}, {checkpoint.config.arch}, in {config.out}",
            *[f"left aside: {note}" for note in checkpoint.notes],
            *verified,
            f"next: {next}",
        ],
    )


def to_format(checkpoint: Checkpoint, config: Config) -> tuple[list[str], str]:
    """What was verified, and the next command."""
    form = FORMATS[config.to]
    if config.to == "hf" and (note := padding_note(checkpoint)):
        say(note)
    form.write(checkpoint, config.out)
    verified = verify(checkpoint, config.out, form=config.to)
    return verified, form.next.format(name=hf_class(checkpoint), out=config.out)


def to_onnx(checkpoint: Checkpoint, config: Config) -> tuple[list[str], str]:
    """As `to_format`."""
    file = scored_file(config)
    source, out = checkpoint_folder(config.source), Path(config.out)
    verified = export_onnx(checkpoint, out, source=source, int8_on=file, max_loss=config.max_loss)
    return verified, f"optimum.onnxruntime, or onnxruntime.InferenceSession('{out}/{MODEL}')"


def check_options(config: Config) -> None:
    """Raises ValueError for options that do not go together."""
    if config.quantize and config.to != "onnx":
        raise ValueError(f"--quantize is of --to onnx, not of {config.to}")
    if bool(config.quantize) != bool(config.data):
        raise ValueError("--quantize and --data go together: int8 is scored before it is written")


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

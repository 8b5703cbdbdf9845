# SPDX-License-Identifier: Apache-2.0
"""A file of any size: labels of a classifier, tokens for `<mask>` of a masked LM, vectors of an
encoder. Rows are read, answered and written as they come, in their order, in steady memory; the
same command continues a run that was stopped.

A row that cannot be read stops the run, which names its file and line, after the rows before it
were answered; `--bad-rows keep` puts what is wrong with it in the place of its answer."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bort_jax.data.corpus import open_source
from bort_jax.interop import Checkpoint, read
from bort_jax.interop.description import digest
from bort_jax.report.terminal import show_box
from bort_jax.stages.predict.answer_file import answer_file
from bort_jax.stages.predict.forward import for_device, widths
from bort_jax.stages.predict.outputs import check_length, task_of_checkpoint
from bort_jax.stages.predict.predictors import Predictor, classifier, embedder, mask_filler
from bort_jax.storage.run_folder import claim
from bort_jax.tasks import Task, find_task


@dataclass(frozen=True)
class Config:
    """A model and the rows that it answers.

    Attributes:
      model: checkpoint in any format that `convert` reads or writes.
      data: file or folder of rows: .jsonl, .json, .csv, .parquet, or .txt with a text a line;
        .gz, .bz2, .xz and .zst are read too.
      out: run folder, for `predictions.jsonl` or `embeddings.npy`.
      columns: one text column, or two of a pair; of a text file, text.
      task: a test set whose rows the file holds, such as glue/rte.
      seq_len: tokens in a row; longer texts are cut.
      top_k: tokens for each `<mask>`.
      embed: give the states of any model's encoder: the first token's, or the mean over all. A
        model without a head gives the mean when nothing is said.
      bad_rows: stop at a row that cannot be read, or keep a line that says why.
    """

    model: str
    data: str
    out: str = "runs/predict"
    columns: tuple[str, ...] = ("text",)
    task: str = ""
    seq_len: int = 128
    top_k: int = 5
    embed: Literal["mean", "first"] | None = None
    bad_rows: Literal["stop", "keep"] = "stop"


@dataclass(frozen=True)
class RunIdentity:
    """A run folder's model, rows and settings: with another of these it is another run."""

    model: str
    data: dict
    columns: tuple[str, ...]
    task: str
    seq_len: int
    top_k: int
    embed: str | None


def run(config: Config) -> Path:
    """Writes the answers; returns their file."""
    checkpoint = read(config.model)
    check_length(config.seq_len, checkpoint)
    predictor = predictor_of(for_device(checkpoint), config)
    out = claim(config.out, run_identity(checkpoint, config))
    done = answer_file(predictor, config.data, out, keep_wrong=config.bad_rows == "keep")
    wrong = [f"{done.wrong:,} rows could not be read; their lines say why"] if done.wrong else []
    cut = ", ".join(map(str, widths(config.seq_len)))
    box = [f"{done.answers:,} answers in {done.file}", *wrong, f"widths of rows: {cut}"]
    show_box("prediction", box)
    return done.file


def predictor_of(checkpoint: Checkpoint, config: Config) -> Predictor:
    """Raises ValueError where model, task and options do not go together."""
    task, seq_len = find_task(config.task) if config.task else None, config.seq_len
    if config.embed or checkpoint.headless:
        task = task or Task(tuple(config.columns))
        return embedder(checkpoint, task, seq_len=seq_len, pooling=config.embed or "mean")
    if checkpoint.labels:
        return classifier(
            checkpoint, task or task_of_checkpoint(checkpoint, config.columns), seq_len=seq_len
        )
    if task or len(config.columns) != 1:
        raise ValueError(f"{config.model} is a masked LM: it fills one of --columns, and no --task")
    return mask_filler(checkpoint, config.columns[0], seq_len=seq_len, top_k=config.top_k)


def run_identity(checkpoint: Checkpoint, config: Config) -> RunIdentity:
    about = checkpoint.description() | {"config": checkpoint.config.key()}
    described = hashlib.sha256(str(about).encode())
    described.update(digest(checkpoint.params).encode())
    names = ("columns", "task", "seq_len", "top_k", "embed")
    return RunIdentity(
        described.hexdigest(),
        open_source(config.data).description(),
        **{name: getattr(config, name) for name in names},
    )

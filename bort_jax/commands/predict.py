# SPDX-License-Identifier: Apache-2.0
"""A file of any size: labels of a classifier, tokens for `<mask>` of a masked LM, vectors of an
encoder. Rows are read, answered and written as they come, in their order, in steady memory; the
same command continues a run that was stopped.

A row that cannot be read stops the run, which names its file and line, after the rows before it
were answered; `--bad-rows keep` puts what is wrong with it in the place of its answer."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from tqdm import tqdm

from bort_jax.data.corpus import open_source
from bort_jax.engine.parallel import replicate
from bort_jax.interop import Checkpoint, read
from bort_jax.interop.description import digest
from bort_jax.report.terminal import progress_bar, show_box
from bort_jax.stages.predict.forward import for_device, text_states, top_tokens, widths
from bort_jax.stages.predict.outputs import check_length, outputs_fn, own_data, told
from bort_jax.storage.growing import GrowingLines, GrowingVectors
from bort_jax.storage.run_folder import claim
from bort_jax.tasks import Examples, Task, decide, find_task
from bort_jax.tasks.encode import plain
from bort_jax.tasks.stream import (
    Read,
    about_rows,
    after,
    examples_in,
    read_each,
    sound,
    windows,
)
from bort_jax.tasks.task import from_columns

WINDOW = 1024  # examples: rows of like lengths are found among so many, and a kill costs as many


@dataclass(frozen=True)
class Config:
    """What to predict.

    Attributes:
      model: checkpoint in any format that `convert` reads or writes.
      data: file of rows: .jsonl, .csv, .parquet, or .txt with a text a line.
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
class Asked:
    """What a run folder answers: with another of these it is another run."""

    model: str
    data: dict
    columns: tuple[str, ...]
    task: str
    seq_len: int
    top_k: int
    embed: str | None


class Predictor(NamedTuple):
    """How a kind of model answers rows.

    Attributes:
      task: reads the rows.
      file: name of the file of answers.
      open: `path -> growing file`.
      answer: `examples -> one answer an example`.
      wrong: `sentence -> the answer that stands for a row that cannot be read`.
    """

    task: Task
    file: str
    open: Callable[[Path], Any]
    answer: Callable[[Examples], Any]
    wrong: Callable[[str], Any]


def run(config: Config) -> Path:
    """Writes the answers; returns their file."""
    checkpoint = read(config.model)
    check_length(config.seq_len, checkpoint)
    predictor = predictor_of(for_device(checkpoint), config)
    out = claim(config.out, asked(checkpoint, config))
    file = out / predictor.file
    answers = predictor.open(file)
    try:
        bad = answer_all(predictor, config, answers)
    finally:
        answers.close()
    kept = [f"{bad:,} rows could not be read; their lines say why"] if bad else []
    cut = ", ".join(map(str, widths(config.seq_len)))
    box = [f"{answers.rows:,} answers in {file}", *kept, f"widths of rows: {cut}"]
    show_box("prediction", box)
    return file


def answer_all(predictor: Predictor, config: Config, answers) -> int:
    """Answers the rows that have no answer yet; returns how many were wrong among them."""
    reads = read_each(config.data, predictor.task)
    done, kept, rest = after(reads, answers.rows)
    answers.keep(kept)
    rest = rest if config.bad_rows == "keep" else sound(rest, hint="--bad-rows keep goes on")
    bad = 0
    with progress(config.data, done) as bar:
        for window in windows(rest, WINDOW):
            answers.add(in_places(window, predictor))
            bad += sum(bool(row.wrong) for row in window)
            bar.update(len(window))
    return bad


def in_places(window: list[Read], predictor: Predictor) -> list:
    """The answers of a window in the order of its rows."""
    examples = examples_in(window)
    answered = iter(predictor.answer(examples) if examples.texts else ())
    return [
        answer
        for row in window
        for answer in (
            [predictor.wrong(row.wrong)] if row.wrong else [next(answered) for _ in row.items]
        )
    ]


def predictor_of(checkpoint: Checkpoint, config: Config) -> Predictor:
    """Raises ValueError where model, task and options do not go together."""
    if config.embed or checkpoint.headless:
        return embedder(checkpoint, config)
    return classifier(checkpoint, config) if checkpoint.labels else filler(checkpoint, config)


def classifier(checkpoint: Checkpoint, config: Config) -> Predictor:
    """`{"label": name, "probability": p}`, or `{"score": number}` of a head with one output."""
    task = find_task(config.task) if config.task else own_data(checkpoint, config.columns)
    outputs = outputs_fn(checkpoint, task, seq_len=config.seq_len)

    def answer(examples: Examples) -> list[dict]:
        found = outputs(examples)
        return told(decide(found, task, examples=examples), found, task)

    return Predictor(task, "predictions.jsonl", GrowingLines, answer, lambda why: {"error": why})


def filler(checkpoint: Checkpoint, config: Config) -> Predictor:
    """`{"fills": [[{"token": text, "id": n, "probability": p}, …], …]}`, a list a mask.

    Every mask is filled with all others left masked; one that was cut off has null.
    """
    if config.task or len(config.columns) > 1:
        raise ValueError(f"{config.model} is a masked LM: it fills one of --columns, and no --task")
    tokenizer = checkpoint.required_tokenizer
    mask = tokenizer.names[tokenizer.special.index(tokenizer.special.mask)]
    if not 1 <= config.top_k <= checkpoint.config.vocab_size:
        raise ValueError(f"top_k must be in [1, {checkpoint.config.vocab_size}]")
    tokens_fn = top_tokens(checkpoint.model, pad=tokenizer.special.pad, top_k=config.top_k)
    params = replicate(checkpoint.params)

    def answer(examples: Examples) -> list[dict]:
        x = examples.encode(tokenizer, seq_len=config.seq_len).x
        rows, positions = np.nonzero(x == tokenizer.special.mask)
        fills = [[] for _ in x]
        for start in range(0, len(rows), WINDOW):  # a row counts once for each of its masks
            part = slice(start, start + WINDOW)
            found = tokens_fn(params, x[rows[part]], positions[part])
            for row, chances, ids in zip(rows[part], *found, strict=True):
                fills[row].append([named(*one) for one in zip(ids, chances, strict=True)])
        masks = [plain(texts[0]).count(mask) for texts in examples.texts]
        return [
            {"fills": filled + [None] * (n - len(filled))}
            for filled, n in zip(fills, masks, strict=True)
        ]

    def named(id, chance) -> dict:
        text = tokenizer.backend.decode([int(id)], skip_special_tokens=False)
        return {"token": text, "id": int(id), "probability": float(chance)}

    task = replace(task_of(config), items=partial(with_mask, mask=mask))
    return Predictor(task, "predictions.jsonl", GrowingLines, answer, lambda why: {"error": why})


def embedder(checkpoint: Checkpoint, config: Config) -> Predictor:
    """Rows of float32; NaN for a row that could not be read."""
    tokenizer, hidden = checkpoint.required_tokenizer, checkpoint.config.arch.hidden
    pool = config.embed or "mean"
    pad = tokenizer.special.pad
    states = text_states(checkpoint.config, checkpoint.params, pad=pad, pooling=pool)
    task = task_of(config)
    if task.head == "choice":
        raise ValueError(f"{task.name} has several texts an example: --embed wants one")
    return Predictor(
        task,
        "embeddings.npy",
        partial(GrowingVectors, width=hidden),
        lambda examples: states(examples.encode(tokenizer, seq_len=config.seq_len).x),
        lambda why: np.full(hidden, np.nan, np.float32),
    )


def task_of(config: Config) -> Task:
    """A test set's rows, or one's own columns."""
    return find_task(config.task) if config.task else Task(tuple(config.columns))


def with_mask(row, task: Task, *, mask: str) -> list:
    """The row's examples; raises ValueError where there is nothing to fill."""
    items = from_columns(row, task)
    if any(mask not in plain(text) for item in items for text in item.texts):
        raise ValueError(f"no {mask} in {' and '.join(task.columns)}: nothing to fill")
    return items


def asked(checkpoint: Checkpoint, config: Config) -> Asked:
    described = hashlib.sha256(str(checkpoint.description()).encode())
    described.update(digest(checkpoint.params).encode())
    data = open_source(config.data).description()
    same = {
        name: getattr(config, name) for name in ("columns", "task", "seq_len", "top_k", "embed")
    }
    return Asked(described.hexdigest(), data, **same)


def progress(source: str, done: int) -> tqdm:
    return progress_bar("predict", total=about_rows(source), done=done, unit="row")

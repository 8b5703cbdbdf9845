# SPDX-License-Identifier: Apache-2.0
"""Predictors: how each kind of model answers rows, one answer an example."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bort_jax.engine.parallel import replicate
from bort_jax.interop import Checkpoint
from bort_jax.stages.predict.forward import BatchSize, text_states, top_tokens
from bort_jax.stages.predict.outputs import outputs_fn, prediction_records
from bort_jax.storage.growing import GrowingLines, GrowingVectors
from bort_jax.tasks import Examples, Task, decide
from bort_jax.tasks.encode import join_pieces
from bort_jax.tasks.task import from_columns

MASKS = 1024  # that are filled at a time


class Predictor(NamedTuple):
    """A model that answers rows.

    Attributes:
      task: reads the rows.
      file: name of the file of answers.
      open: `path -> growing file`.
      answer: `examples -> one answer an example`.
      error_answer: `sentence -> the answer that stands for a row that cannot be read`.
    """

    task: Task
    file: str
    open: Callable[[Path], Any]
    answer: Callable[[Examples], Any]
    error_answer: Callable[[str], Any]


def classifier(checkpoint: Checkpoint, task: Task, *, seq_len: int) -> Predictor:
    """`{"label": name, "probability": p}`, or `{"score": number}` of a head with one output."""
    outputs = outputs_fn(checkpoint, task, seq_len=seq_len)

    def answer(examples: Examples) -> list[dict]:
        found = outputs(examples)
        return prediction_records(decide(found, task, examples=examples), found, task)

    return _line_predictor(task, answer)


def mask_filler(checkpoint: Checkpoint, column: str, *, seq_len: int, top_k: int) -> Predictor:
    """`{"fills": [[{"token": text, "id": n, "probability": p}, …], …]}`, a list a mask.

    Every mask is filled with all others left masked; one that was cut off has null.

    Raises:
      ValueError: there are fewer than `top_k` tokens.
    """
    if not 1 <= top_k <= checkpoint.config.vocab_size:
        raise ValueError(f"top_k must be in [1, {checkpoint.config.vocab_size}]")
    tokenizer = checkpoint.required_tokenizer
    mask = tokenizer.names[tokenizer.special.index(tokenizer.special.mask)]
    fills_fn = masked_fills(checkpoint, top_k=top_k)
    params = replicate(checkpoint.params)

    def fill(id, probability) -> dict:
        text = tokenizer.backend.decode([int(id)], skip_special_tokens=False)
        return {"token": text, "id": int(id), "probability": float(probability)}

    def answer(examples: Examples) -> list[dict]:
        fills = fills_fn(params, examples.encode(tokenizer, seq_len=seq_len).x)
        masks = [join_pieces(texts[0]).count(mask) for texts in examples.texts]
        return [
            {
                "fills": [
                    [fill(*one) for one in zip(f.ids, f.chances, strict=True)] for f in filled
                ]
                + [None] * (n - len(filled))
            }
            for filled, n in zip(fills, masks, strict=True)
        ]

    task = Task((column,), items=partial(_items_with_mask, mask=mask))
    return _line_predictor(task, answer)


class Fills(NamedTuple):
    """The likeliest tokens at a mask, the best first.

    Attributes:
      position: of the mask in its row.
      chances: probabilities, [k].
      ids: tokens, [k].
    """

    position: int
    chances: np.ndarray
    ids: np.ndarray


def masked_fills(checkpoint: Checkpoint, *, top_k: int, batch_size: BatchSize = 64) -> Callable:
    """Builds `(params, x: int[n, s]) -> list[list[Fills]]`: of each row, of each of its masks."""
    special = checkpoint.required_tokenizer.special
    tokens_fn = top_tokens(checkpoint.model, pad=special.pad, top_k=top_k, batch_size=batch_size)

    def fills(params, x: np.ndarray) -> list[list[Fills]]:
        rows, positions = np.nonzero(x == special.mask)
        found = [[] for _ in x]
        for start in range(0, len(rows), MASKS):  # a row counts once for each of its masks
            part = slice(start, start + MASKS)
            chances, ids = tokens_fn(params, x[rows[part]], positions[part])
            for row, *fill in zip(rows[part], positions[part], chances, ids, strict=True):
                found[row].append(Fills(*fill))
        return found

    return fills


def embedder(checkpoint: Checkpoint, task: Task, *, seq_len: int, pooling: str) -> Predictor:
    """Rows of float32; NaN for a row that cannot be read.

    Raises:
      ValueError: the task has several texts an example.
    """
    if task.head == "choice":
        raise ValueError(f"{task.name} has several texts an example: --embed wants one")
    tokenizer, hidden = checkpoint.required_tokenizer, checkpoint.config.arch.hidden
    pad = tokenizer.special.pad
    states = text_states(checkpoint.config, checkpoint.params, pad=pad, pooling=pooling)
    return Predictor(
        task,
        "embeddings.npy",
        partial(GrowingVectors, width=hidden),
        lambda examples: states(examples.encode(tokenizer, seq_len=seq_len).x),
        lambda sentence: np.full(hidden, np.nan, np.float32),
    )


def _line_predictor(task: Task, answer: Callable[[Examples], list[dict]]) -> Predictor:
    return Predictor(
        task, "predictions.jsonl", GrowingLines, answer, lambda sentence: {"error": sentence}
    )


def _items_with_mask(row, task: Task, *, mask: str) -> list:
    """The row's examples; raises ValueError where there is nothing to fill."""
    items = from_columns(row, task)
    if any(mask not in join_pieces(text) for item in items for text in item.texts):
        raise ValueError(f"no {mask} in {' and '.join(task.columns)}: nothing to fill")
    return items

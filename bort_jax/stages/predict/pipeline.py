# SPDX-License-Identifier: Apache-2.0
"""Answers to texts from Python, as stock `transformers` pipelines give them."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.special import softmax

from bort_jax.engine.parallel import replicate
from bort_jax.interop import Checkpoint, read
from bort_jax.stages.predict.forward import for_device, text_states, widths
from bort_jax.stages.predict.outputs import check_length, finite_logits
from bort_jax.stages.predict.predictors import Fills, masked_fills
from bort_jax.tasks import Examples
from bort_jax.tasks.task import UNLABELLED

TASKS = {"masked_lm": "fill-mask", "classifier": "text-classification", "none": "embeddings"}
BATCHES = (1, 8, 64)  # rows that are run together: one text does not pay for 64
Texts = str | dict[str, str] | Sequence[str] | Sequence[dict[str, str]]


def pipeline(
    model: str | Path | Checkpoint,
    task: str | None = None,
    *,
    revision: str | None = None,
    seq_len: int | None = None,
) -> "Pipeline":
    """A model that answers texts; threads may share it.

    Args:
      model: what `read` takes, `org/name` of the hub too, or a checkpoint in memory.
      task: `fill-mask`, `text-classification` or `embeddings`; None: what the model's head is for.
      revision: of the hub.
      seq_len: tokens of a row; longer texts are cut. None: as many as the model has positions.

    Raises:
      FileNotFoundError, ValueError: as `read`; or the model has no head for the task.
    """
    checkpoint = model if isinstance(model, Checkpoint) else read(model, revision=revision)
    known = {TASKS.get(checkpoint.head, ""), "embeddings"} - {""}
    wanted = task or TASKS.get(checkpoint.head)
    if wanted not in known:
        raise ValueError(
            f"a {checkpoint.head} checkpoint is for {' or '.join(sorted(known))}; got task {task!r}"
        )
    seq_len = checkpoint.config.positions if seq_len is None else seq_len
    check_length(seq_len, checkpoint)
    kind = {"fill-mask": FillMask, "text-classification": TextClassification}
    return kind.get(wanted, Embeddings)(for_device(checkpoint), seq_len)


class Pipeline(ABC):
    """A model that answers texts, rows of like lengths together; a call compiles a program for each
    number of rows (`BATCHES`) and width (`widths`) that it is the first to need."""

    def __init__(self, checkpoint: Checkpoint, seq_len: int):
        self.checkpoint, self.seq_len = checkpoint, seq_len
        self.tokenizer = checkpoint.required_tokenizer

    def encode(self, texts: Sequence[str | dict[str, str]]) -> np.ndarray:
        """Token rows, [n, s]."""
        columns = zip(*map(as_columns, texts), strict=True)
        examples = Examples.of(list(columns), np.full(len(texts), UNLABELLED, np.int32))
        return examples.encode(self.tokenizer, seq_len=self.seq_len).x

    def warm(self, batches: Sequence[int] = BATCHES) -> "Pipeline":
        """Compiles all that calls can need of these numbers of rows; returns the pipeline."""
        special = self.tokenizer.special
        for rows in batches:
            for width in widths(self.seq_len):
                x = np.full((rows, self.seq_len), special.pad, np.int32)
                x[:, :width] = special.unk
                x[:, 0] = special.mask
                self.answer(x)
        return self

    @abstractmethod
    def answer(self, x: np.ndarray) -> Any:
        """One answer a row."""


class TextClassification(Pipeline):
    """Labels with scores: probabilities, or the number of a regression."""

    def __init__(self, checkpoint: Checkpoint, seq_len: int):
        super().__init__(checkpoint, seq_len)
        self._logits = finite_logits(checkpoint, batch_size=BATCHES)

    def __call__(self, inputs: Texts, *, top_k: int | None | Literal["best"] = "best") -> Any:
        """Of each text `{"label": …, "score": …}`, the likeliest.

        Args:
          inputs: a text, `{"text": …, "text_pair": …}`, or a list of either.
          top_k: so many of each text, in a list, the likeliest first; None: all; `best`: one, and
            of a text that is not in a list a list of it.

        Raises:
          ValueError: the model's outputs are not finite.
        """
        texts = as_list(inputs)
        ranked = self.answer(self.encode(texts)) if texts else []
        if top_k == "best":
            found = [one[0] for one in ranked]
            return found[0] if isinstance(inputs, dict) else found
        found = [one[:top_k] for one in ranked]
        return found if is_list(inputs) else found[0]

    def answer(self, x: np.ndarray) -> list[list[dict]]:
        outputs = self._logits(x)
        scores = outputs if self.checkpoint.problem == "regression" else softmax(outputs, axis=1)
        names = self.checkpoint.labels
        return [
            [{"label": names[k], "score": float(row[k])} for k in np.argsort(-row, kind="stable")]
            for row in scores
        ]


class FillMask(Pipeline):
    """Tokens for masks."""

    def __init__(self, checkpoint: Checkpoint, seq_len: int):
        super().__init__(checkpoint, seq_len)
        self._params = replicate(checkpoint.params)
        build = lambda k: masked_fills(checkpoint, top_k=k, batch_size=BATCHES)
        self._fills = lru_cache(maxsize=8)(build)

    def __call__(self, inputs: str | Sequence[str], *, top_k: int = 5) -> list:
        """Of each text its likeliest fills, `{"score", "token", "token_str", "sequence"}`; a list
        of them a mask where a text has several.

        Raises:
          ValueError: a text has no mask, or `top_k` is not one of 1 to the vocabulary's size.
        """
        if not 1 <= top_k <= self.checkpoint.config.vocab_size:
            raise ValueError(f"top_k must be in [1, {self.checkpoint.config.vocab_size}]")
        texts = as_list(inputs)
        found = self.answer(self.encode(texts), top_k=top_k) if texts else []
        return found[0] if len(found) == 1 else found

    def answer(self, x: np.ndarray, *, top_k: int = 5) -> list:
        rows = zip(x, self._fills(top_k)(self._params, x), strict=True)
        return [self._fill(row, fills) for row, fills in rows]

    def _fill(self, row: np.ndarray, fills: list[Fills]) -> list:
        if not fills:
            mask = self.tokenizer.names[self.tokenizer.special.index(self.tokenizer.special.mask)]
            raise ValueError(f"no {mask} in the first {self.seq_len} tokens of a text")
        filled = [self._proposals(row, one, alone=len(fills) == 1) for one in fills]
        return filled[0] if len(fills) == 1 else filled

    def _proposals(self, row: np.ndarray, fills: Fills, *, alone: bool) -> list[dict]:
        """The fills of one mask; other masks stay in the sequence, and so do special tokens."""
        pad, proposals = self.tokenizer.special.pad, []
        decode = self.tokenizer.backend.decode
        for chance, id in zip(fills.chances.tolist(), fills.ids.tolist(), strict=True):
            row = row.copy()
            row[fills.position] = id
            text = decode(row[row != pad].tolist(), skip_special_tokens=alone)
            token = decode([id], skip_special_tokens=False)
            proposals.append({"score": chance, "token": id, "token_str": token, "sequence": text})
        return proposals


class Embeddings(Pipeline):
    """Vectors of texts: the mean over all tokens' last states."""

    def __init__(self, checkpoint: Checkpoint, seq_len: int):
        super().__init__(checkpoint, seq_len)
        model, pad = (checkpoint.config, checkpoint.params), self.tokenizer.special.pad
        self._states = text_states(*model, pad=pad, pooling="mean", batch_size=BATCHES)

    def __call__(self, inputs: Texts) -> np.ndarray:
        """float32 [h] of one text, [n, h] of a list."""
        texts = as_list(inputs)
        if not texts:
            return np.zeros((0, self.checkpoint.config.arch.hidden), np.float32)
        found = self.answer(self.encode(texts))
        return found if is_list(inputs) else found[0]

    def answer(self, x: np.ndarray) -> np.ndarray:
        return self._states(x)


def is_list(inputs: Texts) -> bool:
    return not isinstance(inputs, str | dict)


def as_list(inputs: Texts) -> list:
    return list(inputs) if is_list(inputs) else [inputs]


def as_columns(text: str | dict[str, str]) -> tuple[str, ...]:
    """One text, or the two of a pair.

    Raises:
      ValueError: it is neither.
    """
    columns = (
        (text,)
        if isinstance(text, str)
        else tuple(
            text[name] for name in ("text", "text_pair") if isinstance(text, dict) and name in text
        )
    )
    if not columns or not all(isinstance(one, str) for one in columns):
        raise ValueError(f"a text, or {{'text': …, 'text_pair': …}}, is asked for; got {text!r}")
    return columns

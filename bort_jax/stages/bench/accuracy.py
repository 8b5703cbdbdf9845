# SPDX-License-Identifier: Apache-2.0
"""How good a model's outputs are on a file, whichever program computes them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bort_jax.data.corpus import read_texts
from bort_jax.data.tokenizer import plain_ids
from bort_jax.interop import Checkpoint
from bort_jax.stages.predict.forward import lengths, widths
from bort_jax.stages.predict.outputs import check_length, task_of_checkpoint
from bort_jax.tasks import align_outputs, decide, find_task, read_examples, score

AT_ONCE = 16  # rows
MASKED = 0.15  # of a row's tokens, for a masked LM

Program = Callable[[np.ndarray, np.ndarray], np.ndarray]  # (ids, mask) -> outputs
Scorer = Callable[[Program], dict[str, float]]


@dataclass(frozen=True)
class ScoredFile:
    """Rows to score on.

    Attributes:
      path: labelled rows for a classifier, any text otherwise.
      columns: one text column, or two of a pair.
      label: label column.
      task: a test set whose rows the file holds, such as glue/rte.
      seq_len: tokens in a row.
      rows: at the most.
    """

    path: str
    columns: tuple[str, ...] = ("text",)
    label: str = "label"
    task: str = ""
    seq_len: int = 128
    rows: int = 2000


def scorer(checkpoint: Checkpoint, file: ScoredFile, *, reference: Program) -> Scorer:
    """Builds `program -> scores`, each better when larger.

    A classifier's are its task's metrics; a masked LM's the share of masked tokens that it finds;
    an encoder's the mean cosine of its token states to those of `reference`.

    Raises:
      FileNotFoundError, ValueError: the file cannot be read, or does not fit the model.
    """
    check_length(file.seq_len, checkpoint)
    if checkpoint.labels:
        return _classifier(checkpoint, file)
    x = _tokens(checkpoint, file)
    return (
        _masked_lm(checkpoint, x) if not checkpoint.headless else _encoder(x, reference, checkpoint)
    )


def _classifier(checkpoint: Checkpoint, file: ScoredFile) -> Scorer:
    own = task_of_checkpoint(checkpoint, file.columns, file.label) if not file.task else None
    task = own or find_task(file.task)
    examples = read_examples(file.path, task)
    examples = examples.take(range(min(file.rows, len(examples.texts))))
    x = examples.encode(checkpoint.required_tokenizer, seq_len=file.seq_len).x
    rows = x.reshape(-1, x.shape[-1])

    def scores(program: Program) -> dict[str, float]:
        outputs = np.concatenate([one for _, one in _run(program, rows, checkpoint)])
        aligned = align_outputs(outputs.reshape(len(rows), -1), task, labels=checkpoint.labels)
        return score(decide(aligned, task, examples=examples), task, examples=examples)

    return scores


def _masked_lm(checkpoint: Checkpoint, x: np.ndarray) -> Scorer:
    special, x = checkpoint.required_tokenizer.special, plain_ids(x)
    chosen = (np.random.default_rng(0).random(x.shape) < MASKED) & ~np.isin(x, special)
    masked = np.where(chosen, special.mask, x)

    def scores(program: Program) -> dict[str, float]:
        found = [
            one[chosen[rows, : one.shape[1]]].argmax(-1) == x[rows][chosen[rows]]
            for rows, one in _run(program, masked, checkpoint)
        ]
        return {"masked_accuracy": float(np.concatenate(found).mean())}

    return scores


def _encoder(x: np.ndarray, reference: Program, checkpoint: Checkpoint) -> Scorer:
    tokens = x != checkpoint.required_tokenizer.special.pad

    def scores(program: Program) -> dict[str, float]:
        cosines = []
        pairs = zip(_run(reference, x, checkpoint), _run(program, x, checkpoint), strict=True)
        for (rows, wanted), (_, got) in pairs:
            here = tokens[rows, : got.shape[1]]
            wanted, got = wanted[here], got[here]
            norms = np.linalg.norm(wanted, axis=-1) * np.linalg.norm(got, axis=-1)
            cosines.append((wanted * got).sum(-1) / norms)
        return {"cosine": float(np.concatenate(cosines).mean())}

    return scores


def _tokens(checkpoint: Checkpoint, file: ScoredFile) -> np.ndarray:
    texts = [
        text for text, _ in zip(read_texts(file.path, column=file.columns[0]), range(file.rows))
    ]
    return checkpoint.required_tokenizer.encode([texts], seq_len=file.seq_len).ids


def _run(program: Program, x: np.ndarray, checkpoint: Checkpoint):
    """Pairs of rows and their outputs, a batch at a time, each as wide as its longest row, rounded
    up to one of `widths`: a program that is compiled is compiled for few of them."""
    pad = checkpoint.required_tokenizer.special.pad
    for start in range(0, len(x), AT_ONCE):
        rows = slice(start, start + AT_ONCE)
        longest = lengths(x[rows], pad=pad).max()
        ids = x[rows, : next(width for width in widths(x.shape[1]) if width >= longest)]
        yield rows, np.asarray(program(ids, ids != pad))

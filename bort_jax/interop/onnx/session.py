# SPDX-License-Identifier: Apache-2.0
"""Exported models in ONNX Runtime, on the CPU: run, compared with ours, quantised."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from bort_jax.data.tokenizer import plain_ids
from bort_jax.interop.checkpoint import Checkpoint
from bort_jax.interop.onnx.folder import require
from bort_jax.model import forward
from bort_jax.model.bert import token_types

WITHIN = 1e-5  # of the largest output, or of 1
SHORT = 64  # tokens
PASSAGE = """A small model is a large one of which most was left out. What is left is chosen by
counting: parameters, operations, and the errors that remain. Some sentences are short. Others, like
this one, wander through a clause or two (and a bracket), quote "somebody else", cost $3.50 or 12 %,
and end in a question, don't they? 2026 was a year; naïve cafés serve süße Äpfel."""


def open_session(file: Path) -> Callable:
    """Builds `(ids: int[b, s], mask: bool[b, s], types: int[b, s]) -> first output`.

    Raises:
      ImportError: ONNX Runtime is not installed.
      ValueError: it cannot run the file, as one without int8 products.
    """
    require("onnxruntime")
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's own classes of errors are not public
        version = onnxruntime.__version__
        raise ValueError(f"ONNX Runtime {version} cannot run {file.name}: {error}") from error
    names = [one.name for one in session.get_inputs()]
    first = session.get_outputs()[0].name

    def run(ids, mask, types):
        given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        return session.run([first], {name: np.asarray(given[name], np.int64) for name in names})[0]

    return run


def run_rows(checkpoint: Checkpoint, file: Path) -> Callable:
    """As `open_session`, of `(ids, mask)` as our model takes them; a choice has one row."""
    session, inputs = open_session(file), stock_inputs(checkpoint)
    group = (lambda x: x[:, None]) if checkpoint.head == "choice" else (lambda x: x)
    return lambda ids, mask: session(*map(group, inputs(ids, mask)))


def stock_inputs(checkpoint: Checkpoint) -> Callable:
    """Builds `(ids: int[b, s], mask: bool[b, s]) -> ids, mask, token types`, int64[b, s], as stock
    programs take them."""
    separator = checkpoint.config.separator

    def inputs(ids: Int[np.ndarray, "b s"], mask: Bool[np.ndarray, "b s"]):
        types = token_types(ids, mask, separator=separator)
        return tuple(np.asarray(x, np.int64) for x in (plain_ids(ids), mask, types))

    return inputs


def compare(checkpoint: Checkpoint, file: Path, *, texts: Sequence[str] = ()) -> str:
    """Runs an export at many lengths beside our own forward pass; says how far apart they are.

    A batch has a row of the length and a shorter one with padding.

    Raises:
      ValueError: they differ by more than WITHIN, or as `open_session`.
    """
    theirs, ours = run_rows(checkpoint, file), padded_forward(checkpoint)
    largest = 0.0
    lengths = edges(checkpoint.config.positions)
    for ids, mask in batches(checkpoint, lengths, texts or [PASSAGE]):
        expected, got = ours(ids, mask), theirs(ids, mask)
        if expected.ndim == 3:  # what stands at padding has no meaning
            expected, got = expected[mask], got[mask]
        worst = float(np.abs(expected - got).max() / max(1.0, np.abs(expected).max()))
        if not worst <= WITHIN:
            raise ValueError(f"{file.name}: outputs at length {ids.shape[1]} differ by {worst:.1e}")
        largest = max(largest, worst)
    return f"outputs in ONNX Runtime equal ours to {largest:.1e}, lengths 1 to {lengths[-1]}"


def edges(limit: int) -> list[int]:
    """Powers of two and their neighbours, up to the longest row."""
    near = {2**k + step for k in range(limit.bit_length()) for step in (-1, 0, 1)}
    return sorted(n for n in near | {limit} if 1 <= n <= limit)


def batches(
    checkpoint: Checkpoint, lengths: Sequence[int], texts: Sequence[str]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """`ids[2, n], mask[2, n]` for each length n, of the texts' tokens, or of any without tokenizer.

    With a tokenizer a row has two texts, so that token types occur.
    """
    tokenizer, rng = checkpoint.tokenizer, np.random.default_rng(0)
    random = rng.integers(0, checkpoint.config.vocab_size, (2, max(lengths))).astype(np.int32)
    if tokenizer:
        tokens = np.concatenate(tokenizer.encode_documents(list(texts))).astype(np.int32)
        rows = [np.resize(np.roll(tokens, -k), max(lengths)) for k in (0, len(tokens) // 2)]
        random = np.stack(rows)
        random[:, 0] = tokenizer.special.bos
    for n in lengths:
        ids = random[:, :n].copy()
        if tokenizer and n > 2:
            ids[:, [n // 2, n - 1]] = tokenizer.special.eos
        mask = np.arange(n) < np.array([[n], [max(1, n // 2)]])
        pad = tokenizer.special.pad if tokenizer else 0
        yield np.where(mask, ids, pad).astype(np.int32), mask


def padded_forward(checkpoint: Checkpoint) -> Callable:
    """Our outputs of rows of any length, in two compiled programs: of short rows and of all."""
    limit = checkpoint.config.positions
    run = jax.jit(partial(forward, checkpoint.model))
    params = jax.device_put(checkpoint.params)

    def outputs(ids, mask) -> Float[np.ndarray, "..."]:
        width = limit if ids.shape[1] > SHORT else min(SHORT, limit)
        room = ((0, 0), (0, width - ids.shape[1]))
        everywhere = np.tile(np.arange(width, dtype=np.int32), (len(ids), 1))
        beside = [everywhere] * (checkpoint.head == "masked_lm")
        full = np.asarray(run(params, np.pad(ids, room), np.pad(mask, room), *beside))
        return full[:, : ids.shape[1]] if full.ndim == 3 else full

    return outputs

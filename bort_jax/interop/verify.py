# SPDX-License-Identifier: Apache-2.0
"""A written folder, read back: by us, and by whom it was written for."""

import importlib.util
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from bort_jax.data.tokenizer import Tokenizer, plain_ids
from bort_jax.interop import Checkpoint, hf_class, load, save
from bort_jax.interop.orbax_folder import load_orbax, save_orbax
from bort_jax.interop.stablehlo import load_program, load_stablehlo, save_stablehlo
from bort_jax.model import forward
from bort_jax.report.terminal import say
from bort_jax.storage.native import shorten

# Real texts, with what tokenizers stumble over.
TEXTS = (
    "A good film, but its ending is not what the book promised.",
    "Naïve café-goers in 東京 paid 3.50€ … 🙂 שלום e\u0301",
    "one text [SEP] with [MASK] words </s> of <mask> its own",
    "It went on and on. " * 400,
)


UNCOMPARED = "BORT_JAX_UNCOMPARED"


class Format(NamedTuple):
    """A format: its writer, its reader, and the next command for the user."""

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


def verify(checkpoint: Checkpoint, folder: str | Path, *, form: str = "hf") -> list[str]:
    """Reads a written folder back, by us and by the program that it was written for.

    Raises:
      ValueError: the logits differ at all (ours), or by more than 1e-4 (others), or stock
        transformers cuts texts into other tokens.
    """
    read_back = FORMATS[form].read(folder)
    rows = some_rows(checkpoint)
    difference = float(np.abs(logits(checkpoint, *rows) - logits(read_back, *rows)).max())
    if difference > 0:
        raise ValueError(f"{folder}: logits from {FORMATS[form].holds} differ by {difference:.1e}")
    lines = [f"logits from {FORMATS[form].holds} equal ours to {difference:.1e}"]
    if form == "hf":
        return compare_with_stock(checkpoint, folder) or lines
    return lines + ([compare_with_program(checkpoint, folder)] if form == "stablehlo" else [])


def compare_written(folder: str | Path) -> None:
    """Compares the stock folder that a training wrote with stock transformers, as `convert` does,
    and says so in a line; does nothing where torch is missing or `UNCOMPARED` is set.

    Raises:
      ValueError: the tokens differ, or the logits by more than 1e-4.
    """
    if os.environ.get(UNCOMPARED):
        return
    try:
        lines = compare_with_stock(load(folder), folder)
    except ImportError as error:  # of versions that do not go together: the model is there
        lines = [f"{folder} was not compared with stock transformers: {shorten(error)}"]
    if lines:
        say("; ".join(lines))


def compare_with_program(checkpoint: Checkpoint, folder: str | Path) -> str:
    """Raises ValueError if the exported program's logits differ by more than 1e-4."""
    rows = some_rows(checkpoint)
    theirs = load_program(folder)(*inputs_of(checkpoint, *rows))
    difference = float(np.abs(logits(checkpoint, *rows) - np.asarray(theirs)).max())
    if difference > 1e-4:
        raise ValueError(f"{folder}: logits of the exported program differ by {difference:.1e}")
    return f"logits of the exported program equal ours to {difference:.1e}"


def compare_with_stock(checkpoint: Checkpoint, folder: str | Path) -> list[str]:
    """Compares with the tokens and the logits of stock transformers, of real texts where there is a
    tokenizer; returns nothing where torch is missing.

    Raises:
      ValueError: the tokens differ, or the logits by more than 1e-4.
    """
    if not importlib.util.find_spec("torch"):
        return []
    lines = [compare_texts(checkpoint, folder)] if checkpoint.tokenizer else []
    rows = some_rows(checkpoint)
    theirs = stock_logits(checkpoint, folder, *rows)
    # Stock classes have one ε for all LayerNorms; what that costs is told apart from errors.
    stock = replace(checkpoint, config=replace(checkpoint.config, head_norm_eps=None))
    ours = logits(stock, *rows)
    difference = float(np.abs(ours - theirs).max())
    if difference > 1e-4:
        raise ValueError(f"{folder}: logits from stock transformers differ by {difference:.1e}")
    lines += [f"logits from stock transformers equal ours to {difference:.1e}"]
    own, common = checkpoint.config.head_norm_eps, checkpoint.config.layer_norm_eps
    if own not in (None, common):
        cost = float(np.abs(ours - logits(checkpoint, *rows)).max())
        lines += [
            f"but the head's LayerNorm has ε {own:g}, which stock classes cannot express: "
            f"with their {common:g} the logits differ by {cost:.1e}"
        ]
    return lines


def compare_texts(checkpoint: Checkpoint, folder: str | Path) -> str:
    """Compares the token ids of TEXTS with those of stock `AutoTokenizer`.

    Raises:
      ValueError: they differ.
    """
    from transformers import AutoTokenizer

    ids, mask = text_rows(checkpoint.required_tokenizer, checkpoint.config.positions)
    stock = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    for text, row, there in zip(TEXTS, plain_ids(ids), mask, strict=True):
        theirs = stock(text, truncation=True)["input_ids"]
        if row[there].tolist() != theirs:
            raise ValueError(
                f"{folder}: stock transformers cuts {text[:40]!r} into {theirs[:12]} …, this "
                f"package into {row[there].tolist()[:12]} …"
            )
    return f"token ids from stock transformers equal ours in {len(TEXTS)} texts"


def some_rows(checkpoint: Checkpoint) -> tuple[np.ndarray, np.ndarray]:
    """Ids and mask: of TEXTS, or two rows of random tokens where there is no tokenizer."""
    width = min(32, checkpoint.config.positions)
    if checkpoint.tokenizer:
        return text_rows(checkpoint.tokenizer, width)
    choices = np.setdiff1d(np.arange(checkpoint.config.vocab_size), [1])
    ids = np.random.default_rng(0).choice(choices, (2, width)).astype(np.int32)
    return ids, np.ones(ids.shape, bool)


def text_rows(tokenizer: Tokenizer, width: int) -> tuple[np.ndarray, np.ndarray]:
    """TEXTS as rows of tokens."""
    limit = min(width, tokenizer.max_length or width)
    ids, mask = tokenizer.encode([TEXTS], seq_len=limit)
    return ids, mask


def logits(checkpoint: Checkpoint, ids: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Logits, or the hidden states where there is no head; 0 at padding."""
    mask = np.ones(ids.shape, bool) if mask is None else mask
    inputs = inputs_of(checkpoint, ids, mask)
    with jax.default_matmul_precision("float32"):  # accelerators round to less by default
        return _at_tokens(forward(checkpoint.model, checkpoint.params, *inputs), mask)


def inputs_of(checkpoint: Checkpoint, ids: np.ndarray, mask: np.ndarray) -> list[np.ndarray]:
    """Ids, mask and, for a masked LM, every position."""
    everywhere = np.tile(np.arange(ids.shape[1], dtype=np.int32), (len(ids), 1))
    return [ids, mask] + [everywhere] * (checkpoint.head == "masked_lm")


def _at_tokens(outputs, mask: np.ndarray) -> np.ndarray:
    outputs = np.asarray(outputs)
    return outputs * mask[:, :, None] if outputs.ndim == 3 else outputs


def stock_logits(
    checkpoint: Checkpoint, folder: str | Path, ids: np.ndarray, mask: np.ndarray
) -> np.ndarray:
    """As `logits`, from the stock class."""
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    # A pooler that the encoder does not need would be drawn at random, with a warning.
    plain = {"add_pooling_layer": False} if checkpoint.headless else {}
    stock = getattr(transformers, hf_class(checkpoint)).from_pretrained(folder, **plain).eval()
    choice = checkpoint.head == "choice"  # rows [b, c, s]; here a question has one choice
    each = lambda x: torch.tensor(x[:, None] if choice else x)
    with torch.no_grad():
        outputs = stock(each(plain_ids(ids)), attention_mask=each(mask.astype(np.int64)))
    found = outputs.last_hidden_state if checkpoint.headless else outputs.logits
    return _at_tokens(found.numpy(), mask)

# SPDX-License-Identifier: Apache-2.0
"""A written folder, read back: by us, and by whom it was written for."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bort_jax.interop import Checkpoint, hf_class, load, save
from bort_jax.interop.orbax_folder import load_orbax, save_orbax
from bort_jax.interop.stablehlo import load_program, load_stablehlo, save_stablehlo
from bort_jax.model import forward


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
      ValueError: the logits differ at all (ours), or by more than 1e-4 (others).
    """
    read_back = FORMATS[form].read(folder)
    ids = random_ids(checkpoint)
    difference = float(np.abs(logits(checkpoint, ids) - logits(read_back, ids)).max())
    if difference > 0:
        raise ValueError(f"{folder}: logits from {FORMATS[form].holds} differ by {difference:.1e}")
    lines = [f"logits from {FORMATS[form].holds} equal ours to {difference:.1e}"]
    if form == "hf":
        return compare_with_stock(checkpoint, folder) or lines
    return lines + ([compare_with_program(checkpoint, folder)] if form == "stablehlo" else [])


def compare_with_program(checkpoint: Checkpoint, folder: str | Path) -> str:
    """Raises ValueError if the exported program's logits differ by more than 1e-4."""
    ids = random_ids(checkpoint).astype(np.int32)
    theirs = load_program(folder)(ids, *other_inputs(checkpoint, ids))
    difference = float(np.abs(logits(checkpoint, ids) - np.asarray(theirs)).max())
    if difference > 1e-4:
        raise ValueError(f"{folder}: logits of the exported program differ by {difference:.1e}")
    return f"logits of the exported program equal ours to {difference:.1e}"


def compare_with_stock(checkpoint: Checkpoint, folder: str | Path) -> list[str]:
    """Compares with stock transformers' logits; returns nothing where torch is missing.

    Raises:
      ValueError: the logits differ by more than 1e-4.
    """
    ids = random_ids(checkpoint)
    theirs = stock_logits(checkpoint, folder, ids)
    if theirs is None:
        return []
    # Stock classes have one ε for all LayerNorms; what that costs is told apart from errors.
    stock = replace(checkpoint, config=replace(checkpoint.config, head_norm_eps=None))
    ours = logits(stock, ids)
    difference = float(np.abs(ours - theirs).max())
    if difference > 1e-4:
        raise ValueError(f"{folder}: logits from stock transformers differ by {difference:.1e}")
    lines = [f"logits from stock transformers equal ours to {difference:.1e}"]
    own, common = checkpoint.config.head_norm_eps, checkpoint.config.layer_norm_eps
    if own not in (None, common):
        cost = float(np.abs(ours - logits(checkpoint, ids)).max())
        lines += [
            f"but the head's LayerNorm has ε {own:g}, which stock classes cannot express: "
            f"with their {common:g} the logits differ by {cost:.1e}"
        ]
    return lines


def random_ids(checkpoint: Checkpoint) -> np.ndarray:
    """Two rows of random tokens, none of them padding."""
    special = checkpoint.tokenizer.special if checkpoint.tokenizer else None
    width = min(32, checkpoint.config.positions)
    choices = np.setdiff1d(np.arange(checkpoint.config.vocab_size), special or [1])
    return np.random.default_rng(0).choice(choices, (2, width))


def logits(checkpoint: Checkpoint, ids: np.ndarray) -> np.ndarray:
    """Logits, or the hidden states where there is no head."""
    beside = other_inputs(checkpoint, ids)
    return np.asarray(forward(checkpoint.model, checkpoint.params, ids, *beside))


def other_inputs(checkpoint: Checkpoint, ids: np.ndarray) -> list[np.ndarray]:
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

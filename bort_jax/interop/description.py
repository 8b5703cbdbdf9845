# SPDX-License-Identifier: Apache-2.0
"""What stands beside the parameters in every format of ours: a description and a tokenizer."""

import json
from pathlib import Path

from bort_jax.data.tokenizer import load_tokenizer
from bort_jax.interop.checkpoint import Checkpoint

DESCRIPTION = "checkpoint.json"


def save_tokenizer(checkpoint: Checkpoint, folder: Path) -> None:
    """Writes the tokenizer where there is one.

    Raises:
      ValueError: it has another number of tokens than the embedding table.
    """
    if checkpoint.tokenizer:
        checkpoint.with_tokenizer(checkpoint.tokenizer, source=str(folder))
        checkpoint.tokenizer.save(folder)


def save_description(checkpoint: Checkpoint, folder: Path) -> None:
    """Writes all but the parameters; the description last."""
    folder.mkdir(parents=True, exist_ok=True)
    save_tokenizer(checkpoint, folder)
    (folder / DESCRIPTION).write_text(json.dumps(checkpoint.description(), indent=2))


def load_description(folder: Path) -> Checkpoint:
    """A checkpoint without parameters.

    Raises:
      FileNotFoundError, ValueError: there is no description, or it is none of ours.
    """
    if not (folder / DESCRIPTION).is_file():
        raise FileNotFoundError(f"no {DESCRIPTION} in {folder}")
    empty = Checkpoint.of_description(json.loads((folder / DESCRIPTION).read_text()))
    return empty.with_tokenizer(load_tokenizer(folder), source=str(folder))


def check_fits(found: dict, expected: dict, where: Path) -> None:
    """Raises ValueError naming the entries in which parameters and description differ."""
    if found != expected:
        different = sorted(k for k in found.keys() | expected if found.get(k) != expected.get(k))
        raise ValueError(f"{where} does not fit its {DESCRIPTION}: {different}")

# SPDX-License-Identifier: Apache-2.0
"""The description and the tokenizer beside the parameters, in every format of ours."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from bort_jax.data.tokenizer_files import load_tokenizer
from bort_jax.interop.checkpoint import Checkpoint
from bort_jax.storage.files import read_json, write_json

DESCRIPTION = "checkpoint.json"
DIGEST = "params_sha256"  # neither orbax nor safetensors would notice a flipped bit


def save_tokenizer(checkpoint: Checkpoint, folder: Path) -> None:
    """Writes the tokenizer where there is one.

    Raises:
      ValueError: it has another number of tokens than the embedding table.
    """
    if checkpoint.tokenizer:
        checkpoint.with_tokenizer(checkpoint.tokenizer, source=str(folder))
        checkpoint.tokenizer.save(folder, positions=checkpoint.config.positions)


def save_description(checkpoint: Checkpoint, folder: Path) -> None:
    """Writes all but the parameters; the description last."""
    folder.mkdir(parents=True, exist_ok=True)
    save_tokenizer(checkpoint, folder)
    described = checkpoint.description() | {DIGEST: digest(checkpoint.params)}
    write_json(folder / DESCRIPTION, described)


def load_description(folder: Path) -> Checkpoint:
    """A checkpoint without parameters.

    Raises:
      FileNotFoundError, ValueError: there is no description, or it is none of ours.
    """
    if not (folder / DESCRIPTION).is_file():
        raise FileNotFoundError(f"no {DESCRIPTION} in {folder}")
    described = read_json(folder / DESCRIPTION)
    empty = Checkpoint.of_description(described, source=str(folder / DESCRIPTION))
    return empty.with_tokenizer(load_tokenizer(folder), source=str(folder))


def attach_params(empty: Checkpoint, params: Any, folder: Path) -> Checkpoint:
    """The checkpoint with its parameters; raises ValueError where they changed since written.

    A description of version 0.1.0 has no digest, and is taken as it is.
    """
    wanted = read_json(folder / DESCRIPTION).get(DIGEST)
    if wanted not in (None, digest(params)):
        raise ValueError(
            f"{folder}: the parameters are not those that were written: a damaged file"
        )
    return empty.with_params(params)


def digest(params: Any) -> str:
    """sha256 of a tree's names, shapes and numbers."""
    total = hashlib.sha256()
    for name, array in sorted(traverse_util.flatten_dict(params, sep=".").items()):
        array = np.ascontiguousarray(array)
        total.update(f"{name} {array.dtype} {array.shape}".encode())
        total.update(array.tobytes())
    return total.hexdigest()


def fingerprint(checkpoint: Checkpoint) -> str:
    """SHA-256 of the architecture and of every parameter."""
    key = replace(checkpoint.config, dtype="float32").key()
    return hashlib.sha256(f"{key} {digest(checkpoint.params)}".encode()).hexdigest()


def identity(checkpoint: Checkpoint | None) -> str | None:
    """SHA-256 of all that a model's answers depend on: weights, tokenizer, labels."""
    if checkpoint is None:
        return None
    words = checkpoint.tokenizer.sha256 if checkpoint.tokenizer else ""
    about = (fingerprint(checkpoint), words, checkpoint.labels, checkpoint.head)
    return hashlib.sha256(str(about).encode()).hexdigest()


def check_fits(found: dict, expected: dict, where: Path) -> None:
    """Raises ValueError naming the entries in which parameters and description differ."""
    if found != expected:
        different = sorted(k for k in found.keys() | expected if found.get(k) != expected.get(k))
        raise ValueError(f"{where} does not fit its {DESCRIPTION}: {different}")

# SPDX-License-Identifier: Apache-2.0
"""A checkpoint as an orbax folder: any architecture, on any device."""

import json
from pathlib import Path

import jax
import numpy as np

from bort_jax.data.tokenizer import load_tokenizer
from bort_jax.interop.checkpoint import Checkpoint
from bort_jax.model import param_structs

DESCRIPTION, PARAMS = "checkpoint.json", "params"


def save_description(checkpoint: Checkpoint, folder: Path) -> None:
    """Writes all but the parameters; the description last."""
    folder.mkdir(parents=True, exist_ok=True)
    if checkpoint.tokenizer:
        checkpoint.with_tokenizer(checkpoint.tokenizer, source=str(folder))
        checkpoint.tokenizer.save(folder)
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


def save_orbax(checkpoint: Checkpoint, folder: str | Path) -> Path:
    """Writes `params/` with orbax, `checkpoint.json` and the tokenizer."""
    import orbax.checkpoint as ocp

    folder = Path(folder).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    with ocp.StandardCheckpointer() as writer:
        writer.save(folder / PARAMS, checkpoint.params, force=True)
    save_description(checkpoint, folder)
    return folder


def load_orbax(folder: str | Path) -> Checkpoint:
    """Reads what `save_orbax` wrote.

    Raises:
      FileNotFoundError, ValueError: something is missing, or shapes or types are others.
    """
    import orbax.checkpoint as ocp

    folder = Path(folder).absolute()
    empty = load_description(folder)
    target = param_structs(empty.model)
    with ocp.StandardCheckpointer() as reader:
        _check_types(reader.metadata(folder / PARAMS).item_metadata, target, folder)
        params = reader.restore(folder / PARAMS, target)
    return empty.with_params(jax.tree.map(np.asarray, params))


def _check_types(found, target, folder: Path) -> None:
    """Orbax would cast, and cut or fill, without a word."""
    describe = lambda tree: {
        jax.tree_util.keystr(path): (tuple(leaf.shape), np.dtype(leaf.dtype))
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    found, expected = describe(dict(found)), describe(target)
    if found != expected:
        different = sorted(k for k in found.keys() | expected if found.get(k) != expected.get(k))
        raise ValueError(f"{folder / PARAMS} does not fit its {DESCRIPTION}: {different}")

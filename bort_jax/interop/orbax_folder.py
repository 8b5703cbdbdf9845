# SPDX-License-Identifier: Apache-2.0
"""A checkpoint as an orbax folder: any architecture, on any device."""

from pathlib import Path

import jax
import numpy as np

from bort_jax.interop.bounds import check_depth
from bort_jax.interop.checkpoint import Checkpoint
from bort_jax.interop.description import (
    check_fits,
    load_description,
    save_description,
    with_checked,
)
from bort_jax.model import param_structs

PARAMS = "params"


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
    with ocp.StandardCheckpointer() as reader:
        try:
            found = dict(reader.metadata(folder / PARAMS).item_metadata)
        except (TypeError, AttributeError, KeyError) as error:  # orbax: None where it cannot read
            raise ValueError(f"{folder / PARAMS} cannot be read by orbax: {error}") from error
        check_depth(empty.config.arch.depth, len(jax.tree.leaves(found)), str(folder / PARAMS))
        target = param_structs(empty.model)
        _check_types(found, target, folder)
        params = reader.restore(folder / PARAMS, target)
    return with_checked(empty, jax.tree.map(np.asarray, params), folder)


def _check_types(found: dict, target, folder: Path) -> None:
    """Orbax would cast, and cut or fill, without a word."""
    describe = lambda tree: {
        jax.tree_util.keystr(path): (tuple(leaf.shape), np.dtype(leaf.dtype))
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    check_fits(describe(found), describe(target), folder / PARAMS)

# SPDX-License-Identifier: Apache-2.0
"""A checkpoint as an orbax folder: any architecture, on any device."""

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import clear_frames

import jax
import numpy as np

from bort_jax.interop.bounds import check_depth
from bort_jax.interop.checkpoint import Checkpoint
from bort_jax.interop.description import (
    attach_params,
    check_fits,
    load_description,
    save_description,
)
from bort_jax.model import param_structs
from bort_jax.storage.native import native_errors

PARAMS = "params"
THREADS_END = 0.3  # seconds


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
    where = folder / PARAMS
    # Orbax raises whatever a damaged folder makes it meet, and its threads go on a while.
    broken = f"{where} cannot be read by orbax"
    with native_errors(broken), _let_threads_end(), ocp.StandardCheckpointer() as reader:
        found = dict(reader.metadata(where).item_metadata)
    check_depth(empty.config.arch.depth, len(jax.tree.leaves(found)), str(where))
    target = param_structs(empty.model)
    _check_types(found, target, folder)
    with native_errors(broken), _let_threads_end(), ocp.StandardCheckpointer() as reader:
        params = reader.restore(where, target)
    return attach_params(empty, jax.tree.map(np.asarray, params), folder)


@contextmanager
def _let_threads_end() -> Iterator[None]:
    """After an error waits for orbax's own threads, which print that their loop is closed, and
    collects its tasks, which print that nobody asked for their errors."""
    try:
        yield
    except Exception as error:
        time.sleep(THREADS_END)
        clear_frames(error.__traceback__)  # they hold the tasks
        gc.collect()
        raise


def _check_types(found: dict, target, folder: Path) -> None:
    """Orbax would cast, and cut or fill, without a word."""
    describe = lambda tree: {
        jax.tree_util.keystr(path): (tuple(leaf.shape), np.dtype(leaf.dtype))
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    check_fits(describe(found), describe(target), folder / PARAMS)

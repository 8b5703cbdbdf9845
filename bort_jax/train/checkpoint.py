# SPDX-License-Identifier: Apache-2.0
"""Training state on disk: orbax, with checksums of our own, since orbax has none."""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from bort_jax.train.parallel import barrier, is_leader
from bort_jax.train.run_folder import write_json

CHECKSUMS = "sha256.json"
log = logging.getLogger(__name__)


class Checkpoints:
    """The last checkpoints of a run; a step counts only once its checksums are written."""

    def __init__(self, folder: Path, *, keep: int = 2):
        self.folder = folder.absolute()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, enable_async_checkpointing=False, create=True
        )
        self.manager = ocp.CheckpointManager(
            self.folder,
            options=options,
            # A fresh manager could not read the metadata of what another one wrote without it.
            item_handlers={"state": ocp.StandardCheckpointHandler()},
        )

    def save(self, step: int, state: Any) -> None:
        """Saves a tree of arrays; one that is already there and verifies is left alone.

        Raises:
          OSError: no room, say; earlier steps stay usable.
        """
        if self._verifies(step):
            return
        if step in self.manager.all_steps():
            self.manager.delete(step)
        host = jax.tree.map(np.asarray, state)
        try:
            self.manager.save(step, args=ocp.args.Composite(state=ocp.args.StandardSave(host)))
        except Exception as error:  # tensorstore reports a full disk as ValueError
            raise OSError(f"could not save step {step} to {self.folder}: {error}") from error
        if is_leader():
            write_json(self._step(step) / CHECKSUMS, _checksums(self._step(step)))
        barrier(f"checksums of {step}")

    def restore(self, like: Any) -> Any | None:
        """The newest state that verifies and has the shapes and types of `like`, or None.

        Raises:
          ValueError: a verified state has other shapes or types: another model's.
        """
        for step in sorted(self.manager.all_steps(), reverse=True):
            if not self._verifies(step):
                log.warning("checkpoint %s is damaged or unfinished; trying the one before", step)
                continue
            self._check_types(step, like)
            target = jax.tree.map(np.asarray, like)
            restored = self.manager.restore(
                step, args=ocp.args.Composite(state=ocp.args.StandardRestore(target))
            )
            return jax.tree.map(np.asarray, restored["state"])
        return None

    def close(self) -> None:
        self.manager.close()

    def _step(self, step: int) -> Path:
        return self.folder / str(step)

    def _verifies(self, step: int) -> bool:
        try:
            expected = json.loads((self._step(step) / CHECKSUMS).read_text())
        except (OSError, ValueError):  # not there, or itself damaged
            return False
        return expected == _checksums(self._step(step))

    def _check_types(self, step: int, like: Any) -> None:
        # orbax would cast to the wanted type without a word.
        found = self.manager.item_metadata(step)["state"]
        found = jax.tree.leaves(found, is_leaf=lambda leaf: hasattr(leaf, "dtype"))
        wanted = jax.tree.leaves(like)
        describe = lambda leaves: [
            (tuple(leaf.shape), np.dtype(leaf.dtype).name) for leaf in leaves
        ]
        if sorted(describe(found)) != sorted(describe(wanted)):
            raise ValueError(f"checkpoint {self._step(step)} holds the state of another model")


def _checksums(folder: Path) -> dict[str, str]:
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != CHECKSUMS)
    return {str(file.relative_to(folder)): _sha256(file) for file in files}


def _sha256(file: Path) -> str:
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()

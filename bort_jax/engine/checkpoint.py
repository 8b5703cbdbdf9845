# SPDX-License-Identifier: Apache-2.0
"""Training state on disk: written by orbax in the background, sealed, and read only if it verifies.

A step counts once its folder is sealed (`seal.py`); older steps go only after that. So a kill at
any moment leaves the newest sealed step, and at worst an unfinished folder, which is passed over.
"""

import logging
import math
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from bort_jax.engine.processes import from_leader, is_leader
from bort_jax.storage.checks import differences
from bort_jax.storage.files import read_json
from bort_jax.storage.native import native_errors
from bort_jax.storage.seal import SEAL, faults, is_sealed, seal

log = logging.getLogger(__name__)


class OtherRun(ValueError):
    """A checkpoint belongs to another architecture, tokenizer, data, or the like."""


class Checkpoints:
    """The last and the best checkpoints of a run.

    Every process calls every method; the leader writes. The folder is one that all of them see.

    Args:
      folder: where the steps are.
      identity: what must be the same for a step to be continued, by name: JSON values.
      keep: how many of the last steps stay.
      keep_best: how many stay of those with the lowest held-out loss.
    """

    def __init__(
        self,
        folder: Path,
        *,
        identity: Mapping[str, Any] | None = None,
        keep: int = 2,
        keep_best: int = 1,
    ):
        if keep < 1 or keep_best < 0:
            raise ValueError(f"keep must be at least 1, keep_best 0; got {keep} and {keep_best}")
        self.folder, self.identity = folder.absolute(), dict(identity or {})
        self.keep, self.keep_best = keep, keep_best
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="seal")
        self.sealing: Future = Future()
        self.sealing.set_result(None)

    def save(
        self,
        step: int,
        state: Any,
        *,
        heldout_loss: float | None = None,
    ) -> None:
        """Copies a tree of arrays and returns; it is written and sealed meanwhile.

        A step that is there already is left alone.

        Args:
          step: at least 1.
          state: may be donated or changed as soon as this returns.
          heldout_loss: of this state, if it is known.

        Raises:
          OSError: this save, or the one before it, failed: no room, say. Earlier steps stay.
        """
        self.wait()
        if is_sealed(self.folder / str(step)):
            return
        meta = {"step": step, "identity": self.identity, "heldout_loss": heldout_loss}
        host = jax.tree.map(np.asarray, jax.device_get(state))
        arguments = ocp.args.Composite(
            state=ocp.args.StandardSave(host), meta=ocp.args.JsonSave(meta)
        )
        try:
            self._manager.save(step, args=arguments, force=True)
        except Exception as error:
            raise self._failure(step, error) from error
        self.sealing = self.thread.submit(self._finish, step)

    def check(self) -> None:
        """Raises what `save` would, without waiting."""
        if self.sealing.done():
            self.wait()

    def wait(self) -> None:
        """Returns when the last save is sealed; raises its OSError if it failed, once."""
        sealing, self.sealing = self.sealing, Future()
        self.sealing.set_result(None)
        sealing.result()

    def restore(self, like: Any) -> Any | None:
        """The newest step that verifies, with the shapes and types of `like`, or None.

        Damaged and unfinished steps after it are set aside, for they will be made again.

        Raises:
          OtherRun: it has another identity, or other shapes or types.
          ValueError: there are finished steps, and every one is damaged.
        """
        newest = from_leader((newest_verified(self.folder) or 0) if is_leader() else 0)
        folder = self.folder / str(newest)
        state = read_step(folder, like, identity=self.identity) if newest else None
        if is_leader():
            for step in steps(self.folder):
                if step > newest or not is_sealed(self.folder / str(step)):
                    _set_aside(self.folder / str(step))
        return state

    def close(self) -> None:
        """Waits for the last save, and raises its error."""
        try:
            self.wait()
        finally:
            self.thread.shutdown()
            if "_manager" in self.__dict__:
                self._close_manager()

    @cached_property
    def _manager(self) -> ocp.CheckpointManager:
        # The steps to delete are chosen here: orbax would do it before the new one is sealed.
        options = ocp.CheckpointManagerOptions(
            max_to_keep=None,
            enable_async_checkpointing=True,
            cleanup_tmp_directories=True,
            save_root_metadata=False,
            create=True,
        )
        return ocp.CheckpointManager(self.folder, options=options)

    def _close_manager(self) -> None:
        try:
            self._manager.close()
        except Exception as error:  # the save's own, which `wait` has raised
            log.debug("orbax: %s", error)

    def _finish(self, step: int) -> None:
        try:
            self._manager.wait_until_finished()
            if is_leader():
                seal(self.folder / str(step))
                self._prune()
        except Exception as error:  # tensorstore reports a full disk as ValueError
            raise self._failure(step, error) from error

    def _prune(self) -> None:
        """Deletes the sealed steps that are neither among the last nor among the best."""
        sealed = [step for step in steps(self.folder) if is_sealed(self.folder / str(step))]
        losses = {step: heldout_loss(self.folder / str(step)) for step in sealed}
        best = sorted(sealed, key=lambda step: (losses[step], -step))[: self.keep_best]
        best = [step for step in best if math.isfinite(losses[step])]
        for step in set(sealed[: -self.keep]) - set(best):
            (self.folder / str(step) / SEAL).unlink()  # first: half of a step is no step
            shutil.rmtree(self.folder / str(step))

    def _failure(self, step: int, error: Exception) -> OSError:
        return OSError(
            f"could not save step {step} to {self.folder}: {error}; earlier steps stay: make room "
            "or repair the disk, and the same command continues from the newest of them"
        )


def steps(folder: Path) -> list[int]:
    """The steps that have a folder, in order, finished or not."""
    return sorted(int(step.name) for step in folder.glob("*") if step.name.isdigit())


def newest_verified(folder: Path) -> int | None:
    """The newest step whose every byte is as it was sealed; None if no step was ever finished.

    Raises:
      ValueError: there are finished steps, and every one is damaged.
    """
    damaged, passed = [], []
    for step in reversed(steps(folder)):
        if not is_sealed(folder / str(step)):
            passed.append(f"checkpoint {folder / str(step)} is unfinished")
            continue
        wrong = faults(folder / str(step))
        if not wrong:
            for reason in passed:
                log.warning("%s; trying the one before", reason)
            return step
        damaged += wrong
        passed.append(f"checkpoint {step} is damaged ({_some(wrong)})")
    if damaged:
        raise ValueError(
            f"every checkpoint in {folder} is damaged ({_some(damaged)}): put a copy there, or "
            "delete the folder to start from the beginning"
        )
    return None


def best_verified(folder: Path) -> int | None:
    """The step with the lowest held-out loss of those that verify; None if none was measured."""
    losses = {step: heldout_loss(folder / str(step)) for step in steps(folder)}
    measured = [step for step in sorted(losses, key=losses.__getitem__) if losses[step] < math.inf]
    whole = (step for step in measured if not faults(folder / str(step)))
    return next(whole, None)


def read_step(folder: Path, like: Any, *, identity: Mapping[str, Any]) -> Any:
    """Reads one verified step, and changes nothing.

    Args:
      identity: what it must be; of what is not named here it may be anything.

    Raises:
      FileNotFoundError: this process does not see the folder.
      OtherRun: it has another identity, or other shapes or types than `like`.
    """
    folder = folder.absolute()
    known = _meta(folder)["identity"]
    found = {name: known.get(name) for name in identity}
    _check_same(folder, "the run of", found, dict(identity))
    broken = f"{folder} cannot be read by orbax"
    with native_errors(broken), ocp.StandardCheckpointer() as reader:
        described = reader.metadata(folder / "state").item_metadata
    # orbax would cast to the wanted type, and cut or fill to the shape, without a word.
    _check_same(folder, "a state of", _shapes_of(dict(described)), _shapes_of(like))
    with native_errors(broken), ocp.StandardCheckpointer() as reader:
        state = reader.restore(folder / "state", jax.tree.map(np.asarray, like))
    return jax.tree.map(np.asarray, state)


def heldout_loss(folder: Path) -> float:
    """The held-out loss of a step, infinite if it was not measured or cannot be read."""
    try:
        loss = float(_meta(folder)["heldout_loss"])
    except (OSError, ValueError, TypeError, KeyError):
        return math.inf
    return math.inf if math.isnan(loss) else loss


def _meta(folder: Path) -> dict[str, Any]:
    file = folder / "meta" / "metadata"
    if not file.is_file():
        raise FileNotFoundError(
            f"no {file}: every process must see the run's folder, and one of an earlier version "
            "cannot be continued"
        )
    return read_json(file)


def _check_same(folder: Path, what: str, found: dict, wanted: dict) -> None:
    different = differences(found, wanted)
    if different:
        raise OtherRun(
            f"{folder} holds {what} another model ({_some(different)}); choose another --out, or "
            "the same configuration and data to resume"
        )


def _shapes_of(tree: Any) -> dict[str, str]:
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: hasattr(x, "dtype"))
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): (
            f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"
        )
        for path, leaf in leaves
    }


def _some(complaints: list[str]) -> str:
    more = [f"and {len(complaints) - 3} more"] if len(complaints) > 3 else []
    return "; ".join(complaints[:3] + more)


def _set_aside(folder: Path) -> None:
    if not is_sealed(folder):
        shutil.rmtree(folder)
        return
    aside = folder.with_name(folder.name + ".damaged")
    shutil.rmtree(aside, ignore_errors=True)
    folder.replace(aside)

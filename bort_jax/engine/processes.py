# SPDX-License-Identifier: Apache-2.0
"""Several processes as one run: joining, waiting for one another, one that goes first."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from shutil import copytree
from tempfile import TemporaryDirectory
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from bort_jax.engine.rendezvous import meet

HEARTBEAT_SECONDS = 30  # before jax ends a process whose peer is gone; its default is 100
SHUTDOWN_SECONDS = 10  # that a process which ends waits for the others; its default is 300


def is_leader() -> bool:
    """Whether this is the one process that writes files other than orbax's."""
    return jax.process_index() == 0


def join_processes(
    coordinator: str | None = None, processes: int | None = None, process: int | None = None
) -> None:
    """Joins the other processes of a run, before anything touches a device.

    Args:
      coordinator: `host:port` of process 0; without it jax finds all three in the environment
        of SLURM, Open MPI, GKE or a TPU pod.
      processes: how many there are.
      process: which of them this is, from 0.

    Raises:
      ValueError: some of the three are given and not all, there is no such process, or no
        environment says them.
      PeerMissing: a process never came.
    """
    given = (coordinator, processes, process)
    if any(value is not None for value in given) and None in given:
        raise ValueError("coordinator, processes and process belong together: give all or none")
    if processes is not None and not 0 <= (process or 0) < processes:
        raise ValueError(f"process must be in 0 … {processes - 1}; got {process}")
    # It would swallow SIGTERM, which `signals.py` hears.
    jax.config.update("jax_enable_preemption_service", False)
    if coordinator is not None and processes is not None and process is not None:
        meet(coordinator, processes, process)
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        )
    except ValueError as error:
        if coordinator is not None:
            raise
        raise ValueError(
            "no SLURM, Open MPI, GKE or TPU pod found in the environment; give --coordinator "
            "HOST:PORT, --processes N and --process K"
        ) from error


def barrier(name: str) -> None:
    """Waits until every process is here; nothing with one process."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def leader_first(make: Callable) -> Any:
    """Calls `make` in the leader, then in the others, which find what it wrote.

    Raises:
      ValueError: in the others, where it raised in the leader.
    """
    made, failure = None, None
    if is_leader():
        try:
            made = make()
        except Exception as error:
            failure = error
    went_well = from_leader(failure is None)
    if failure:
        raise failure
    if not went_well:
        raise ValueError("the first process failed; its message says why")
    return made if is_leader() else make()


def from_leader(value: int) -> int:
    """The leader's value, in every process."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def shard_items(items: Sequence) -> list:
    """Round-robin share of `items` for this process, padded with the last item to equal length."""
    each = -(-len(items) // jax.process_count())
    mine = range(jax.process_index(), each * jax.process_count(), jax.process_count())
    return [items[min(k, len(items) - 1)] for k in mine]


def gather_items(trees: Sequence) -> list:
    """Gathers the results of the first of the sharded items, in their order, in every process.

    Args:
      trees: of numpy arrays, one for each of this process's first items; where processes have
        finished different numbers of them, the least counts.
    """
    if jax.process_count() == 1:
        return list(trees)
    each = int(multihost_utils.process_allgather(np.int32(len(trees))).min())
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *trees[:each])
    everyone = multihost_utils.process_allgather(stacked)
    return [
        jax.tree.map(lambda x, p=p, k=k: x[p, k], everyone)
        for k in range(each)
        for p in range(jax.process_count())
    ]


@contextmanager
def leader_folder(folder: Path) -> Iterator[Path]:
    """A folder for each process of a command that all of them run from end to end: the leader's is
    `folder`; the others have a copy of it as it is, which goes when they end, and print nothing.

    All end together: a process that has left takes its part of the run's connection with it.
    """
    if jax.process_count() == 1:
        yield folder
        return
    with TemporaryDirectory() as scratch, open(os.devnull, "w") as nowhere:
        if not is_leader() and folder.is_dir():
            copytree(folder, scratch, dirs_exist_ok=True)
        barrier("copied")
        if is_leader():
            yield folder
        else:
            with redirect_stdout(nowhere):
                yield Path(scratch)
        barrier("finished")

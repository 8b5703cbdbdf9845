# SPDX-License-Identifier: Apache-2.0
"""The options by which a command joins the processes that run it together."""

from dataclasses import dataclass, fields

from bort_jax.engine.processes import join_processes


@dataclass(frozen=True)
class Joining:
    """Which process of how many this is.

    Attributes:
      distributed: join the other hosts' processes first; jax finds them in the environment of
        SLURM, Open MPI, GKE and TPU pods.
      coordinator: host:port of process 0, where no environment says it.
      processes: how many there are then.
      process: which of them this one is, from 0.
    """

    distributed: bool = False
    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None

    def join(self) -> None:
        """Joins the others, if there are any; before anything touches a device."""
        if self.distributed or self.coordinator or self.processes or self.process:
            join_processes(self.coordinator, self.processes, self.process)


PLACE = tuple(field.name for field in fields(Joining))  # not part of what a run is

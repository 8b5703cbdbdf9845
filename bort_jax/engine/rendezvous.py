# SPDX-License-Identifier: Apache-2.0
"""Processes meet at the coordinator's address before jax joins them: who is missing is said.

jax alone waits in silence, and ends a process whose peer never comes with a trace of C++.
"""

import socket
import sys
import time
from collections.abc import Collection
from contextlib import ExitStack

PATIENCE = 300.0  # seconds that a process waits for its peers
TOLD_EVERY = 30.0  # seconds between the lines that say so
GO = b"go"
HELLO = b"bort-jax %6d\n"


class PeerMissing(Exception):
    """A process of the run never came."""

    exit_code = 75  # EX_TEMPFAIL: the same command may be tried again


def meet(coordinator: str, processes: int, process: int, *, seconds: float = PATIENCE) -> None:
    """Returns in every process once all are there.

    Args:
      coordinator: `host:port` of process 0.
      processes: how many there are.
      process: which of them this is, from 0.
      seconds: to wait at the most.

    Raises:
      PeerMissing: one did not come in time; the message names it and the address.
      ValueError: the address is no `host:port`.
      OSError: process 0 cannot listen there.
    """
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"coordinator must be HOST:PORT; got {coordinator!r}")
    wait = _Wait(coordinator, processes, seconds)
    if process == 0:
        _gather(int(port), wait)
    else:
        _come((host, int(port)), process, wait)


class _Wait:
    """What is waited for, how long still, and when it was last said."""

    def __init__(self, coordinator: str, processes: int, seconds: float):
        self.where, self.processes, self.seconds = coordinator, processes, seconds
        self.end, self.told = time.monotonic() + seconds, time.monotonic() - TOLD_EVERY

    def left(self, missing: Collection[int]) -> float:
        """Seconds left, at most one; raises PeerMissing where there are none."""
        names = f"process {', '.join(map(str, sorted(missing)))} of {self.processes}"
        now = time.monotonic()
        if now >= self.end:
            raise PeerMissing(f"{names} did not come to {self.where} within {self.seconds:.0f} s")
        if now - self.told >= TOLD_EVERY:
            self.told = now
            left = f"{self.end - now:.0f} s left"
            print(f"waiting for {names} at {self.where}: {left}", file=sys.stderr, flush=True)
        return min(1.0, self.end - now)


def _gather(port: int, wait: _Wait) -> None:
    missing = set(range(1, wait.processes))
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("", port)))
        peers = []
        while missing:
            server.settimeout(wait.left(missing))
            try:
                peer, _ = server.accept()
                peer.settimeout(1.0)
                hello = peer.recv(len(HELLO % 0))
            except OSError:  # nobody in this second
                continue
            number = hello.removeprefix(b"bort-jax ").strip()
            if hello.startswith(b"bort-jax ") and number.isdigit():
                missing.discard(int(number))
            peers.append(stack.enter_context(peer))
        for peer in peers:
            peer.sendall(GO)
        for peer in peers:  # they close first, so that the port is free at once
            peer.settimeout(1.0)
            peer.recv(1)


def _come(address: tuple[str, int], process: int, wait: _Wait) -> None:
    while True:
        left = wait.left({0})
        try:
            with socket.create_connection(address, timeout=left) as host:
                host.sendall(HELLO % process)
                if _hear_go(host, wait):
                    return
        except OSError:  # it does not listen yet
            time.sleep(min(0.2, left))


def _hear_go(host: socket.socket, wait: _Wait) -> bool:
    """Whether the others have come; False where the connection broke."""
    while True:
        host.settimeout(wait.left(set(range(wait.processes)) - {0}))
        try:
            return host.recv(len(GO)) == GO
        except TimeoutError:
            continue

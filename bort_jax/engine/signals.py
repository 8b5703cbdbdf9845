# SPDX-License-Identifier: Apache-2.0
"""SIGINT and SIGTERM ask to stop at the next place where nothing is lost; a second one insists.

A thread listens, so that the second one acts even while XLA compiles and no Python runs.
"""

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from bort_jax.engine.parallel import largest_of_all

SIGNALS = (signal.SIGINT, signal.SIGTERM)
CLOSE = b"\0"  # no signal has the number 0
log = logging.getLogger(__name__)


class Interrupted(Exception):
    """A signal asked to stop; the state of `step` has been saved."""

    def __init__(self, step: int, signum: int):
        super().__init__(f"stopped after step {step}; the same command resumes from there")
        self.exit_code = 128 + signum


class Stopping(Exception):
    """Raised where a request to stop ends a piece of work that is not worth saving."""


class StopRequest:
    """Whether a signal came, agreed between the processes."""

    def __init__(self):
        self.signum = 0  # of the signal that this process caught
        self.agreed = 0
        self.largest: Callable[[int], int] | None = None

    def poll(self) -> int:
        """The signal that asks to stop, or 0: the same in every process at the same poll.

        Every process polls equally often. Once it is not 0, it stays.
        """
        self.largest = self.largest or largest_of_all()
        if not self.agreed:
            self.agreed = self.largest(self.signum)
        return self.agreed

    def check(self) -> None:
        """Polls, and raises Stopping if there is a request."""
        if self.poll():
            raise Stopping


@contextmanager
def stop_signals() -> Iterator[StopRequest]:
    """Turns SIGINT and SIGTERM into a request to stop; a second one ends the process at once,
    with 128 + its number as the exit code. Outside the main thread nothing is caught.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    with ExitStack() as undo:
        listening, noted = os.pipe()
        os.set_blocking(noted, False)
        listener = threading.Thread(target=_listen, args=(listening, request), daemon=True)
        listener.start()
        undo.callback(_close, listener, listening, noted)
        undo.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(noted))
        for signum in SIGNALS:
            undo.callback(signal.signal, signum, signal.signal(signum, _leave_to_listener))
        yield request


def _leave_to_listener(signum, frame) -> None:
    """The listener has read of it already."""


def _listen(listening: int, request: StopRequest) -> None:
    while (byte := os.read(listening, 1)) not in (CLOSE, b""):
        if byte[0] not in SIGNALS:  # others that Python handles come here too
            continue
        name = signal.Signals(byte[0]).name
        if request.signum:
            log.warning("%s again: stopped at once; what was saved before stays", name)
            os._exit(128 + byte[0])
        request.signum = byte[0]
        log.warning("%s: stops after this step, saved; a second one stops at once", name)


def _close(listener: threading.Thread, listening: int, noted: int) -> None:
    os.write(noted, CLOSE)
    listener.join()
    os.close(listening)
    os.close(noted)

# SPDX-License-Identifier: Apache-2.0
"""Native libraries (Rust, C++) at work on a file: their own words are kept from the screen."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

LONGEST = 300  # characters of a library's message that are told


@contextmanager
def native_errors(what: str) -> Iterator[None]:
    """Whatever is raised inside, a panic of Rust too, is a ValueError that begins with `what`.

    What native code prints meanwhile is dropped: compilers and panics write to the screen before
    anything is raised.
    """
    try:
        with silent_stderr():
            yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # a panic of Rust is no Exception
        raise ValueError(f"{what}: {shorten(error)}") from error


def shorten(error: BaseException, *, longest: int = LONGEST) -> str:
    """An error's message in one line, cut."""
    line = " ".join(str(error).split()) or type(error).__name__
    return line if len(line) <= longest else line[:longest] + " …"


@contextmanager
def silent_stderr() -> Iterator[None]:
    """Drops what is written to file descriptor 2."""
    with suppress(OSError, ValueError):
        sys.stderr.flush()
    try:
        kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    except OSError:  # no standard error, or no descriptor left
        yield
        return
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        yield
    finally:
        with suppress(OSError, ValueError):
            sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)

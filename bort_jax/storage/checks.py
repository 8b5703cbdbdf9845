# SPDX-License-Identifier: Apache-2.0
"""Small checks of what a stored file says, and how two descriptions differ."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bort_jax.storage.native import shorten

DIGEST = re.compile("([0-9a-f]{12})[0-9a-f]{52}")
SHOWN, LONGEST = 5, 80  # differences of one key, characters of a value


def differences(found: dict, wanted: dict) -> list[str]:
    """`key: this there, that asked for`, for each key that is not the same in both; of values that
    are objects the keys in them, and a few of these."""
    lines = []
    for key in sorted(found.keys() | wanted.keys()):
        one, other = found.get(key), wanted.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            inner = differences(one, other)
            more = [f"{key}: {len(inner) - SHOWN} more"] if len(inner) > SHOWN else []
            lines += [f"{key}: {line}" for line in inner[:SHOWN]] + more
        elif one != other:
            lines.append(f"{key}: {_shown(one)} there, {_shown(other)} asked for")
    return lines


@contextmanager
def explain_damage(file: Path) -> Iterator[None]:
    """What goes wrong inside is the fault of what a stored file says, which is damaged, or was
    changed.

    Raises:
      ValueError: it names the file.
    """
    try:
        yield
    except Exception as error:  # a library of tensors has kinds of its own
        fault = f"no {error} in it" if isinstance(error, KeyError) else shorten(error)
        known = str(file) in fault  # who reads JSON has said it
        raise ValueError(fault if known else f"{file} is damaged: {fault}") from error


def _shown(value: Any) -> str:
    text = DIGEST.sub(r"\1…", repr(value))
    return text if len(text) <= LONGEST else text[:LONGEST] + "…"


def require_count(value: Any) -> int:
    expect(type(value) is int and 0 <= value < 2**63, f"{value!r} is no count")
    return value


def require_sha256(value: Any) -> str:
    expect(isinstance(value, str) and len(bytes.fromhex(value)) == 32, f"{value!r} is no SHA-256")
    return value


def expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)

# SPDX-License-Identifier: Apache-2.0
"""Small checks of what a stored file says, and how two descriptions differ."""

import json
from pathlib import Path
from typing import Any


def differences(found: dict, wanted: dict) -> list[str]:
    """`key: this there, that asked for`, for each key that is not the same in both."""
    return [
        f"{key}: {found.get(key)!r} there, {wanted.get(key)!r} asked for"
        for key in sorted(found.keys() | wanted.keys())
        if found.get(key) != wanted.get(key)
    ]


def count_of(value) -> int:
    expect(type(value) is int and 0 <= value < 2**63, f"{value!r} is no count")
    return value


def sha256_of(value) -> str:
    expect(isinstance(value, str) and len(bytes.fromhex(value)) == 32, f"{value!r} is no SHA-256")
    return value


def expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)


def read_object(file: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
      ValueError: it is not JSON, nested beyond reason, or no object.
    """
    try:
        value = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{file} holds no object")
    return value

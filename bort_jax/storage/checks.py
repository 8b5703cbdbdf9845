# SPDX-License-Identifier: Apache-2.0
"""Small checks of what a stored file says, and how two descriptions differ."""

from typing import Any


def differences(found: dict, wanted: dict) -> list[str]:
    """`key: this there, that asked for`, for each key that is not the same in both."""
    return [
        f"{key}: {found.get(key)!r} there, {wanted.get(key)!r} asked for"
        for key in sorted(found.keys() | wanted.keys())
        if found.get(key) != wanted.get(key)
    ]


def require_count(value: Any) -> int:
    expect(type(value) is int and 0 <= value < 2**63, f"{value!r} is no count")
    return value


def require_sha256(value: Any) -> str:
    expect(isinstance(value, str) and len(bytes.fromhex(value)) == 32, f"{value!r} is no SHA-256")
    return value


def expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)

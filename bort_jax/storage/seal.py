# SPDX-License-Identifier: Apache-2.0
"""Checksums of everything in a folder, since orbax has none of the arrays it writes."""

from pathlib import Path

from bort_jax.storage.files import file_sha256, read_json, write_json

SEAL = "sha256.json"


def seal(folder: Path) -> None:
    """Writes the checksums of all files in `folder`: it is finished."""
    write_json(folder / SEAL, _checksums(folder))


def is_sealed(folder: Path) -> bool:
    return (folder / SEAL).is_file()


def faults(folder: Path) -> list[str]:
    """The fault of each file in a sealed folder; none if all is as it was sealed."""
    try:
        wanted = read_json(folder / SEAL)
    except (OSError, ValueError) as error:
        return [f"{folder / SEAL} cannot be read: {error}"]
    found = _checksums(folder)
    names = sorted(name for name in wanted | found if found.get(name) != wanted.get(name))
    return [f"{folder / name} {_fault(name in found, name in wanted)}" for name in names]


def _fault(there: bool, expected: bool) -> str:
    if there and expected:
        return "has another checksum"
    return "is missing" if expected else "does not belong there"


def _checksums(folder: Path) -> dict[str, str]:
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file != folder / SEAL)
    return {str(file.relative_to(folder)): file_sha256(file) for file in files}

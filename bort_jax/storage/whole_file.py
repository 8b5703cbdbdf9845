# SPDX-License-Identifier: Apache-2.0
"""Files that are there whole or not at all, also when the machine stops."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any


class WholeFile:
    """A file being written under a name that does not count yet; its SHA-256 grows with it."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.partial = path, path.with_name(path.name + ".partial")
        self.out, self.digest = self.partial.open("wb"), hashlib.sha256()

    def write(self, data: bytes) -> None:
        self.out.write(data)
        self.digest.update(data)

    def close(self) -> str:
        """Gives the file its name; returns the checksum."""
        # On the disk before a manifest says so: a machine that stops must not leave a gap.
        self.out.flush()
        os.fsync(self.out.fileno())
        self.out.close()
        self.partial.replace(self.path)
        return self.digest.hexdigest()

    def forget(self) -> None:
        self.out.close()
        self.partial.unlink()

    def leave(self) -> None:
        """Lets go of the file, whatever state it is in."""
        self.out.close()


def write_json(path: Path, value: Any) -> None:
    file = WholeFile(path)
    file.write(json.dumps(value, indent=1).encode())
    file.close()


def check_size(path: Path, largest: int) -> None:
    """Raises ValueError where a file is larger than `largest` bytes: it is not read."""
    if path.stat().st_size > largest:
        raise ValueError(f"{path}: {path.stat().st_size} bytes; at most {largest} are read")


def check_sha256(path: Path, wanted: str) -> None:
    """Raises ValueError where the file's checksum is another."""
    with path.open("rb") as data:
        found = hashlib.file_digest(data, "sha256").hexdigest()
    if found != wanted:
        raise ValueError(f"{path} is corrupt: SHA-256 {found[:8]}…, expected {wanted[:8]}…")

# SPDX-License-Identifier: Apache-2.0
"""Files that are there whole or not at all, also when the machine stops; JSON; checksums."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

LFS = b"version https://git-lfs.github.com/spec/"


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A name to write a file to. When the context ends well, the file replaces `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(path)
    yield partial
    _replace(partial, path)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to write to. When the context ends well it gets the name `path`, which may be an
    empty folder before; else nothing of it is left."""
    partial = _partial(path)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.replace(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Writes the whole file or none of it."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes the whole file or none of it."""
    write_text(path, json.dumps(value, indent=2))


def read_json(path: Path, *, remedy: str = "") -> dict[str, Any]:
    """The object in a JSON file.

    Args:
      remedy: what the user can do about a damaged file; ends the message.

    Raises:
      ValueError: it is not JSON, nested beyond reason, or no object.
    """
    check_pointer(path)
    fault = "holds no object"
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        value, fault = None, f"is not JSON: {error}"
    if not isinstance(value, dict):
        raise ValueError(f"{path} {fault}" + f"; {remedy}" * bool(remedy))
    return value


def check_pointer(path: Path) -> None:
    """Raises ValueError where a file is Git LFS's note of where its content is."""
    with path.open("rb") as file:
        if file.read(len(LFS)) == LFS:
            raise ValueError(f"{path} is a Git LFS pointer; fetch the file itself: git lfs pull")


class WholeFile:
    """A file that is written bit by bit and counts once it is closed; its SHA-256 grows with it."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.out, self.digest = path, _partial(path).open("wb"), hashlib.sha256()

    def write(self, data: bytes) -> None:
        self.out.write(data)
        self.digest.update(data)

    def close(self) -> str:
        """Gives the file its name; returns the checksum."""
        self.out.close()
        _replace(_partial(self.path), self.path)
        return self.digest.hexdigest()

    def delete(self) -> None:
        self.out.close()
        _partial(self.path).unlink()

    def abandon(self) -> None:
        """Closes what was written, without its name; after `close` nothing happens."""
        self.out.close()


def file_sha256(path: Path) -> str:
    with path.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def content_sha256(path: Path) -> str:
    """As `file_sha256`; in one process a file of the same size and time is read once."""
    about = path.stat()
    return _content_sha256(path.absolute(), about.st_size, about.st_mtime_ns)


@cache
def _content_sha256(path: Path, size: int, changed: int) -> str:
    return file_sha256(path)


def check_sha256(path: Path, wanted: str) -> None:
    """Raises ValueError where the file's checksum is another."""
    found = file_sha256(path)
    if found != wanted:
        raise ValueError(f"{path} is corrupt: SHA-256 {found[:8]}…, expected {wanted[:8]}…")


def check_size(path: Path, largest: int) -> None:
    """Raises ValueError where a file is larger than `largest` bytes: it is not read."""
    if path.stat().st_size > largest:
        raise ValueError(f"{path}: {path.stat().st_size} bytes; at most {largest} are read")


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def _replace(partial: Path, path: Path) -> None:
    # On the disk before it has the name: a machine that stops must not leave a gap in it.
    with partial.open("rb+") as written:
        os.fsync(written.fileno())
    partial.replace(path)

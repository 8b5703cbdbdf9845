# SPDX-License-Identifier: Apache-2.0
"""A folder built in checksummed parts: a build that was killed continues after its last part.

A manifest says what the folder is made from and lists its parts. Part k is one file per stream,
`STREAM/0000k.bin`. The names follow from k, so a manifest cannot point anywhere else. Each file
begins with a header that repeats a digest of `made_from`: a file from elsewhere is not mistaken.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from bort_jax.storage.checks import (
    differences,
    expect,
    explain_damage,
    require_count,
    require_sha256,
)
from bort_jax.storage.files import WholeFile, check_sha256, check_size, read_json, write_json

FORMAT = 1
MAGIC = b"BORTPART"
HEADER = 64  # bytes: magic, SHA-256 of `made_from`, zeros
LARGEST = 1 << 26  # bytes of a manifest; one of 100,000 parts has about half of it


@dataclass(frozen=True)
class Layout:
    """The names in a folder of parts.

    Attributes:
      manifest: file that lists the parts.
      streams: folders of a part's files; "" is the folder itself.
      counts: whole numbers that the manifest has of each part.
    """

    manifest: str
    streams: tuple[str, ...]
    counts: tuple[str, ...]


@dataclass(frozen=True)
class StoredFile:
    """A file's size in bytes without its header, and the checksum of all of it."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Part:
    """A finished part: its files by stream, and its counts by name."""

    files: dict[str, StoredFile]
    counts: dict[str, int]


@dataclass(frozen=True)
class Parts:
    """A folder of parts, finished or not.

    Attributes:
      folder: where the files are.
      layout: their names.
      made_from: JSON object of inputs and settings; a build from others is another one.
      parts: the finished parts.
      complete: whether these are all.
    """

    folder: Path
    layout: Layout
    made_from: dict[str, Any]
    parts: tuple[Part, ...] = ()
    complete: bool = False

    def __len__(self) -> int:
        return len(self.parts)

    @cached_property
    def header(self) -> bytes:
        """The first bytes of every file."""
        made_from = json.dumps(self.made_from, sort_keys=True).encode()
        return (MAGIC + hashlib.sha256(made_from).digest()).ljust(HEADER, b"\0")

    def total(self, count: str) -> int:
        """The sum of a count over all parts."""
        return sum(part.counts[count] for part in self.parts)

    def size(self, stream: str) -> int:
        """Bytes of a stream, without headers."""
        return sum(part.files[stream].size for part in self.parts)

    def file(self, number: int, stream: str = "") -> Path:
        return self.folder / stream / f"{number:05}.bin"

    def write(self) -> "Parts":
        """Writes the manifest: the whole file or none of it, also when the machine stops."""
        value = {"format": FORMAT, "made_from": self.made_from, "complete": self.complete}
        parts = [asdict(part) for part in self.parts]
        write_json(self.folder / self.layout.manifest, value | {"parts": parts})
        return self

    def finish(self) -> "Parts":
        """Says in the manifest that there are no more parts."""
        return replace(self, complete=True).write()

    def memory_map(
        self, number: int, stream: str = "", *, dtype: np.dtype
    ) -> Shaped[np.ndarray, " n"]:
        """The memory-mapped elements of a file, behind its header.

        Raises:
          ValueError: the file's size is no multiple of an element's.
        """
        count, rest = divmod(self.parts[number].files[stream].size, dtype.itemsize)
        expect(not rest, f"{self.file(number, stream)} ends within an element of {dtype}")
        if not count:  # an empty file cannot be mapped
            return np.empty(0, dtype)
        # A plain array: slices of np.memmap are much slower to make.
        return np.asarray(
            np.memmap(self.file(number, stream), dtype, "r", offset=HEADER, shape=(count,))
        )

    def check_files(self) -> None:
        """Checks existence, size and header of every file, without reading the rest.

        Raises:
          FileNotFoundError, ValueError: the message begins with the first file that is wrong.
        """
        for number, stream in self._files():
            self._check_file(number, stream)

    def check_bytes(self) -> None:
        """Reads every byte.

        Raises:
          ValueError: the faults of each file that is missing, truncated, foreign or corrupt.
        """
        faults = [fault for place in self._files() if (fault := self._fault(*place))]
        if faults:
            raise ValueError("; ".join(faults))

    def check_part(self, number: int) -> None:
        """Reads every byte of one part; raises ValueError where a checksum is another."""
        for stream, stored in self.parts[number].files.items():
            check_sha256(self.file(number, stream), stored.sha256)

    def _files(self) -> Iterator[tuple[int, str]]:
        return ((k, stream) for stream in self.layout.streams for k in range(len(self)))

    def _fault(self, number: int, stream: str) -> str:
        """The fault of a file, or nothing."""
        try:
            self._check_file(number, stream)
            check_sha256(self.file(number, stream), self.parts[number].files[stream].sha256)
        except (OSError, ValueError) as error:
            return str(error)
        return ""

    def _check_file(self, number: int, stream: str) -> None:
        file, wanted = self.file(number, stream), HEADER + self.parts[number].files[stream].size
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing")
        if file.stat().st_size != wanted:
            raise ValueError(f"{file}: {file.stat().st_size} bytes, the manifest says {wanted}")
        with file.open("rb") as data:
            found = data.read(HEADER)
        expect(found.startswith(MAGIC), f"{file} does not begin as a part of ours does")
        manifest = self.layout.manifest
        expect(found == self.header, f"{file} was made from something else than {manifest} says")


def continue_parts(
    folder: Path, layout: Layout, made_from: dict[str, Any], *, check: bool = True
) -> Parts:
    """Begins a build in `folder`, or continues the one there after reading every byte of it. One
    that has finished no part is begun anew, whatever it was made from.

    Args:
      check: whether to read them.

    Raises:
      ValueError: a build from something else is there; the message names every difference.
        Or the manifest or a file is damaged, or missing.
    """
    if not (folder / layout.manifest).is_file():
        return Parts(folder, layout, made_from).write()
    parts = read_parts(folder, layout)
    if not parts.parts and not parts.complete:
        return Parts(folder, layout, made_from).write()
    differing = differences(parts.made_from, json.loads(json.dumps(made_from)))
    if differing:
        raise ValueError(
            f"{folder} was made from something else ({'; '.join(differing)}); choose another "
            "folder, or the same settings to continue"
        )
    if check:
        parts.check_bytes()
    return parts


def read_parts(folder: Path, layout: Layout) -> Parts:
    """Reads the manifest of a folder of parts, and no other file.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it is damaged, too large, or none of this format.
    """
    file = folder / layout.manifest
    if not file.is_file():
        raise FileNotFoundError(f"no {layout.manifest} in {folder}: nothing was built there")
    check_size(file, LARGEST)
    with explain_damage(file):
        return _parse(folder, layout, read_json(file))


class OpenPart:
    """A part being written, under names that do not count yet.

    Leaving the context without `close` lets go of the files; the next attempt writes them anew.
    """

    def __init__(self, parts: Parts):
        self.parts = parts
        self.sizes = dict.fromkeys(parts.layout.streams, 0)
        number = len(parts)
        self.files = {name: WholeFile(parts.file(number, name)) for name in parts.layout.streams}
        for file in self.files.values():
            file.write(parts.header)

    def __enter__(self) -> "OpenPart":
        return self

    def __exit__(self, *_) -> None:
        for file in self.files.values():
            file.abandon()

    def write(self, data: bytes, stream: str = "") -> None:
        self.files[stream].write(data)
        self.sizes[stream] += len(data)

    def close(self, **counts: int) -> Parts:
        """Names the files, then lists the part in the manifest."""
        files = {
            name: StoredFile(self.sizes[name], file.close()) for name, file in self.files.items()
        }
        part = Part(files, {name: counts[name] for name in self.parts.layout.counts})
        return replace(self.parts, parts=(*self.parts.parts, part)).write()

    def discard(self) -> Parts:
        """Deletes the files of a part that nothing was written to."""
        for file in self.files.values():
            file.delete()
        return self.parts


def _parse(folder: Path, layout: Layout, value: dict[str, Any]) -> Parts:
    expect(
        value["format"] == FORMAT,
        f"{folder / layout.manifest} has format {value['format']!r}; this version reads {FORMAT}: "
        "build it anew in another folder",
    )
    expect(isinstance(value["made_from"], dict), "made_from is no object")
    expect(isinstance(value["complete"], bool), "complete is no truth value")
    parts = tuple(_part(layout, part) for part in value["parts"])
    return Parts(folder, layout, value["made_from"], parts, value["complete"])


def _part(layout: Layout, value: dict[str, Any]) -> Part:
    files = {name: value["files"][name] for name in layout.streams}
    return Part(
        {
            name: StoredFile(require_count(file["size"]), require_sha256(file["sha256"]))
            for name, file in files.items()
        },
        {name: require_count(value["counts"][name]) for name in layout.counts},
    )

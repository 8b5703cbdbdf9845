# SPDX-License-Identifier: Apache-2.0
"""MXNet's NDArray-list files, in numpy: little-endian, every size checked against the file.

The file: a magic number, a reserved one, a list of arrays, a list of names. An array: a magic
number that tells its version, its storage (from version 2 on), its shape, a device, an element
type, its numbers. Our reading of Apache MXNet 1.9.1, and of a file that it wrote.
"""

import math
import mmap
import struct
from pathlib import Path

import numpy as np

from bort_jax.storage.files import check_pointer

LIST_MAGIC = 0x112
ARRAY_VERSIONS = {0xF993FAC8: 1, 0xF993FAC9: 2, 0xF993FACA: 3}
DENSE = 0
TYPES = dict(enumerate(("f4", "f8", "f2", "u1", "i4", "i1", "i8", "?")))
MOST_DIMENSIONS = 32


def read_ndarray_list(file: str | Path) -> dict[str, np.ndarray]:
    """Named arrays of a `.params` file, as read-only views of the file's own bytes.

    Raises:
      ValueError: it is not such a file, it ends early or late, or it holds what is not a dense
        array of a known type with a name of its own.
    """
    check_pointer(Path(file))
    with open(file, "rb") as handle:
        try:
            content = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError as error:
            raise ValueError(f"{file} is empty") from error
    return parse_ndarray_list(content, source=str(file))


def parse_ndarray_list(content, *, source: str = "bytes") -> dict[str, np.ndarray]:
    """As `read_ndarray_list`, from bytes in memory."""
    return _Reader(content, source).named_arrays()


class _Reader:
    """A place in the file, which no number read from it can move beyond its end."""

    def __init__(self, content, source: str):
        self.content, self.source, self.at = content, source, 0

    def named_arrays(self) -> dict[str, np.ndarray]:
        if self._one("Q", "the magic number") != LIST_MAGIC:
            raise self._wrong("is no NDArray list: it does not begin with 0x112")
        self._one("Q", "the reserved number")
        arrays = [self._array(n) for n in range(self._count("array", least_bytes=4))]
        names = [self._name(n) for n in range(self._count("name", least_bytes=8))]
        if self.at != len(self.content):
            raise self._wrong(f"goes on after its end at byte {self.at}")
        if len(names) != len(arrays) or len(set(names)) != len(names):
            raise self._wrong(f"has {len(arrays)} arrays and {len(set(names))} different names")
        return dict(zip(names, arrays, strict=True))

    def _array(self, n: int) -> np.ndarray:
        version = ARRAY_VERSIONS.get(self._one("I", f"array {n}"))
        if version is None:
            raise self._wrong(f"array {n} has an unknown magic number")
        storage = self._one("i", f"the storage of array {n}") if version > 1 else DENSE
        if storage != DENSE:
            raise self._wrong(f"array {n} has storage type {storage}; only dense (0) is known")
        shape = self._shape(n)
        _device, _number, code = self._take("iii", f"the type of array {n}")
        if code not in TYPES:
            raise self._wrong(f"array {n} has element type {code}; known are 0 to {max(TYPES)}")
        dtype = np.dtype(TYPES[code]).newbyteorder("<")
        size = math.prod(shape)
        start = self._advance(size * dtype.itemsize, f"the {shape} numbers of array {n}")
        return np.frombuffer(self.content, dtype, count=size, offset=start).reshape(shape)

    def _shape(self, n: int) -> tuple[int, ...]:
        dimensions = self._one("i", f"the shape of array {n}")
        if not 1 <= dimensions <= MOST_DIMENSIONS:
            raise self._wrong(f"array {n} has {dimensions} dimensions")
        shape = self._take(f"{dimensions}q", f"the shape of array {n}")
        if min(shape) < 1:
            raise self._wrong(f"array {n} has shape {shape}")
        return shape

    def _name(self, n: int) -> str:
        size = self._one("Q", f"the length of name {n}")
        start = self._advance(size, f"name {n}")
        try:
            return bytes(self.content[start : self.at]).decode()
        except UnicodeDecodeError as error:
            raise self._wrong(f"name {n} is not UTF-8") from error

    def _count(self, what: str, *, least_bytes: int) -> int:
        count = self._one("Q", f"the number of {what}s")
        if count * least_bytes > len(self.content) - self.at:
            raise self._wrong(f"says that it holds {count} {what}s, more than fit into it")
        return count

    def _one(self, form: str, what: str) -> int:
        return self._take(form, what)[0]

    def _take(self, form: str, what: str) -> tuple[int, ...]:
        start = self._advance(struct.calcsize("<" + form), what)
        return struct.unpack_from("<" + form, self.content, start)

    def _advance(self, size: int, what: str) -> int:
        """Where the next `size` bytes begin; the place moves behind them."""
        start, end = self.at, self.at + size
        if end > len(self.content):
            raise self._wrong(f"ends at byte {len(self.content)}, in {what}")
        self.at = end
        return start

    def _wrong(self, what: str) -> ValueError:
        return ValueError(f"{self.source} {what}")

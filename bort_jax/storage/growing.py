# SPDX-License-Identifier: Apache-2.0
"""Files that grow by whole rows: what a kill left of a row is cut off when they are opened."""

import json
import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import Float


def append_records(file: str | Path, records: Sequence[dict]) -> None:
    """Adds JSON lines to a file; they are on the disk when this returns."""
    with open(file, "a", encoding="utf-8") as out:
        out.write("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
        out.flush()
        os.fsync(out.fileno())


class GrowingLines:
    """JSON lines.

    Attributes:
      rows: how many whole lines there are.
    """

    def __init__(self, file: str | Path):
        self.out = open(file, "a+b")
        self.rows = self._cut(None)

    def truncate(self, rows: int) -> None:
        """Forgets all but the first rows."""
        self.rows = self._cut(rows)

    def add(self, records: Sequence[dict]) -> None:
        """Writes the records, numbered on, and hands them to the system."""
        numbered = ({"idx": k, **record} for k, record in enumerate(records, start=self.rows))
        lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in numbered)
        self.out.write(lines.encode())
        self.out.flush()
        self.rows += len(records)

    def close(self) -> None:
        self.out.close()

    def _cut(self, most: int | None) -> int:
        self.out.seek(0)
        rows = end = 0
        for line in islice(self.out, most):
            if line.endswith(b"\n"):
                rows, end = rows + 1, end + len(line)
        self.out.truncate(end)
        return rows


class GrowingVectors:
    """A `.npy` file of float32 `[n, width]` whose header always says the n that are there.

    Attributes:
      rows: n.
    """

    def __init__(self, file: str | Path, width: int):
        self.width = width
        self.out = open(file, "r+b" if Path(file).exists() else "w+b")
        size = self.out.seek(0, 2)
        self._write_header(0)
        self.start = self.out.tell()
        self.truncate(max(0, size - self.start) // self._bytes_of(1))

    def truncate(self, rows: int) -> None:
        """Forgets all but the first rows."""
        self.rows = rows
        self.out.truncate(self.start + self._bytes_of(rows))
        self._write_header(rows)
        self.out.flush()

    def add(self, vectors: Float[np.ndarray, "n h"] | Sequence[Float[np.ndarray, " h"]]) -> None:
        """Writes rows, and hands them to the system."""
        self.out.seek(0, 2)
        self.out.write(np.ascontiguousarray(vectors, dtype="<f4").tobytes())
        self.truncate(self.rows + len(vectors))

    def close(self) -> None:
        self.out.close()

    def _bytes_of(self, rows: int) -> int:
        return 4 * self.width * rows

    def _write_header(self, rows: int) -> None:
        # numpy leaves room for the first number of a shape to grow: the header keeps its size.
        header = {"descr": "<f4", "fortran_order": False, "shape": (rows, self.width)}
        self.out.seek(0)
        np.lib.format.write_array_header_1_0(self.out, header)

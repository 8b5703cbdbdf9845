# SPDX-License-Identifier: Apache-2.0
"""Any file or folder of text, parquet, JSON lines or CSV, or a dataset of the hub."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from bort_jax.storage.hub import DATA, DataName, is_data
from bort_jax.suggest import nearest

# What of `datasets` reads a file, with its options.
BUILDERS: dict[str, tuple[str, dict[str, Any]]] = {
    ".txt": ("text", {"chunksize": 1 << 20}),
    ".jsonl": ("json", {}),
    ".json": ("json", {}),
    ".csv": ("csv", {}),
}
PARQUET = ".parquet"
BATCH = 1000  # rows of a parquet file that are there at a time


class Position(NamedTuple):
    """The next row of a source to read: `row` of file number `file`."""

    file: int
    row: int


BEGINNING = Position(0, 0)


class Document(NamedTuple):
    """A cleaned text.

    Attributes:
      text: empty where the row held none.
      bytes: of UTF-8 text, before it was cleaned.
      next: where the row after it is.
    """

    text: str
    bytes: int
    next: Position


@dataclass(frozen=True)
class Source:
    """Where text is read from; every reading gives the same rows in the same order.

    Attributes:
      name: as the user wrote it.
      files: local ones, in order; none if it is a dataset of the hub.
    """

    name: str
    files: tuple[Path, ...]

    def description(self) -> dict[str, Any]:
        """Names and sizes of the files, in which another source would differ."""
        if not self.files:
            return {"source": self.name}
        sizes = [[file.name, file.stat().st_size] for file in self.files]
        return {"source": Path(self.name).name, "files": sizes}

    def rows(self, start: Position = BEGINNING) -> Iterator[tuple[Position, dict]]:
        """Streams (position of the row after it, row): memory is flat, no cache is written."""
        for number in range(start.file, max(1, len(self.files))):
            skipped = start.row if number == start.file else 0
            rows = self._open(number, skipped)
            for place, row in enumerate(rows, start=skipped + 1):
                yield Position(number, place), row

    def documents(self, column: str, start: Position = BEGINNING) -> Iterator[Document]:
        """Streams the cleaned texts of a column.

        Raises:
          ValueError: a row has no such column.
        """
        for position, row in self.rows(start):
            if column not in row:
                raise ValueError(f"{self.name}: no column {column!r}{nearest(column, row)}")
            text = row[column] if isinstance(row[column], str) else ""
            yield Document(clean_text(text), len(text.encode()), position)

    def text_bytes(self, column: str) -> int | None:
        """About how much text there is, for the time left; None where nobody knows."""
        if not self.files:
            return None
        return sum(_text_bytes(file, column) for file in self.files)

    def _open(self, number: int, skipped: int) -> Iterable[dict]:
        """The rows of a file after the first `skipped`."""
        if self.files and self.files[number].suffix == PARQUET:
            return islice(_parquet_rows(self.files[number]), skipped, None)
        import datasets  # slow to import, and absent on some accelerator machines
        from datasets import config as settings

        if self.files:
            file = str(self.files[number])
            builder, options = BUILDERS[self.files[number].suffix]
            return datasets.load_dataset(
                builder, data_files=file, split="train", streaming=True, **options
            ).skip(skipped)
        name, subset, revision, split = DataName.parse(self.name)
        try:  # what `datasets` has prepared before is read offline; else rows come as they are read
            streaming = not settings.HF_HUB_OFFLINE
            found = datasets.load_dataset(
                name, subset, split=split, revision=revision, streaming=streaming
            )
            return found.skip(skipped)  # pyright: ignore[reportReturnType]
        except (OSError, ValueError) as error:
            raise FileNotFoundError(f"cannot read {self.name}: {error}") from error


def open_source(path: str | Path) -> Source:
    """A file, every known file below a folder in sorted order, or
    `hub:NAME[:SUBSET][@REVISION][#SPLIT]`, at the commit that its revision is now.

    A text file has one row a line, in column `text`. Of a dataset of the hub it is the split
    `train` where none is named.

    Raises:
      FileNotFoundError: nothing at `path`, or no file with a known ending below it.
    """
    if is_data(path):
        return Source(str(DataName.parse(str(path)).pinned()), ())
    return Source(str(path), tuple(_files(Path(path))))


def read_rows(path: str | Path) -> Iterator[dict]:
    """Streams the rows of a source; raises as `open_source`."""
    for _, row in open_source(path).rows():
        yield row


def read_texts(path: str | Path, *, column: str = "text") -> Iterator[str]:
    """Streams the cleaned, non-empty texts of a column.

    Raises:
      FileNotFoundError: as `open_source`.
      ValueError: a row has no such column, or no row has any text.
    """
    found = False
    for document in open_source(path).documents(column):
        if document.text:
            found = True
            yield document.text
    if not found:
        raise ValueError(f"{path}: column {column!r} holds no text")


def clean_text(text: str) -> str:
    """Newlines of every kind become one, other runs of white space one blank, at no edge any.

    Nothing else is touched: no letter is folded, no markup removed (our reading: the published
    description names no cleaning).
    """
    lines = (" ".join(line.split()) for line in text.splitlines())
    return "\n".join(line for line in lines if line)


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise FileNotFoundError(
            f"no text at {path}: expected a file or a folder of text files, or {DATA}NAME"
        )
    below = sorted(path.rglob("*")) if path.is_dir() else [path]
    known = (*BUILDERS, PARQUET)
    files = [file for file in below if file.is_file() and file.suffix in known]
    if not files:
        raise FileNotFoundError(f"{path}: no file that ends in {', '.join(known)}")
    return files


def _parquet_rows(file: Path) -> Iterator[dict]:
    # Not by `datasets`, which reads ahead until it has the whole file in memory.
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        for batch in pq.ParquetFile(file).iter_batches(batch_size=BATCH):
            yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{file} cannot be read as parquet: {error}") from error


def _text_bytes(file: Path, column: str) -> int:
    if file.suffix != PARQUET:
        return file.stat().st_size
    import pyarrow.parquet as pq

    groups = pq.ParquetFile(file).metadata
    chunks = (
        groups.row_group(k).column(j)
        for k in range(groups.num_row_groups)
        for j in range(groups.num_columns)
    )
    return sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema == column)

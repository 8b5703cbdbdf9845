# SPDX-License-Identifier: Apache-2.0
"""Any file or folder of text, parquet, JSON lines or CSV, or a dataset of the hub."""

import glob
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from bort_jax.data.reader import (
    PARQUET,
    TEXT,
    Ambiguous,
    RawRow,
    column_bytes,
    count_lines,
    format_of,
    read_file,
    text_pieces,
)
from bort_jax.data.scan import scan
from bort_jax.storage.files import content_sha256
from bort_jax.storage.hub import DataName, is_data
from bort_jax.suggest import nearest

SURROGATES = re.compile("[\ud800-\udfff]")  # JSON can spell them; no tokenizer takes them
T = TypeVar("T")
PIECE = 1 << 18  # characters of a long text that are cleaned and tokenized at a time


class Position(NamedTuple):
    """The next row of a source to read: `row` of file number `file`."""

    file: int
    row: int


BEGINNING = Position(0, 0)


class Document(NamedTuple):
    """A cleaned text, or a piece of a long one.

    Attributes:
      text: empty where the row held none. The pieces, one behind the other, are the text.
      bytes: of UTF-8 text, before it was cleaned.
      next: where the row after it is.
      last: whether the text ends here.
    """

    text: str
    bytes: int
    next: Position
    last: bool = True


@dataclass(frozen=True)
class Source:
    """Where text is read from; every reading gives the same rows in the same order.

    Attributes:
      name: as the user wrote it.
      files: local ones, in order; none if it is a dataset of the hub.
      root: folder that the files' names are told from.
    """

    name: str
    files: tuple[Path, ...]
    root: Path = Path()

    def description(self) -> dict[str, Any]:
        """The files' names with digests of their content: another source differs in these."""
        if not self.files:
            return {"source": self.name}
        named = {str(file.relative_to(self.root)): content_sha256(file) for file in self.files}
        return {"source": Path(self.name).name, "files": named}

    @property
    def is_text(self) -> bool:
        """Whether there is one column, `text`: every file is a text file."""
        return bool(self.files) and all(format_of(file)[0] == TEXT for file in self.files)

    def rows(
        self, start: Position = BEGINNING, *, columns: Collection[str] | None = None
    ) -> Iterator[tuple[Position, RawRow]]:
        """Streams (position of the row after it, row): memory is flat, no cache is written.

        Args:
          columns: that are asked for; nothing else can be wrong. None: all.
        """
        for number, skipped in self._places(start):
            rows = self._rows_of(number, skipped, columns)
            for place, row in enumerate(rows, start=skipped + 1):
                yield Position(number, place), row

    def documents(self, column: str, start: Position = BEGINNING) -> Iterator[Document]:
        """Streams the cleaned texts of a column, long ones in pieces.

        Raises:
          ValueError: a row has no such column, or cannot be read.
        """
        for number, place in self._places(start):
            for text, size, last in clean_pieces(self._pieces(number, place, column)):
                place += last
                yield Document(text, size, Position(number, place), last)

    def holds_texts(self, column: str, count: int) -> bool:
        """Whether there are so many texts with any word; reads no more than it takes."""
        found, words = 0, False
        for number, place in self._places(BEGINNING):
            for text, last in self._pieces(number, place, column):
                words = words or bool(text.strip())
                found, words = found + (words and last), words and not last
                if found == count:
                    return True
        return False

    def text_bytes(self, column: str) -> int | None:
        """About how much text there is, for the time left; None where nobody knows."""
        if not self.files or any(format_of(file)[1] for file in self.files):
            return None
        return sum(
            column_bytes(file, (column,)) if format_of(file)[0] == PARQUET else file.stat().st_size
            for file in self.files
        )

    def about_rows(self) -> int | None:
        """About how many rows there are, for the time left; None where nobody knows."""
        counts = [count_lines(file) for file in self.files]
        known = [count for count in counts if count is not None]
        return sum(known) if counts and len(known) == len(counts) else None

    def _places(self, start: Position) -> Iterator[Position]:
        """Where the reading of each file begins."""
        yield start
        yield from (Position(number, 0) for number in range(start.file + 1, len(self.files)))

    def _pieces(self, number: int, skipped: int, column: str) -> Iterator[tuple[str, bool]]:
        """The texts of a file, pieces of a long line, and whether a text ends."""
        if self.files and format_of(self.files[number])[0] == TEXT and column == "text":
            return _skip_texts(text_pieces(self.files[number]), skipped)
        rows = self._rows_of(number, skipped, (column,))
        return ((_text(row, column), True) for row in rows)

    def _rows_of(
        self, number: int, skipped: int, columns: Collection[str] | None
    ) -> Iterator[RawRow]:
        files = self.files
        rows = read_file(files[number], columns=columns) if files else self._hub_rows()
        return islice(rows, skipped, None)

    def _hub_rows(self) -> Iterator[RawRow]:
        import datasets  # slow to import, and absent on some accelerator machines
        from datasets import config as settings

        name, subset, revision, split = DataName.parse(self.name)
        try:  # what `datasets` has prepared before is read offline; else rows come as they are read
            streaming = not settings.HF_HUB_OFFLINE
            rows = datasets.load_dataset(
                name, subset, split=split, revision=revision, streaming=streaming
            )
        except (OSError, ValueError) as error:
            raise FileNotFoundError(f"cannot read {self.name}: {error}") from error
        for number, row in enumerate(rows, start=1):
            yield RawRow(f"{self.name}, row {number}", row)  # pyright: ignore


def open_source(path: str | Path) -> Source:
    """A file, every known file below a folder in sorted order, or
    `hub:NAME[:SUBSET][@REVISION][#SPLIT]`, at the commit that its revision is now.

    A text file has one row a line, in column `text`. Of a dataset of the hub it is the split
    `train` where none is named. A path is literal; a pattern is one only where no file has exactly
    this name.

    Raises:
      FileNotFoundError: nothing at `path`, or no file with a known ending below it.
    """
    if is_data(path) and not Path(path).exists():
        return Source(str(DataName.parse(str(path)).pinned()), ())
    found = scan(path)
    return Source(str(path), found.files, found.root)


def is_there(path: str | Path) -> bool:
    """Whether there is something to read; a dataset of the hub is taken to be there."""
    return is_data(path) or Path(path).exists() or bool(glob.glob(str(path)))


def read_rows(
    path: str | Path, *, columns: Collection[str] | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Streams the rows of a source, each with the words that name it.

    Raises:
      FileNotFoundError: as `open_source`.
      ValueError: a row that cannot be read.
    """
    for _, row in open_source(path).rows(columns=columns):
        if row.wrong:
            raise ValueError(row.wrong)
        yield row.where, row.values


def read_texts(path: str | Path, *, column: str = "text") -> Iterator[str]:
    """Streams the cleaned, non-empty texts of a column; one of more than `PIECE` characters comes
    in several.

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


def clean_pieces(pieces: Iterable[tuple[str, bool]]) -> Iterator[tuple[str, int, bool]]:
    """(cleaned text, bytes before, whether the text ends) of texts that come in pieces.

    A long text is cut before white space, or within a word of more than `PIECE` characters; joined,
    its pieces are what `clean_text` gives of the whole.
    """
    held, space, begun = "", "", False
    for text, last in pieces:
        held += text
        while len(held) > PIECE or last:
            at = _cut(held)
            part, held = held[:at], held[at:]
            cleaned, ends = clean_text(part), last and not held
            space = _joint(space + part[: len(part) - len(part.lstrip())])
            yield (space if begun and cleaned else "") + cleaned, len(part.encode()), ends
            space, begun = ("" if cleaned else space), begun or bool(cleaned)
            if ends:
                space, begun = "", False
                break


def _cut(text: str) -> int:
    """Where the first `PIECE` characters of a text are cut off, or its end."""
    if len(text) <= PIECE:
        return len(text)
    head = text[:PIECE]
    if head[-1].isspace():
        return len(head.rstrip()) or PIECE
    words = head.rsplit(None, 1)
    return len(words[0]) if len(words) == 2 else PIECE


def cut_text(text: str) -> Iterator[str]:
    """A text in pieces of at most `PIECE` characters, cut before white space where there is any."""
    while len(text) > PIECE:
        at = _cut(text)
        yield text[:at]
        text = text[at:]
    yield text


def batches(items: Iterable[T], limit: int, *, size: Callable[[T], int]) -> Iterator[list[T]]:
    """Items in lists whose sizes are together about `limit`."""
    batch, total = [], 0
    for item in items:
        batch.append(item)
        total += size(item)
        if total >= limit or len(batch) >= max(1, limit // 64):
            yield batch
            batch, total = [], 0
    if batch:
        yield batch


def _joint(space: str) -> str:
    """White space between two words, cleaned."""
    return space and ("\n" if len(f"x{space}x".splitlines()) > 1 else " ")


def _skip_texts(pieces: Iterator[tuple[str, bool]], count: int) -> Iterator[tuple[str, bool]]:
    while count:
        count -= next(pieces, ("", True))[1]
    return pieces


def _text(row: RawRow, column: str) -> str:
    """The text of a row, or none."""
    if row.wrong:
        raise ValueError(row.wrong)
    if column not in row.values:
        raise ValueError(f"{row.where}: no column {column!r}{nearest(column, row.values)}")
    text = row.values[column]
    if isinstance(text, Ambiguous):
        raise ValueError(f"{row.where}: {text}")
    if not isinstance(text, str):
        return ""
    if not text.isascii() and SURROGATES.search(text):
        raise ValueError(f"{row.where}: column {column!r} holds half a character")
    return text

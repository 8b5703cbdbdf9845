# SPDX-License-Identifier: Apache-2.0
"""A file of text, JSON lines, CSV or parquet, compressed or not: its rows, one after the other.

A row that is wrong by itself is told in its place, and the reading goes on; a file that cannot be
read further raises ValueError. Both name file and line. Memory does not grow with the file.
"""

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import re
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from bort_jax.storage.files import check_pointer

TEXT, PARQUET = ".txt", ".parquet"
FORMATS = (TEXT, ".jsonl", ".json", ".csv", PARQUET)
PIECE = 1 << 20  # bytes of a line that are there at a time
LONGEST = 1 << 24  # bytes of a row
BATCH, BATCH_BYTES = 1000, 1 << 24  # rows of a parquet file that are there at a time
UTF8_MARK, UTF16_MARKS = b"\xef\xbb\xbf", (b"\xff\xfe", b"\xfe\xff")
TOO_LONG = f"longer than {LONGEST >> 20} MB, which is more than a row may have"
CSV_FAULTS = {
    "unexpected end of data": "a quoted cell that begins here does not end",
    "field larger": f"a cell is {TOO_LONG}: is a quote missing?",
    "expected after": "text after a closing quote: a quote inside a cell is written twice",
    "new-line character": "a carriage return outside quotes",
}


class RawRow(NamedTuple):
    """A row as the file has it.

    Attributes:
      where: file and line, or the number of the row where there are no lines.
      values: by column; cells of CSV are texts as they stand.
      wrong: why there are no values, with `where` before it; else empty.
    """

    where: str
    values: dict[str, Any] = {}
    wrong: str = ""


class Ambiguous(NamedTuple):
    """The value of a column that stands more than once in a header, or in an object."""

    column: str

    def __str__(self) -> str:
        return f"column {self.column!r} stands more than once"


def _open_zstd(file: Path, mode: str) -> IO[bytes]:
    import pyarrow as pa

    stream: Any = pa.CompressedInputStream(pa.OSFile(str(file), mode), "zstd")
    return io.BufferedReader(stream)


PACKED: dict[str, Callable[..., Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": _open_zstd,
}


def format_of(file: str | Path) -> tuple[str, str]:
    """The endings that say what a file is: `.csv` and `.gz` of `A.CSV.gz`; two empty ones of what
    is not read."""
    name = Path(file).name.lower()
    packed = next((ending for ending in PACKED if name.endswith(ending)), "")
    kind = Path(name.removesuffix(packed)).suffix
    known = kind in FORMATS and not (packed and kind == PARQUET)
    return (kind, packed) if known else ("", "")


def known_endings() -> str:
    return f"{', '.join(FORMATS)} (the first four also with {', '.join(PACKED)})"


def not_read(file: str | Path) -> str:
    """Why a file of another ending is not read."""
    tabs = Path(file).suffix.lower() == ".tsv"
    return f"{'tab-separated files are' if tabs else 'it is'} not read; it may be {known_endings()}"


def read_file(file: str | Path, *, columns: Collection[str] | None = None) -> Iterator[RawRow]:
    """The rows of a file, in its order.

    Args:
      columns: that are asked for; others of a parquet file are not read, and None. None: all.

    Raises:
      ValueError: the file cannot be read, or not further.
    """
    file, (kind, _) = Path(file), format_of(file)
    if not kind:
        raise ValueError(f"{file}: {not_read(file)}")
    if kind == PARQUET:
        check_pointer(file)
        return _parquet_rows(file, columns)
    return {TEXT: _text_rows, ".csv": _csv_rows}.get(kind, _json_rows)(file)


def count_lines(file: Path) -> int | None:
    """Rows of a file, roughly: its lines, or as parquet says; None of a compressed one."""
    kind, packed = format_of(file)
    if kind == PARQUET:
        return _open_parquet(file).metadata.num_rows
    if packed:
        return None
    with file.open("rb") as content:
        return sum(block.count(b"\n") for block in iter(lambda: content.read(PIECE), b""))


# Lines.


def text_pieces(file: Path) -> Iterator[tuple[str, bool]]:
    """The lines of a text file in pieces of at most `PIECE` bytes, and whether a line ends.

    Raises:
      ValueError: a line is not UTF-8, or the file cannot be read.
    """
    decode = codecs.getincrementaldecoder("utf-8")()
    for number, piece, last in _line_pieces(file):
        piece = piece.removesuffix(b"\n").removesuffix(b"\r") if last else piece
        try:
            yield decode.decode(piece, final=last), last
        except UnicodeDecodeError as error:
            raise ValueError(f"{file}, line {number}: {_not_utf8(error)}") from None


def _line_pieces(file: Path) -> Iterator[tuple[int, bytes, bool]]:
    """(number of the line, piece of it, whether it ends there), without a byte order mark."""
    check_pointer(file)
    number, packed = 1, format_of(file)[1]
    try:
        with PACKED.get(packed, open)(file, "rb") as opened:
            piece, last = _first_piece(file, opened.readline(PIECE)), True
            while piece:
                last = piece.endswith(b"\n")
                yield number, piece, last
                number, piece = number + last, opened.readline(PIECE)
            if not last:
                yield number, b"", True
    except (EOFError, OSError, lzma.LZMAError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno:  # not of its content
            raise
        fault = f"its {packed} data is damaged or cut off"
        raise ValueError(f"{file}, line {number}: {fault}") from error


def _first_piece(file: Path, piece: bytes) -> bytes:
    if piece.startswith(UTF16_MARKS) or b"\0" in piece[:256]:
        raise ValueError(f"{file} is UTF-16, or no text: save it as UTF-8")
    rest = piece.removeprefix(UTF8_MARK)
    return rest if rest or not piece else b"\n"


def _lines(file: Path) -> Iterator[tuple[int, bytes | None]]:
    """(number, line with its end); None in the place of a line of more than `LONGEST` bytes."""
    held, size = [], 0
    for number, piece, last in _line_pieces(file):
        size += len(piece)
        if size <= LONGEST:
            held.append(piece)
        elif held:
            held = []
            yield number, None
        if last:
            if size <= LONGEST:
                yield number, b"".join(held)
            held, size = [], 0


def _text_rows(file: Path) -> Iterator[RawRow]:
    for number, line in _lines(file):
        where = f"{file}, line {number}"
        try:
            text = _decoded(line).removesuffix("\n").removesuffix("\r")
        except ValueError as error:
            yield RawRow(where, wrong=f"{where}: {error}")
        else:
            yield RawRow(where, {"text": text})


def _decoded(line: bytes | None) -> str:
    if line is None:
        raise ValueError(TOO_LONG)
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise ValueError(_not_utf8(error)) from None


def _not_utf8(error: UnicodeDecodeError) -> str:
    return f"not UTF-8: byte 0x{error.object[error.start]:02x}"


# JSON.


def _json_rows(file: Path) -> Iterator[RawRow]:
    """Lines that are not blank; of a `.json` file also the items of one array."""
    array = format_of(file)[0] == ".json"
    for number, line in _lines(file):
        if line is not None and not line.strip():
            continue
        if array and line is not None and line.lstrip().startswith(b"["):
            yield from _array_rows(file)
            return
        array, where = False, f"{file}, line {number}"
        yield _json_row(where, lambda line=line: DECODER.decode(_decoded(line)))


def _object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; of a key that stands twice no value is taken."""
    found = dict(pairs)
    return found if len(found) == len(pairs) else found | _ambiguous([name for name, _ in pairs])


def _json_row(where: str, parse: Callable[[], Any]) -> RawRow:
    try:
        row = parse()
    except json.JSONDecodeError as error:
        return RawRow(where, wrong=f"{where}: not JSON: {error.msg} at character {error.pos + 1}")
    except RecursionError:
        return RawRow(where, wrong=f"{where}: not JSON that is read: nested too deeply")
    except ValueError as error:
        return RawRow(where, wrong=f"{where}: {_own_words(error)}")
    if not isinstance(row, dict):
        kind = type(row).__name__
        return RawRow(where, wrong=f"{where}: expected an object with columns, got {kind}")
    return RawRow(where, row)


DECODER = json.JSONDecoder(object_pairs_hook=_object_of)


def _own_words(error: ValueError) -> str:
    digits = "integer string conversion" in str(error)
    return "a number with too many digits" if digits else str(error)


def _array_rows(file: Path) -> Iterator[RawRow]:
    """The items of a top-level array; one of more than `LONGEST` bytes ends the reading."""
    held, items = "", 0
    pieces = text_blocks(file)
    for block in pieces:
        held += block
        while True:
            opening = re.match(r"\s*[\[,]\s*" if not items else r"\s*,\s*", held)
            if not opening or opening.end() == len(held):
                break
            where = f"{file}, item {items + 1}"
            try:
                item, end = DECODER.raw_decode(held, opening.end())
            except (ValueError, RecursionError) as error:
                if len(held) > LONGEST or isinstance(error, RecursionError):
                    raise ValueError(f"{where}: not JSON, or {TOO_LONG}") from None
                break
            items, held = items + 1, held[end:]
            yield _json_row(where, lambda item=item: item)
    if not re.fullmatch(r"\s*(\[\s*)?\]\s*", held):
        raise ValueError(f"{file}, item {items + 1}: not JSON, or its array does not end")


def text_blocks(file: Path) -> Iterator[str]:
    """A file's text in blocks of about `PIECE` bytes; raises as `text_pieces`."""
    held, size = [], 0
    for text, last in text_pieces(file):
        held.append(text + "\n" * last)
        size += len(text) + 1
        if size >= PIECE:
            yield "".join(held)
            held, size = [], 0
    yield "".join(held)


# CSV.


class _CsvLines:
    """The lines of a CSV file as its parser takes them.

    Attributes:
      number: of the last line.
      wrong: what is wrong with a line since `wrong` was emptied.
    """

    def __init__(self, file: Path):
        self.lines, self.file, self.number, self.wrong = _lines(file), file, 0, ""

    def __iter__(self) -> Iterator[str]:
        for self.number, line in self.lines:
            if line is None:
                raise ValueError(f"{self.file}, line {self.number}: {TOO_LONG}")
            try:
                yield line.decode()
            except UnicodeDecodeError as error:
                self.wrong = f"{self.file}, line {self.number}: {_not_utf8(error)}"
                yield line.decode(errors="replace")


def _csv_rows(file: Path) -> Iterator[RawRow]:
    header: list[str] = []
    lines, twice = _CsvLines(file), {}
    csv.field_size_limit(LONGEST)
    for first, cells in _csv_cells(lines):
        where, wrong, lines.wrong = f"{file}, line {first}", lines.wrong, ""
        if not header:
            if wrong:
                raise ValueError(wrong)
            header, twice = cells, _ambiguous(cells)
            _check_separator(where, header)
        elif wrong:
            yield RawRow(where, wrong=wrong)
        elif len(cells) != len(header):
            fault = f"{len(cells)} cells, and the header has {len(header)} columns"
            yield RawRow(where, wrong=f"{where}: {fault}")
        else:
            yield RawRow(where, dict(zip(header, cells, strict=True)) | twice)


def _csv_cells(lines: _CsvLines) -> Iterator[tuple[int, list[str]]]:
    """(line where it begins, cells) of each row that is not blank."""
    rows, first = csv.reader(iter(lines), strict=True), 1
    try:
        for cells in rows:
            if cells:
                yield first, cells
            first = lines.number + 1
    except csv.Error as error:
        fault = next((ours for theirs, ours in CSV_FAULTS.items() if theirs in str(error)), error)
        raise ValueError(f"{lines.file}, line {first}: {fault}") from None


def _ambiguous(names: Collection[str]) -> dict[str, Ambiguous]:
    return {name: Ambiguous(name) for name, count in Counter(names).items() if count > 1}


def _check_separator(where: str, header: list[str]) -> None:
    found = [sign for sign in ";\t|" if len(header) == 1 and sign in header[0]]
    if found:
        raise ValueError(f"{where}: the header's cells are separated by {found[0]!r}, not by ','")


# Parquet.


def _parquet_rows(file: Path, columns: Collection[str] | None) -> Iterator[RawRow]:
    opened, number = _open_parquet(file), 0
    with _parquet_errors(str(file)):
        names = opened.schema_arrow.names
        twice = _ambiguous(names)
        wanted = [n for n in names if n not in twice and (columns is None or n in columns)]
        size = _rows_at_once(opened, wanted)
        batches = opened.iter_batches(batch_size=size, columns=wanted)
    every = dict.fromkeys(names) | twice
    while True:
        with _parquet_errors(f"{file}, after row {number}"):
            batch = next(batches, None)
            rows = batch.to_pylist() if batch is not None and wanted else []
        if batch is None:
            return
        for row in rows or [{}] * batch.num_rows:
            number += 1
            yield RawRow(f"{file}, row {number}", every | row)


def _open_parquet(file: Path):
    # Not by `datasets`, which reads ahead until it has the whole file in memory.
    import pyarrow.parquet as pq

    with _parquet_errors(str(file)):
        return pq.ParquetFile(file)


@contextmanager
def _parquet_errors(where: str) -> Iterator[None]:
    """Errors of many kinds (the format's, values that Python cannot hold) in one line of ours."""
    try:
        yield
    except Exception as error:
        line = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ValueError(f"{where} cannot be read as parquet: {line}") from error


def column_bytes(file: Path, columns: Collection[str]) -> int:
    """Bytes of some columns of a parquet file, unpacked."""
    opened = _open_parquet(file)
    with _parquet_errors(str(file)):
        return _column_bytes(opened, columns)


def _column_bytes(opened, columns: Collection[str]) -> int:
    groups = opened.metadata
    chunks = (
        groups.row_group(k).column(j)
        for k in range(groups.num_row_groups)
        for j in range(groups.num_columns)
    )
    return sum(
        chunk.total_uncompressed_size
        for chunk in chunks
        if chunk.path_in_schema.partition(".")[0] in columns
    )


def _rows_at_once(opened, columns: Collection[str]) -> int:
    """As many rows as take about `BATCH_BYTES`."""
    each = _column_bytes(opened, columns) / max(1, opened.metadata.num_rows)
    return max(1, min(BATCH, int(BATCH_BYTES / max(1, each))))

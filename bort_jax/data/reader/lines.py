# SPDX-License-Identifier: Apache-2.0
"""The lines of a text file, however long, compressed or not."""

import codecs
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path

from bort_jax.data.reader.formats import PACKED, format_of
from bort_jax.data.reader.row import LONGEST, TOO_LONG, RawRow
from bort_jax.storage.files import check_pointer

PIECE = 1 << 20  # bytes of a line that are there at a time
UTF8_MARK, UTF16_MARKS = b"\xef\xbb\xbf", (b"\xff\xfe", b"\xfe\xff")


def text_pieces(file: Path) -> Iterator[tuple[str, bool]]:
    """The lines of a text file in pieces of at most `PIECE` bytes, and whether a line ends.

    Raises:
      ValueError: a line is not UTF-8, or the file cannot be read.
    """
    decode = codecs.getincrementaldecoder("utf-8")()
    for number, piece, last in line_pieces(file):
        piece = piece.removesuffix(b"\n").removesuffix(b"\r") if last else piece
        try:
            yield decode.decode(piece, final=last), last
        except UnicodeDecodeError as error:
            raise ValueError(f"{file}, line {number}: {not_utf8(error)}") from None


def line_pieces(file: Path) -> Iterator[tuple[int, bytes, bool]]:
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


def read_lines(file: Path) -> Iterator[tuple[int, bytes | None]]:
    """(number, line with its end); None in the place of a line of more than `LONGEST` bytes."""
    held, size = [], 0
    for number, piece, last in line_pieces(file):
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


def text_rows(file: Path) -> Iterator[RawRow]:
    for number, line in read_lines(file):
        where = f"{file}, line {number}"
        try:
            text = decoded(line).removesuffix("\n").removesuffix("\r")
        except ValueError as error:
            yield RawRow(where, wrong=f"{where}: {error}")
        else:
            yield RawRow(where, {"text": text})


def decoded(line: bytes | None) -> str:
    if line is None:
        raise ValueError(TOO_LONG)
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise ValueError(not_utf8(error)) from None


def not_utf8(error: UnicodeDecodeError) -> str:
    return f"not UTF-8: byte 0x{error.object[error.start]:02x}"


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

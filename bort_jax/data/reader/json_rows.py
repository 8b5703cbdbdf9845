# SPDX-License-Identifier: Apache-2.0
"""Rows of JSON lines, and of an array in a `.json` file."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bort_jax.data.reader.formats import format_of
from bort_jax.data.reader.lines import decoded, read_lines, text_blocks
from bort_jax.data.reader.row import LONGEST, TOO_LONG, RawRow, ambiguous


def json_rows(file: Path) -> Iterator[RawRow]:
    """Lines that are not blank; of a `.json` file also the items of one array."""
    array = format_of(file)[0] == ".json"
    for number, line in read_lines(file):
        if line is not None and not line.strip():
            continue
        if array and line is not None and line.lstrip().startswith(b"["):
            yield from _array_rows(file)
            return
        array, where = False, f"{file}, line {number}"
        yield _json_row(where, lambda line=line: DECODER.decode(decoded(line)))


def _object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; of a key that stands twice no value is taken."""
    found = dict(pairs)
    return found if len(found) == len(pairs) else found | ambiguous([name for name, _ in pairs])


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

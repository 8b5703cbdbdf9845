# SPDX-License-Identifier: Apache-2.0
"""Mutations of a file: bytes, words that parsers stumble over, numbers and keys; or all of it."""

import random
import re
from collections.abc import Sequence
from pathlib import Path

WORDS = [
    b"\xff",
    b"\0",
    b"\xef\xbb\xbf",
    b'"',
    b",",
    b"\n",
    b"\r",
    b"{",
    b"]",
    b"[" * 500,
    b"1e999",
    b"-1",
    b"4294967295",
    b"99999999999999999999",
    b"null",
    b"NaN",
    b"\xed\xa0\x80",
    b"\\ud800",
    b"&a [*a]",
    b"!!python/object:os.system",
    b"../../etc/passwd",
    b"\x1f\x8b\x08",
    b"version https://git-lfs.github.com/spec/v1\n",
]


def change(file: Path, files: Sequence[Path], generator: random.Random) -> None:
    """Mutates what is in a file; now and then it is gone, a folder, or another one's content."""
    kind = generator.randrange(40)
    content = file.read_bytes()
    if kind > 2:
        file.write_bytes(mutate(content, generator))
        return
    file.unlink()
    if kind == 1:
        file.mkdir()
    elif kind == 2:
        others = [other for other in files if other != file]
        file.write_bytes(generator.choice(others).read_bytes() if others else b"")


def mutate(content: bytes, generator: random.Random) -> bytes:
    """A few bytes changed, cut out, doubled, swapped or put in; or the end cut off."""
    result = bytearray(content)
    for _ in range(generator.choice((1, 1, 1, 2, 4))):
        at = generator.randrange(len(result) + 1)
        # The beginnings of binary files say the sizes of the rest.
        at = min(at, generator.choice((64, 512, len(result))))
        size = generator.choice((1, 2, 8, 40))
        kind = generator.randrange(7)
        if kind == 0:
            result[at : at + 1] = bytes([generator.randrange(256)])
        elif kind == 1:
            result[at : at + size] = b""
        elif kind == 2:
            result[at:at] = result[at : at + size]
        elif kind == 3:
            result[at:at] = generator.choice(WORDS)
        elif kind == 4:
            result[at : at + size] = generator.choice((b"\xff", b"\0")) * size
        elif kind == 5:
            del result[at:]
        else:
            result = mutate_number(result, generator)
    return bytes(result)


def mutate_number(content: bytearray, generator: random.Random) -> bytearray:
    """Another number in the place of one that stands in the text, or a key taken away."""
    found = list(re.finditer(rb"-?\d+(?:\.\d+)?|\"\w+\"|true|false", bytes(content[:20000])))
    if not found:
        return content
    one = generator.choice(found)
    new = generator.choice((b"0", b"-1", b"1", b"2147483648", b"1e400", b"null", b"[]", b"{}"))
    return content[: one.start()] + bytearray(new) + content[one.end() :]

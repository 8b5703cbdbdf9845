# SPDX-License-Identifier: Apache-2.0
"""`manifest.json` of a built corpus: what it was made from, and what each of its files holds.

A corpus is built in parts. Part k is `train/0000k.bin` and `heldout/0000k.bin`, the tokens of
a run of whole documents; the names follow from k, so a manifest cannot point anywhere else.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bort_jax.data.corpus import BEGINNING, Position
from bort_jax.data.tokenizer import Special
from bort_jax.storage.checks import count_of, expect, sha256_of
from bort_jax.storage.whole_file import check_size, write_json

MANIFEST = "manifest.json"
FORMAT = 2
LARGEST = 1 << 26  # bytes: a manifest of 100,000 parts has about half of it
SPLITS = ("train", "heldout")
DTYPES = ("uint16", "uint32")


@dataclass(frozen=True)
class ShardFile:
    """One token file: how many tokens it holds, and its checksum, header included."""

    tokens: int
    sha256: str


@dataclass(frozen=True)
class Part:
    """What one run of documents became.

    Attributes:
      train: its file of the training split.
      heldout: its file of the held-out split.
      documents: that are in the two.
      dropped: documents without text.
      bytes: of UTF-8 text that was read.
      next: where the following part begins in the source.
    """

    train: ShardFile
    heldout: ShardFile
    documents: int
    dropped: int
    bytes: int
    next: Position


@dataclass(frozen=True)
class Manifest:
    """A built corpus, or one being built.

    Attributes:
      made_from: source, tokenizer and settings; a build of other ones is another corpus.
      special: ids of the special tokens.
      vocab_size: of the tokenizer.
      dtype: of the token ids, `uint16` or `uint32`.
      parts: what is finished.
      complete: whether that is everything.
    """

    made_from: dict[str, Any]
    special: Special
    vocab_size: int
    dtype: str
    parts: tuple[Part, ...] = ()
    complete: bool = False

    @property
    def tokenizer_sha256(self) -> str:
        return self.made_from["tokenizer_sha256"]

    @property
    def next(self) -> Position:
        return self.parts[-1].next if self.parts else BEGINNING

    def total(self, name: str) -> int:
        """Of all parts: documents, dropped or bytes."""
        return sum(getattr(part, name) for part in self.parts)

    def tokens(self, split: str) -> int:
        return sum(getattr(part, split).tokens for part in self.parts)

    def extended(self, part: Part) -> "Manifest":
        return replace(self, parts=(*self.parts, part))

    def finished(self) -> "Manifest":
        return replace(self, complete=True)

    def write(self, folder: Path) -> None:
        """The whole file or none of it, also when the machine stops."""
        plain = asdict(self) | {"format": FORMAT, "special": self.special._asdict()}
        write_json(folder / MANIFEST, plain)


def file_name(split: str, part: int) -> str:
    return f"{split}/{part:05}.bin"


def read_manifest(folder: Path) -> Manifest:
    """Raises FileNotFoundError where there is none, ValueError where it is none of ours."""
    file = folder / MANIFEST
    if not file.is_file() and all((folder / split / MANIFEST).is_file() for split in SPLITS):
        raise ValueError(f"{folder} was built by an earlier version: build it again, elsewhere")
    if not file.is_file():
        raise FileNotFoundError(f"no {MANIFEST} in {folder}: nothing was built there")
    check_size(file, LARGEST)
    try:
        return _parsed(json.loads(file.read_text()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{file} is damaged, or no manifest of format {FORMAT}: {error}") from None


def _parsed(value: dict) -> Manifest:
    expect(value["format"] == FORMAT, f"format {value['format']!r}")
    expect(value["dtype"] in DTYPES, f"dtype {value['dtype']!r}")
    expect(isinstance(value["complete"], bool), "complete is no truth value")
    vocab_size = count_of(value["vocab_size"])
    special = Special(**{name: count_of(id) for name, id in value["special"].items()})
    expect(max(special) < vocab_size, "a special token outside the vocabulary")
    expect(isinstance(value["made_from"], dict), "made_from is no table")
    sha256_of(value["made_from"]["tokenizer_sha256"])
    parts = tuple(_part(part) for part in value["parts"])
    return Manifest(
        value["made_from"], special, vocab_size, value["dtype"], parts, value["complete"]
    )


def _part(value: dict) -> Part:
    train, heldout = (
        ShardFile(count_of(value[split]["tokens"]), sha256_of(value[split]["sha256"]))
        for split in SPLITS
    )
    documents, dropped, size = (count_of(value[name]) for name in ("documents", "dropped", "bytes"))
    return Part(train, heldout, documents, dropped, size, next=_position(value["next"]))


def _position(value: Sequence) -> Position:
    file, row = value
    return Position(count_of(file), count_of(row))

# SPDX-License-Identifier: Apache-2.0
"""A teacher's answers on disk: the likeliest tokens at every masked position of a stream.

What is masked is a function of (seed, index), so a teacher has to be asked only once. A record is
one masked position: k token ids, their log-probabilities at the temperature that the answers are
for, and the logarithm of the mass of all other tokens; 2 (or 4) + 2 bytes a token, and 2. With
k = 32 and 15 % of the tokens masked that is 19.5 bytes a token of text.

Answers are written in parts: part k is `0000k.bin`, the records of consecutive batches in their
order, whatever the number of devices and hosts. The names follow from k, so that the manifest
cannot point anywhere else.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from bort_jax.data.masking import MASKING, Batch, MaskedStream
from bort_jax.data.prepared import Corpus
from bort_jax.storage.checks import count_of, differences, expect, sha256_of
from bort_jax.storage.whole_file import check_sha256, check_size, write_json

ANSWERS = "answers.json"
FORMAT = 1
LARGEST = 1 << 26  # bytes of a manifest
MAGIC = b"BORTANS1"
HEADER = 64  # bytes: magic, k, bytes of an id, SHA-256 of the tokenizer, half that of the settings
MOST = 1 << 16  # k: a part must fit in memory


@dataclass(frozen=True)
class Part:
    """Consecutive batches: how many, how many records they are, and the file's checksum."""

    batches: int
    records: int
    sha256: str


@dataclass(frozen=True)
class Answers:
    """What a folder holds; more batches can always be added.

    Attributes:
      made_from: text, masks and teacher; answers to another question are of no use.
      parts: what is finished.
    """

    made_from: dict[str, Any]
    parts: tuple[Part, ...] = ()

    @property
    def batches(self) -> int:
        return sum(part.batches for part in self.parts)

    @property
    def record(self) -> np.dtype:
        return record_type(self.made_from["top_k"], vocab_size=self.made_from["vocab_size"])

    @property
    def header(self) -> bytes:
        """Every file says what it answers, so that one from elsewhere is not mistaken."""
        settings = json.dumps(self.made_from, sort_keys=True).encode()
        sizes = [self.made_from["top_k"], self.record["ids"].base.itemsize]
        head = MAGIC + b"".join(size.to_bytes(4, "little") for size in sizes)
        tokenizer = bytes.fromhex(self.made_from["tokenizer_sha256"])
        return head + tokenizer + hashlib.sha256(settings).digest()[:16]

    def extended(self, part: Part) -> "Answers":
        return replace(self, parts=(*self.parts, part))

    def write(self, folder: Path) -> None:
        write_json(folder / ANSWERS, asdict(self) | {"format": FORMAT})


class AnsweredStream:
    """A stream with a teacher's answers; a file's checksum is read when its turn comes."""

    def __init__(self, folder: Path, answers: Answers, stream: MaskedStream):
        self.folder, self.answers, self.stream = folder, answers, stream
        self.part = lru_cache(maxsize=2)(self._part)

    def batch(self, index: int, *, host: int = 0, hosts: int = 1) -> Batch:
        """As `MaskedStream.batch`, with what `answers_to` has."""
        part = {"host": host, "hosts": hosts}
        return self.stream.batch(index, **part) | self.answers_to(index, **part)

    def answers_to(self, index: int, *, host: int = 0, hosts: int = 1) -> Batch:
        """Answers to rows `host`, `host + hosts`, … of batch `index`.

        Returns:
          `top_ids: int[b, m, k]` in 16 or 32 bits, `top_log_p: float16[b, m, k]` and
          `log_tail: float16[b, m]`.

        Raises:
          ValueError: there are not so many batches, or a file is corrupt.
        """
        self.check_steps(index + 1)
        number = int(np.searchsorted(self._ends, index, side="right"))
        first = int(self._ends[number - 1]) if number else 0
        records, starts = self.part(number)
        start, end = starts[index - first : index - first + 2]
        found = records[start:end].reshape(self.stream.shape(index))
        return unpacked(found[host::hosts])

    def check_steps(self, steps: int) -> None:
        """Raises ValueError where there are answers to fewer batches."""
        if steps > self.answers.batches:
            raise ValueError(
                f"{self.folder} answers {self.answers.batches} batches, not {steps}: the command "
                f"that built it, with --steps {steps}, adds the others"
            )

    @cached_property
    def _ends(self) -> np.ndarray:
        return np.cumsum([part.batches for part in self.answers.parts])

    def _part(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """A part's records, and where each of its batches begins in them."""
        file, part = self.folder / file_name(number), self.answers.parts[number]
        first = int(self._ends[number]) - part.batches
        sizes = [rows * m for rows, m in map(self.stream.shape, range(first, first + part.batches))]
        if sum(sizes) != part.records:
            raise ValueError(f"{file} holds {part.records} records, its batches {sum(sizes)}")
        check_sha256(file, part.sha256)
        mapped = np.memmap(file, self.answers.record, "r", offset=HEADER, shape=(part.records,))
        return np.asarray(mapped), np.cumsum([0, *sizes])


def record_type(top_k: int, *, vocab_size: int) -> np.dtype:
    ids = "<u2" if vocab_size <= 1 << 16 else "<u4"
    return np.dtype([("ids", ids, (top_k,)), ("log_p", "<f2", (top_k,)), ("log_tail", "<f2")])


def packed_answers(found: Batch, record: np.dtype) -> np.ndarray:
    """The records of a batch's answers, [b · m]."""
    records = np.empty(found["log_tail"].shape, record)
    for field, name in FIELDS.items():
        records[field] = found[name]
    return records.reshape(-1)


def unpacked(records: np.ndarray) -> Batch:
    return {name: np.ascontiguousarray(records[field]) for field, name in FIELDS.items()}


FIELDS = {"ids": "top_ids", "log_p": "top_log_p", "log_tail": "log_tail"}


def question(corpus: Corpus, stream: MaskedStream) -> dict[str, Any]:
    """All that fixes the masked positions of every batch."""
    return {
        "corpus_sha256": corpus.sha256,
        "tokenizer_sha256": corpus.tokenizer.sha256,
        "vocab_size": corpus.tokenizer.vocab_size,
        "seed": stream.seed,
        "batch_size": stream.batch_size,
        "seq_len": stream.seq_len,
        "packing": stream.packing,
        "buckets": stream.buckets,
        "whole_word": stream.word_starts is not None,
        "masking": MASKING,
    }


def open_answers(
    folder: str | Path, corpus: Corpus, stream: MaskedStream, *, temperature: float
) -> AnsweredStream:
    """The answers in `folder`, for training on `stream`.

    Raises:
      FileNotFoundError: there are none, or one of their files is missing.
      ValueError: they are damaged, or answer another question; the message names the file, or each
        setting that differs.
    """
    folder = Path(folder)
    answers = read_answers(folder)
    wanted = question(corpus, stream) | {"temperature": temperature}
    found = {name: answers.made_from.get(name) for name in wanted}
    differing = differences(found, wanted)
    if differing:
        raise ValueError(f"{folder} answers for something else ({'; '.join(differing)})")
    for number in range(len(answers.parts)):
        check_part(folder, answers, number)
    return AnsweredStream(folder, answers, stream)


def check_answers(folder: str | Path) -> Answers:
    """Reads every byte of a folder of answers.

    Raises:
      FileNotFoundError: there are none.
      ValueError: what is wrong with each file that is missing, truncated, foreign or corrupt.
    """
    folder = Path(folder)
    answers, found = read_answers(folder), []
    for number, part in enumerate(answers.parts):
        try:
            check_part(folder, answers, number)
            check_sha256(folder / file_name(number), part.sha256)
        except (OSError, ValueError) as error:
            found.append(str(error))
    if found:
        raise ValueError("; ".join(found))
    return answers


def check_part(folder: Path, answers: Answers, number: int) -> None:
    """Existence, size and header of a part: what can be told without reading it.

    Raises:
      FileNotFoundError, ValueError: the message begins with the file.
    """
    file = folder / file_name(number)
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing")
    expected = HEADER + answers.parts[number].records * answers.record.itemsize
    if file.stat().st_size != expected:
        raise ValueError(f"{file}: {file.stat().st_size} bytes, the manifest says {expected}")
    with file.open("rb") as data:
        found = data.read(HEADER)
    if found == answers.header:
        return
    if not found.startswith(MAGIC):
        raise ValueError(f"{file} does not begin as a teacher's answers do")
    if found[16:48] != answers.header[16:48]:
        raise ValueError(
            f"{file} holds answers in the tokens of another tokenizer: {found[16:20].hex()}…, "
            f"these are of {answers.made_from['tokenizer_sha256'][:8]}…"
        )
    raise ValueError(f"{file} holds answers to another question: other settings or another teacher")


def file_name(part: int) -> str:
    return f"{part:05}.bin"


def read_answers(folder: Path) -> Answers:
    """Raises FileNotFoundError where there are none, ValueError where they are none of ours."""
    file = folder / ANSWERS
    if not file.is_file():
        raise FileNotFoundError(f"no {ANSWERS} in {folder}: no teacher has answered there")
    check_size(file, LARGEST)
    try:
        return _parsed(json.loads(file.read_text()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{file} is damaged, or none of format {FORMAT}: {error}") from None


def _parsed(value: dict) -> Answers:
    expect(value["format"] == FORMAT, f"format {value['format']!r}")
    made_from = value["made_from"]
    expect(isinstance(made_from, dict), "made_from is no table")
    sha256_of(made_from["tokenizer_sha256"])
    top_k, vocab_size = (count_of(made_from[name]) for name in ("top_k", "vocab_size"))
    expect(0 < top_k <= min(MOST, vocab_size), f"top_k {top_k}")
    parts = tuple(_part(part) for part in value["parts"])
    return Answers(made_from, parts)


def _part(value: dict) -> Part:
    batches, records = (count_of(value[name]) for name in ("batches", "records"))
    expect(0 < batches <= records, f"{batches} batches of {records} records")
    return Part(batches, records, sha256_of(value["sha256"]))

# SPDX-License-Identifier: Apache-2.0
"""Tokenizers with RoBERTa's special tokens (byte-level BPE, trained or given) or BERT's (given)."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from bort_jax.data.corpus import batches, cut_text
from bort_jax.storage.files import write_json, write_text

SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
# The names of the special tokens, and how many separators stand between the texts of a pair.
FAMILIES = ((SPECIAL_TOKENS, 2), (("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"), 1))
BYTES_OF_SPACE = ("Ġ", "Ċ", "ĉ", "č")  # blank, newline, tab, return, as byte-level BPE writes them
AT_ONCE = 1 << 21  # characters
SMALLEST_VOCABULARY = 256 + len(SPECIAL_TOKENS)
ROLES = ("cls_token", "pad_token", "sep_token", "unk_token", "mask_token")  # as `Special` has them
SETTINGS = "tokenizer_config.json"


class Special(NamedTuple):
    """The ids of the special tokens."""

    bos: int
    pad: int
    eos: int
    unk: int
    mask: int


class Encoded(NamedTuple):
    """Token rows, padded on the right to a common length."""

    ids: Int[np.ndarray, "n s"]
    mask: Bool[np.ndarray, "n s"]


class Tokenizer:
    """A `tokenizers.Tokenizer` with its special ids, its size and its hash.

    Args:
      backend: what cuts texts into tokens.
      roles: names of special tokens by stock's names (`cls_token`); those that are not given are
        BERT's or RoBERTa's.
      max_length: of a row, as `model_max_length` says; None where nothing does.
      split: special tokens in a text are cut into pieces (`split_special_tokens`).
      notes: what reading it assumed, a sentence each.

    Raises:
      ValueError: it lacks a special token.
    """

    def __init__(
        self,
        backend,
        *,
        roles: dict[str, str] | None = None,
        max_length: int | None = None,
        split: bool = False,
        notes: tuple[str, ...] = (),
    ):
        self.backend, self.max_length, self.split, self.notes = backend, max_length, split, notes
        backend.no_padding()
        backend.no_truncation()
        backend.encode_special_tokens = split
        usual, self.separators = FAMILIES[backend.token_to_id("[CLS]") is not None]
        self.names = tuple(
            (roles or {}).get(role, name) for role, name in zip(ROLES, usual, strict=True)
        )
        ids = [backend.token_to_id(token) for token in self.names]
        missing = [token for token, id in zip(self.names, ids, strict=True) if id is None]
        if missing:
            raise ValueError(f"the tokenizer lacks the special tokens {', '.join(missing)}")
        self.special = Special(*ids)
        around_pair = backend.num_special_tokens_to_add(is_pair=True)
        if around_pair in (3, 4):  # none: the backend frames nothing
            self.separators = around_pair - 2

    @classmethod
    def train(cls, texts: Iterable[str], *, vocab_size: int) -> "Tokenizer":
        """Trains a byte-level BPE; the same texts always give the same vocabulary.

        Raises:
          ValueError: `vocab_size` has no room for the 256 bytes and the special tokens.
        """
        from tokenizers import ByteLevelBPETokenizer

        if vocab_size < SMALLEST_VOCABULARY:
            raise ValueError(f"vocab_size must be at least {SMALLEST_VOCABULARY}; got {vocab_size}")
        trainer = ByteLevelBPETokenizer()
        trainer.train_from_iterator(
            texts, vocab_size=vocab_size, special_tokens=list(SPECIAL_TOKENS), show_progress=False
        )
        return cls(_add_framing(trainer._tokenizer))

    def with_backend(self, backend) -> "Tokenizer":
        """The same roles and limits with other tokens."""
        roles: dict[str, str] = dict(zip(ROLES, self.names, strict=True))
        return Tokenizer(backend, roles=roles, max_length=self.max_length, split=self.split)

    def save(self, folder: str | Path, *, positions: int | None = None) -> None:
        """Writes `tokenizer.json` and what stock `AutoTokenizer` needs beside it.

        Args:
          positions: of the model that it goes with: where stock classes cut texts, unless the
            tokenizer's own limit is smaller.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "tokenizer.json", self.backend.to_str(pretty=True))
        limits = [limit for limit in (self.max_length, positions) if limit]
        write_json(folder / SETTINGS, self.settings(min(limits, default=None)))

    def settings(self, max_length: int | None) -> dict[str, Any]:
        """The content of `tokenizer_config.json` where texts are cut at `max_length` tokens."""
        cls, pad, sep, unk, mask = self.names
        added = self.backend.get_added_tokens_decoder().values()
        more = [token.content for token in added if token.special]
        more = [content for content in more if content not in self.names]
        return {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "cls_token": cls,
            "sep_token": sep,
            "model_input_names": ["input_ids", "attention_mask"]
            + ["token_type_ids"] * (self.separators == 1),
            **{"bos_token": cls, "pad_token": pad, "eos_token": sep},
            **{"unk_token": unk, "mask_token": mask},
            **({"model_max_length": max_length} if max_length else {}),
            **({"additional_special_tokens": more} if more else {}),
            **({"split_special_tokens": True} if self.split else {}),
        }

    @property
    def vocab_size(self) -> int:
        return self.backend.get_vocab_size()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.backend.to_str().encode()).hexdigest()

    def encode_documents(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without special tokens.

        A long text goes through in pieces that begin with white space: what the backend notes of
        one takes a hundred times its size.
        """
        ids: list[list[int]] = [[] for _ in texts]
        pieces = ((k, piece) for k, text in enumerate(texts) for piece in cut_text(text))
        for batch in batches(pieces, AT_ONCE, size=lambda numbered: len(numbered[1])):
            encode = self.backend.encode_batch_fast
            encoded = encode([piece for _, piece in batch], add_special_tokens=False)
            for (k, _), encoding in zip(batch, encoded, strict=True):
                ids[k] += encoding.ids
        return ids

    def encode_raw(self, texts: Sequence[str]) -> list[list[int]]:
        """As `encode_documents`, but `</s>` in a text is five characters, and no separator."""
        self.backend.encode_special_tokens = True
        try:
            return self.encode_documents(texts)
        finally:
            self.backend.encode_special_tokens = self.split

    def check_ids(self) -> None:
        """Raises ValueError where an id is not below the vocabulary's size: ids with gaps."""
        largest = max(self.backend.get_vocab().values())
        if largest >= self.vocab_size:
            raise ValueError(
                f"the tokenizer has {self.vocab_size} tokens and the id {largest}: ids must count "
                "up from 0 without gaps"
            )

    def word_starts(self) -> Bool[np.ndarray, " v"]:
        """Which tokens begin a word wherever they stand.

        In byte-level BPE those that begin with white space (`Ġ` is a blank's byte), in WordPiece
        those without `##`; in both the special tokens.

        Raises:
          ValueError: a tokenizer of another kind.
        """
        kind = json.loads(self.backend.to_str())["model"]["type"]
        if kind not in ("BPE", "WordPiece"):
            raise ValueError(
                f"whole words are known of BPE and WordPiece; this tokenizer is {kind}"
            )
        names = [self.backend.id_to_token(id) or "" for id in range(self.vocab_size)]
        begins = [
            not name.startswith("##") if kind == "WordPiece" else name[:1] in BYTES_OF_SPACE
            for name in names
        ]
        special = np.isin(np.arange(self.vocab_size), self.special)
        return np.array(begins) | special

    def encode(self, columns: Sequence[Sequence[str]], *, seq_len: int) -> Encoded:
        """Rows `<s> a </s>` or `<s> a </s></s> b </s>`, cut and padded to `seq_len`; with BERT's
        tokens `[CLS] a [SEP]` or `[CLS] a [SEP] b [SEP]`.

        Args:
          columns: one or two columns of n texts.
          seq_len: length of the rows; the longer of a pair's texts is cut first.
        """
        encoded = [self.encode_documents(column) for column in columns]
        ids = np.full((len(encoded[0]), seq_len), self.special.pad, dtype=np.int32)
        for row, parts in zip(ids, zip(*encoded, strict=True), strict=True):
            tokens = self._join(parts, seq_len=seq_len)
            row[: len(tokens)] = tokens
        return Encoded(ids, ids != self.special.pad)

    def room(self, segments: int, *, seq_len: int) -> int:
        """Tokens of text that fit into a row of one or two segments, beside the special ones.

        Raises:
          ValueError: there is not one for each.
        """
        room = seq_len - 2 - self.separators * (segments - 1)
        if room < segments:
            raise ValueError(f"seq_len {seq_len} is too short for {segments} texts in a row")
        return room

    def frame(self, segments: Sequence[Sequence[int]]) -> list[int]:
        """One or two segments between the special tokens, as `encode` frames them.

        A separator or a padding token that stands in a text is `~id`, a negative number: the
        model has its embedding, and neither token types nor the mask are taken from it.
        """
        first, *rest = map(self._mark_own, segments)
        tokens = [self.special.bos, *first]
        for segment in rest:
            tokens += [self.special.eos] * self.separators + [*segment]
        return [*tokens, self.special.eos]

    def _mark_own(self, tokens: Sequence[int]) -> Sequence[int]:
        framing = (self.special.eos, self.special.pad)
        if not any(id in tokens for id in framing):
            return tokens
        return [~id if id in framing else id for id in tokens]

    def _join(self, parts: Sequence[list[int]], *, seq_len: int) -> list[int]:
        room = self.room(len(parts), seq_len=seq_len)
        if len(parts) == 1:
            return self.frame([parts[0][:room]])
        first, second = parts
        keep = max(room - len(second), min(len(first), room - room // 2))
        first = first[:keep]
        return self.frame([first, second[: room - len(first)]])


def plain_ids(x: Int[np.ndarray, "*n"]) -> Int[np.ndarray, "*n"]:
    """Rows of `Tokenizer.frame` with every token's own id."""
    return np.where(x < 0, ~x, x)


def _add_framing(backend):
    """Stock tools then frame a text, or a pair, exactly as `encode` does."""
    from tokenizers.processors import RobertaProcessing

    eos, bos = (("</s>", backend.token_to_id("</s>")), ("<s>", backend.token_to_id("<s>")))
    backend.post_processor = RobertaProcessing(eos, bos)
    return backend

# SPDX-License-Identifier: Apache-2.0
"""Tokenizers with RoBERTa's special tokens (byte-level BPE, trained or given) or BERT's (given)."""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from bort_jax.storage.files import read_json, write_json
from bort_jax.storage.hub import tokenizer_folder

SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
# The names of the special tokens, and how many separators stand between the texts of a pair.
FAMILIES = ((SPECIAL_TOKENS, 2), (("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"), 1))
NO_TOKENIZER = "no tokenizer: tokenizer.json, vocab.txt, or vocab.json with merges.txt would be one"
BYTES_OF_SPACE = ("Ġ", "Ċ", "ĉ", "č")  # blank, newline, tab, return, as byte-level BPE writes them
SMALLEST_VOCABULARY = 256 + len(SPECIAL_TOKENS)


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
    """A `tokenizers.Tokenizer` with its special ids, its size and its hash."""

    def __init__(self, backend):
        self.backend = backend
        backend.no_padding()
        backend.no_truncation()
        self.names, self.separators = FAMILIES[backend.token_to_id("[CLS]") is not None]
        ids = [backend.token_to_id(token) for token in self.names]
        missing = [token for token, id in zip(self.names, ids, strict=True) if id is None]
        if missing:
            raise ValueError(f"the tokenizer lacks the special tokens {', '.join(missing)}")
        self.special = Special(*ids)

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

    @classmethod
    def load(cls, folder: str | Path) -> "Tokenizer":
        """Reads `tokenizer.json`.

        Raises:
          FileNotFoundError: the folder has none. (A stock loader would silently make a
            tokenizer of five tokens.)
          ValueError: it is damaged, or lacks the special tokens.
        """
        from tokenizers import Tokenizer as Backend

        file = Path(folder) / "tokenizer.json"
        if not file.is_file():
            raise FileNotFoundError(f"no tokenizer.json in {folder}")
        return cls(_build(Backend.from_file, str(file)))

    def save(self, folder: str | Path) -> None:
        """Writes `tokenizer.json` and what stock `AutoTokenizer` needs beside it."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.backend.save(str(folder / "tokenizer.json"))
        names = ("bos_token", "pad_token", "eos_token", "unk_token", "mask_token")
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "cls_token": self.names[0],
            "sep_token": self.names[2],
            "model_input_names": ["input_ids", "attention_mask"]
            + ["token_type_ids"] * (self.separators == 1),
            **dict(zip(names, self.names, strict=True)),
        }
        write_json(folder / "tokenizer_config.json", settings)

    @property
    def vocab_size(self) -> int:
        return self.backend.get_vocab_size()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.backend.to_str().encode()).hexdigest()

    def encode_documents(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without special tokens."""
        encoded = self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encoded]

    def encode_raw(self, texts: Sequence[str]) -> list[list[int]]:
        """As `encode_documents`, but `</s>` in a text is five characters, and no separator."""
        self.backend.encode_special_tokens = True
        try:
            return self.encode_documents(texts)
        finally:
            self.backend.encode_special_tokens = False

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
        """Tokens of text that fit into a row of one or two segments, beside the special ones."""
        return seq_len - 2 - self.separators * (segments - 1)

    def frame(self, segments: Sequence[Sequence[int]]) -> list[int]:
        """One or two segments between the special tokens, as `encode` frames them."""
        first, *rest = segments
        tokens = [self.special.bos, *first]
        for segment in rest:
            tokens += [self.special.eos] * self.separators + [*segment]
        return [*tokens, self.special.eos]

    def _join(self, parts: Sequence[list[int]], *, seq_len: int) -> list[int]:
        room = self.room(len(parts), seq_len=seq_len)
        if len(parts) == 1:
            return self.frame([parts[0][:room]])
        first, second = parts
        keep = max(room - len(second), min(len(first), room - room // 2))
        first = first[:keep]
        return self.frame([first, second[: room - len(first)]])


def load_tokenizer(folder: str | Path) -> Tokenizer | None:
    """The tokenizer of a checkpoint folder, in any of the forms that stock ones come in.

    They are `tokenizer.json`, `vocab.txt` (BERT) and `vocab.json` with `merges.txt` (RoBERTa), with
    the settings of `tokenizer_config.json`; None where none is there.

    Raises:
      ValueError: a file is damaged, or lacks the special tokens.
    """
    from tokenizers import BertWordPieceTokenizer, ByteLevelBPETokenizer

    folder = Path(folder)
    if (folder / "tokenizer.json").is_file():
        return Tokenizer.load(folder)
    settings = _settings(folder)
    if (folder / "vocab.txt").is_file():
        made = _build(
            BertWordPieceTokenizer,
            str(folder / "vocab.txt"),
            lowercase=settings.get("do_lower_case", True),
            strip_accents=settings.get("strip_accents"),
            handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
        )
        return Tokenizer(made._tokenizer)
    files = [folder / "vocab.json", folder / "merges.txt"]
    if all(file.is_file() for file in files):
        spaced = settings.get("add_prefix_space", False)
        made = _build(ByteLevelBPETokenizer, *map(str, files), add_prefix_space=spaced)
        return Tokenizer(_add_framing(_mark_special(made._tokenizer)))
    return None


def require_tokenizer(folder: str | Path) -> Tokenizer:
    """As `load_tokenizer`, of a hub's model too; raises FileNotFoundError where there is none."""
    folder = tokenizer_folder(folder)
    return load_tokenizer(folder) or Tokenizer.load(folder)


def _build(make: Callable, *args, **settings):
    try:
        return make(*args, **settings)
    except Exception as error:  # the library raises bare Exceptions
        raise ValueError(f"{args[0]} is no tokenizer that can be read: {error}") from error


def _mark_special(backend):
    """RoBERTa's special tokens as such: a mask takes the blank before it, as stock ones do."""
    from tokenizers import AddedToken

    known = [name for name in SPECIAL_TOKENS if backend.token_to_id(name) is not None]
    backend.add_special_tokens(
        [AddedToken(name, lstrip=name == SPECIAL_TOKENS[-1], special=True) for name in known]
    )
    return backend


def _add_framing(backend):
    """Stock tools then frame a text, or a pair, exactly as `encode` does."""
    from tokenizers.processors import RobertaProcessing

    eos, bos = (("</s>", backend.token_to_id("</s>")), ("<s>", backend.token_to_id("<s>")))
    backend.post_processor = RobertaProcessing(eos, bos)
    return backend


def _settings(folder: Path) -> dict:
    file = folder / "tokenizer_config.json"
    return read_json(file) if file.is_file() else {}

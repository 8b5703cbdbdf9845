# SPDX-License-Identifier: Apache-2.0
"""Token shards: a corpus as one memory-mapped stream of ids, cut into equal rows."""

import hashlib
import itertools
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from bort_jax.data.tokenizer import Special, Tokenizer

BATCH_OF_TEXTS = 512
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Shard:
    """One split of a corpus on disk.

    Attributes:
      folder: holds `manifest.json` and the token file it names.
      tokens: the ids of all documents, `</s>` after each, as uint16 or uint32.
      special: ids of the special tokens.
      vocab_size: size of the tokenizer that wrote them.
      tokenizer_sha256: its hash.
    """

    folder: Path
    tokens: Int[np.ndarray, " n"]
    special: Special
    vocab_size: int
    tokenizer_sha256: str

    def rows(self, seq_len: int) -> int:
        """How many full rows of `seq_len` tokens, `<s>` and `</s>` included, there are.

        Raises:
          ValueError: not even one.
        """
        rows = len(self.tokens) // (seq_len - 2)
        if rows == 0:
            raise ValueError(
                f"{self.folder}: {len(self.tokens)} tokens do not fill one row of {seq_len}"
            )
        return rows

    def read(self, indices: Int[np.ndarray, " b"], *, seq_len: int) -> Int[np.ndarray, "b s"]:
        """Rows `<s> tokens </s>`: row r holds the tokens from r · (seq_len − 2) on."""
        body = seq_len - 2
        offsets = indices[:, None] * body + np.arange(body)
        ids = np.empty((len(indices), seq_len), dtype=np.int32)
        ids[:, 0], ids[:, -1] = self.special.bos, self.special.eos
        ids[:, 1:-1] = self.tokens[offsets]
        return ids


def build_shard(texts: Iterable[str], tokenizer: Tokenizer, *, folder: Path) -> Shard:
    """Tokenizes texts into a shard; the manifest is written last, so a killed build shows.

    Raises:
      ValueError: there is no text.
    """
    folder.mkdir(parents=True, exist_ok=True)
    dtype = np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32
    file, documents, count, digest = folder / "tokens.bin", 0, 0, hashlib.sha256()
    with file.open("wb") as out:
        for batch in _batched(texts):
            for ids in tokenizer.encode_documents(batch):
                data = np.array([*ids, tokenizer.special.eos], dtype=dtype).tobytes()
                out.write(data)
                digest.update(data)
                count += len(ids) + 1
            documents += len(batch)
    if not documents:
        raise ValueError(f"no text to tokenize for {folder}")
    manifest = {
        "file": file.name,
        "dtype": np.dtype(dtype).name,
        "tokens": count,
        "documents": documents,
        "sha256": digest.hexdigest(),
        "vocab_size": tokenizer.vocab_size,
        "tokenizer_sha256": tokenizer.sha256,
        "special": tokenizer.special._asdict(),
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2))
    return open_shard(folder)


def open_shard(folder: Path) -> Shard:
    """Memory-maps a shard.

    Raises:
      FileNotFoundError: there is no manifest: nothing was built, or not to the end.
      ValueError: the token file's size is not what the manifest says.
    """
    manifest = json.loads((folder / MANIFEST).read_text())
    dtype = {"uint16": np.uint16, "uint32": np.uint32}[manifest["dtype"]]
    file = folder / Path(manifest["file"]).name  # a manifest cannot point outside its folder
    expected = manifest["tokens"] * np.dtype(dtype).itemsize
    if file.stat().st_size != expected:
        raise ValueError(f"{file}: {file.stat().st_size} bytes, the manifest says {expected}")
    return Shard(
        folder=folder,
        tokens=np.memmap(file, dtype=dtype, mode="r"),
        special=Special(**manifest["special"]),
        vocab_size=manifest["vocab_size"],
        tokenizer_sha256=manifest["tokenizer_sha256"],
    )


def is_built(folder: Path) -> bool:
    return (folder / MANIFEST).is_file()


def _batched(texts: Iterable[str]):
    texts = iter(texts)
    while batch := list(itertools.islice(texts, BATCH_OF_TEXTS)):
        yield batch

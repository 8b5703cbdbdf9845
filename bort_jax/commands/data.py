# SPDX-License-Identifier: Apache-2.0
"""`build SOURCE OUT`: a corpus for pretraining, resumable. `check OUT`: reads every byte of one.
SOURCE is a file or folder of text, parquet, JSON lines or CSV, or hub:NAME[:SUBSET]."""

from dataclasses import dataclass

from bort_jax.data.build import SHARD_TOKENS, build_corpus
from bort_jax.data.corpus import nearest
from bort_jax.data.manifest import Manifest
from bort_jax.data.prepared import check_corpus
from bort_jax.report.terminal import show_box

POSITIONAL = {
    "action": "build or check",
    "source": "text to build from; for check the folder of a corpus",
    "out": "folder of the corpus that is built",
}


@dataclass(frozen=True)
class Config:
    """A corpus to build, or to check.

    Attributes:
      action: build or check.
      source: text to build from; for check the folder of a corpus.
      out: folder of the corpus that is built.
      column: text column of parquet, JSON lines and CSV.
      tokenizer: folder of a tokenizer; none: train a byte-level BPE on the text.
      vocab_size: of a tokenizer that is trained.
      shard_tokens: a shard file ends with the document that brings it to so many tokens.
    """

    action: str
    source: str
    out: str = ""
    column: str = "text"
    tokenizer: str | None = None
    vocab_size: int = 8192
    shard_tokens: int = SHARD_TOKENS


def run(config: Config) -> Manifest:
    if config.action not in ACTIONS:
        raise ValueError(f"no action {config.action!r} of data{nearest(config.action, ACTIONS)}")
    return ACTIONS[config.action](config)


def build(config: Config) -> Manifest:
    if not config.out:
        raise ValueError("data build needs two places: SOURCE and OUT")
    manifest = build_corpus(
        config.source,
        config.out,
        column=config.column,
        tokenizer=config.tokenizer,
        vocab_size=config.vocab_size,
        shard_tokens=config.shard_tokens,
    )
    show_box("corpus", [*facts(manifest), f"next: bort-jax pretrain --data {config.out} --out OUT"])
    return manifest


def check(config: Config) -> Manifest:
    if config.out:
        raise ValueError(f"data check needs one place; got {config.source} and {config.out}")
    manifest = check_corpus(config.source)
    show_box("corpus", [*facts(manifest), "every file has its checksum"])
    return manifest


def facts(manifest: Manifest) -> list[str]:
    megabytes = manifest.total("bytes") / 1e6
    return [
        f"{manifest.total('documents'):,} documents, {megabytes:,.1f} MB of text; "
        f"{manifest.total('dropped'):,} rows without text dropped",
        f"{manifest.tokens('train'):,} tokens to train on, {manifest.tokens('heldout'):,} held "
        f"out, of {manifest.vocab_size:,} in the vocabulary, as {manifest.dtype}",
        f"{2 * len(manifest.parts)} files; tokenizer {manifest.tokenizer_sha256[:16]}…",
    ]


ACTIONS = {"build": build, "check": check}

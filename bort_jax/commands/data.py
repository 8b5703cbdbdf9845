# SPDX-License-Identifier: Apache-2.0
"""`build SOURCE OUT`: a corpus for pretraining, resumable. SOURCE is a file or folder of text,
parquet, JSON lines or CSV, or hub:NAME[:SUBSET].

`cache-teacher CORPUS OUT --teacher DIR`: a teacher's likeliest tokens at the masked positions of
the first --steps batches, resumable. `pretrain --teacher-cache OUT` then needs no teacher, and the
same seed, batch and masking. `check DIR`: reads every byte of a corpus or of a teacher cache."""

from dataclasses import dataclass
from pathlib import Path

from bort_jax.data.build import SHARD_TOKENS, build_corpus
from bort_jax.data.packing import Packing
from bort_jax.data.prepared import check_corpus, open_corpus
from bort_jax.data.shards import SPLITS, token_count
from bort_jax.engine.optimizer import check_numbers
from bort_jax.interop import read
from bort_jax.report.terminal import show_box
from bort_jax.stages.pretrain.cache_teacher import TopKTeacher, cache_teacher
from bort_jax.stages.pretrain.teacher_cache import CACHE, TeacherCache, check_cache
from bort_jax.storage.parts import Parts
from bort_jax.suggest import nearest

POSITIONAL = {
    "action": "build, cache-teacher or check",
    "source": "text to build from; else a corpus; for check a corpus or a teacher cache",
    "out": "folder that is built",
}


@dataclass(frozen=True)
class Config:
    """A corpus to build, a teacher to cache on it, or either to check.

    Attributes:
      action: build, cache-teacher or check.
      source: text to build from; else a corpus; for check a corpus or a teacher cache.
      out: folder that is built.
      column: text column of parquet, JSON lines and CSV.
      tokenizer: folder of a tokenizer; none: train a byte-level BPE on the text.
      vocab_size: of a tokenizer that is trained.
      shard_tokens: a shard file ends with the document that brings it to so many tokens.
      teacher: cache-teacher: checkpoint folder of a masked LM with the corpus's tokenizer.
      steps: cache-teacher: batches; more than there are adds some.
      batch_size: cache-teacher: as in pretrain, and so are the following.
      seq_len: tokens in a row.
      packing: joined or documents.
      buckets: batches of short rows.
      whole_word: whole words are predicted.
      seed: of order and masks.
      temperature: T of the distillation.
      top_k: cache-teacher: likeliest tokens kept at a position; the others are one number.
    """

    action: str
    source: str
    out: str = ""
    column: str = "text"
    tokenizer: str | None = None
    vocab_size: int = 8192
    shard_tokens: int = SHARD_TOKENS
    teacher: str | None = None
    steps: int = 1000
    batch_size: int = 32
    seq_len: int = 128
    packing: Packing = "joined"
    buckets: bool = False
    whole_word: bool = False
    seed: int = 0
    temperature: float = 2.0
    top_k: int = 32


def run(config: Config) -> None:
    if config.action not in ACTIONS:
        raise ValueError(f"no action {config.action!r} of data{nearest(config.action, ACTIONS)}")
    ACTIONS[config.action](config)


def build(config: Config) -> None:
    if not config.out:
        raise ValueError("data build needs two places: SOURCE and OUT")
    parts = build_corpus(
        config.source,
        config.out,
        column=config.column,
        tokenizer=config.tokenizer,
        vocab_size=config.vocab_size,
        shard_tokens=config.shard_tokens,
    )
    next_command = f"next: bort-jax pretrain --data {config.out} --out OUT"
    show_box("corpus", [*corpus_lines(parts), next_command])


def cache(config: Config) -> None:
    if not (config.out and config.teacher):
        raise ValueError("data cache-teacher needs CORPUS, OUT and --teacher")
    check_numbers(config)
    corpus = open_corpus(config.source)
    stream = corpus.stream(
        seed=config.seed,
        batch_size=config.batch_size,
        seq_len=config.seq_len,
        packing=config.packing,
        buckets=config.buckets,
        whole_word=config.whole_word,
    )
    teacher = TopKTeacher.of(
        read(config.teacher), top_k=config.top_k, temperature=config.temperature
    )
    made, difference = cache_teacher(corpus, stream, teacher, config.out, steps=config.steps)
    show_box(
        "teacher cache",
        [
            *cache_lines(made),
            f"the teacher's probabilities now are the same to {difference:.1e}",
            f"next: bort-jax pretrain --data {config.source} --teacher-cache {config.out} …",
        ],
    )


def check(config: Config) -> None:
    if config.out:
        raise ValueError(f"data check needs one place; got {config.source} and {config.out}")
    if (Path(config.source) / CACHE.manifest).is_file():
        title, lines = "teacher cache", cache_lines(check_cache(config.source))
    else:
        title, lines = "corpus", corpus_lines(check_corpus(config.source))
    show_box(title, [*lines, "every file has its checksum"])


def cache_lines(cache: TeacherCache) -> list[str]:
    made_from, size = cache.made_from, cache.parts.size("")
    tokens = cache.batches * made_from["batch_size"] * made_from["seq_len"]
    return [
        f"{cache.batches:,} batches, {cache.positions:,} masked positions, "
        f"{made_from['top_k']} tokens of each at temperature {made_from['temperature']:g}",
        f"{size / 1e6:,.1f} MB in {len(cache.parts)} files, {size / tokens:.1f} bytes a token "
        "of text",
        f"corpus {made_from['corpus_sha256'][:16]}…, teacher {made_from['teacher_sha256'][:16]}…",
    ]


def corpus_lines(parts: Parts) -> list[str]:
    train, heldout = (token_count(parts, split) for split in SPLITS)
    return [
        f"{parts.total('documents'):,} documents, {parts.total('bytes') / 1e6:,.1f} MB of text; "
        f"{parts.total('dropped'):,} rows without text dropped",
        f"{train:,} tokens to train on, {heldout:,} held out, of "
        f"{parts.made_from['vocab_size']:,} in the vocabulary",
        f"{len(SPLITS) * len(parts)} files; tokenizer {parts.made_from['tokenizer_sha256'][:16]}…",
    ]


ACTIONS = {"build": build, "cache-teacher": cache, "check": check}

# SPDX-License-Identifier: Apache-2.0
"""`build SOURCE OUT`: a corpus for pretraining, resumable. SOURCE is a file or folder of text,
parquet, JSON lines or CSV, or hub:NAME[:SUBSET].

`teach CORPUS OUT --teacher DIR`: a teacher's answers at the masked positions of the first --steps
batches, resumable; `pretrain --teacher-cache OUT` then needs no teacher, and the same seed, batch
and masking. `check DIR`: reads every byte of a corpus or of a teacher's answers."""

from dataclasses import dataclass
from pathlib import Path

from bort_jax.data.build import SHARD_TOKENS, build_corpus
from bort_jax.data.manifest import Manifest
from bort_jax.data.packing import Packing
from bort_jax.data.prepared import check_corpus, open_corpus
from bort_jax.interop import load
from bort_jax.report.terminal import show_box
from bort_jax.stages.pretrain.answers import ANSWERS, Answers, check_answers
from bort_jax.stages.pretrain.teaching import teach
from bort_jax.suggest import nearest

POSITIONAL = {
    "action": "build, teach or check",
    "source": "text to build from; for teach a corpus; for check a corpus or a teacher's answers",
    "out": "folder that is built",
}


@dataclass(frozen=True)
class Config:
    """A corpus to build, a teacher to ask about it, or either to check.

    Attributes:
      action: build, teach or check.
      source: text to build from; for teach a corpus; for check a corpus or a teacher's answers.
      out: folder that is built.
      column: text column of parquet, JSON lines and CSV.
      tokenizer: folder of a tokenizer; none: train a byte-level BPE on the text.
      vocab_size: of a tokenizer that is trained.
      shard_tokens: a shard file ends with the document that brings it to so many tokens.
      teacher: teach: checkpoint folder of a masked LM with the corpus's tokenizer.
      steps: teach: batches to answer; more than there are adds some.
      batch_size: teach: as in pretrain, and so are the following.
      seq_len: tokens in a row.
      packing: joined or documents.
      buckets: batches of short rows.
      whole_word: whole words are predicted.
      seed: of order and masks.
      temperature: T of the distillation.
      top_k: teach: likeliest tokens kept at a position; the others are one number.
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


def run(config: Config) -> Manifest | Answers:
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


def ask(config: Config) -> Answers:
    if not (config.out and config.teacher):
        raise ValueError("data teach needs CORPUS, OUT and --teacher")
    corpus = open_corpus(config.source)
    stream = corpus.stream(
        seed=config.seed,
        batch_size=config.batch_size,
        seq_len=config.seq_len,
        packing=config.packing,
        buckets=config.buckets,
        whole_word=config.whole_word,
    )
    answers, difference = teach(
        corpus,
        stream,
        load(config.teacher),
        config.out,
        steps=config.steps,
        k=config.top_k,
        temperature=config.temperature,
    )
    show_box(
        "teacher's answers",
        [
            *answer_facts(answers, tokens=config.batch_size * config.seq_len),
            f"asked again, the teacher's probabilities are the same to {difference:.1e}",
            f"next: bort-jax pretrain --data {config.source} --teacher-cache {config.out} …",
        ],
    )
    return answers


def check(config: Config) -> Manifest | Answers:
    if config.out:
        raise ValueError(f"data check needs one place; got {config.source} and {config.out}")
    if (Path(config.source) / ANSWERS).is_file():
        answers = check_answers(config.source)
        tokens = answers.made_from["batch_size"] * answers.made_from["seq_len"]
        said = answer_facts(answers, tokens=tokens)
        show_box("teacher's answers", [*said, "every file has its checksum"])
        return answers
    manifest = check_corpus(config.source)
    show_box("corpus", [*facts(manifest), "every file has its checksum"])
    return manifest


def answer_facts(answers: Answers, *, tokens: int) -> list[str]:
    """What there is; `tokens` are those of a batch."""
    records, made_from = sum(part.records for part in answers.parts), answers.made_from
    size = records * answers.record.itemsize
    return [
        f"{answers.batches:,} batches, {records:,} masked positions, "
        f"{made_from['top_k']} tokens of each at temperature {made_from['temperature']:g}",
        f"{size / 1e6:,.1f} MB in {len(answers.parts)} files, "
        f"{size / (answers.batches * tokens):.1f} bytes a token of text",
        f"corpus {made_from['corpus_sha256'][:16]}…, teacher {made_from['teacher_sha256'][:16]}…",
    ]


def facts(manifest: Manifest) -> list[str]:
    megabytes = manifest.total("bytes") / 1e6
    return [
        f"{manifest.total('documents'):,} documents, {megabytes:,.1f} MB of text; "
        f"{manifest.total('dropped'):,} rows without text dropped",
        f"{manifest.tokens('train'):,} tokens to train on, {manifest.tokens('heldout'):,} held "
        f"out, of {manifest.vocab_size:,} in the vocabulary, as {manifest.dtype}",
        f"{2 * len(manifest.parts)} files; tokenizer {manifest.tokenizer_sha256[:16]}…",
    ]


ACTIONS = {"build": build, "teach": ask, "check": check}

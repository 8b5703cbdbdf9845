# SPDX-License-Identifier: Apache-2.0
"""The options of a pretraining, their checks, and the typed objects that they stand for."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import jax

from bort_jax.arch import BORT, Arch, LayerwiseArch
from bort_jax.data.masking import MaskedStream
from bort_jax.data.packing import Packing, check_packing
from bort_jax.data.prepared import Corpus, holds_corpus, prepare_corpus
from bort_jax.engine.joining import Joining
from bort_jax.engine.optimizer import Hyper, check_numbers
from bort_jax.interop import Checkpoint
from bort_jax.model import DTYPES, BertConfig
from bort_jax.model.remat import Remat, check_remat
from bort_jax.stages.pretrain.recipe import LossWeights, Pacing, Recipe
from bort_jax.stages.pretrain.starting import load_start

HOUR = 3600.0  # seconds
# What may differ when a run is resumed: the weights do not depend on it.
FREE = ("out", "save_every", "keep", "keep_best", "log_every", "eval_every")


@dataclass(frozen=True)
class PretrainConfig:
    """Pretraining of one architecture. Defaults are the published setting (bort companion
    script) where it is known, except for the size of the run.

    Attributes:
      data: file or folder of text, hub:NAME, or a corpus that `bort-jax data build` or another
        stage built.
      out: run folder; the model is written to `OUT/model`.
      arch: such as D4-A8-H1024-I768, or bort, bert-base, bert-large; or with sizes of each layer,
        such as H64-K16[A4-I128 skip A2-I64]. None: that of init_from, without it bort.
      init_from: checkpoint folder to start from, of the same architecture or a deeper one, of which
        evenly spaced layers are taken; where it has no masked-LM head, there is a fresh one.
      teacher: checkpoint folder of a model with the same tokenizer; none: plain masked LM.
      teacher_cache: folder of a teacher cache (`bort-jax data cache-teacher`); distillation is
        then from it, and a `teacher` beside it must be the cached one.
      tokenizer: folder with a tokenizer.json; none: train one on the text (or take the teacher's,
        or that of `init_from`).
      vocab_size: of a tokenizer that is trained.
      column: text column of parquet, JSON lines and CSV.
      steps: gradient steps.
      hours: time to train instead, the start and the evaluations in it included; the rate follows
        the time used, and the run ends when it is used up. `steps` is then not read.
      batch_size: rows over all devices of all hosts.
      accumulation_steps: gradient accumulation: micro-batches per step.
      seq_len: tokens in a row.
      packing: joined: rows are full, and documents follow each other with a separator between;
        documents: no row crosses a document. The held-out scores are of joined rows in both.
      buckets: with documents, short rows come in batches of short rows, with as many tokens.
      whole_word: predict whole words (our reading; the published script predicts tokens).
      positions: learned positions.
      learning_rate: peak.
      warmup_ratio: share of the steps with a rising rate.
      weight_decay: decoupled; not on biases and LayerNorm.
      optimizer: adamw or lamb.
      clip: largest norm of the gradient.
      dropout: everywhere BERT has it.
      dtype: of the operands of products: float32 or bfloat16, faster where the device has units
        for it.
      remat: activation checkpointing policy, what the backward pass computes again: none, dots
        (all but the products with weights) or full (whole layers).
      mlm_weight: of the masked-LM loss beside distillation.
      distill_weight: of T²·KL(teacher ‖ student).
      hidden_weight: of the error of the last hidden states; for a teacher without masked-LM head.
      temperature: T.
      seed: of initial weights, order, masks and dropout.
      save_every: steps between checkpoints; writing them takes no time from training.
      keep: how many of the last checkpoints stay.
      keep_best: how many stay of those with the lowest held-out loss, which is known of the steps
        that both save_every and eval_every divide, and of the last.
      log_every: steps between log lines.
      eval_every: steps between scores on held-out text; the last step has them too.
      eval_rows: held-out rows that they are measured on.
      most_skipped: steps in a row without a finite loss and gradient that end the run; fewer are
        skipped and counted.
    """

    data: str
    out: str
    arch: str | None = None
    init_from: str | None = None
    teacher: str | None = None
    teacher_cache: str | None = None
    tokenizer: str | None = None
    vocab_size: int = 8192
    column: str = "text"
    steps: int = 1000
    hours: float | None = None
    batch_size: int = 32
    accumulation_steps: int = 1
    seq_len: int = 128
    packing: Packing = "joined"
    buckets: bool = False
    whole_word: bool = False
    positions: int = 512
    learning_rate: float = 1e-4
    warmup_ratio: float = 0.01
    weight_decay: float = 0.01
    optimizer: str = "adamw"
    clip: float = 1.0
    dropout: float = 0.1
    dtype: str = "float32"
    remat: Remat = "none"
    mlm_weight: float = 0.1
    distill_weight: float = 0.5
    hidden_weight: float = 0.0
    temperature: float = 2.0
    seed: int = 0
    save_every: int = 500
    keep: int = 2
    keep_best: int = 1
    log_every: int = 10
    eval_every: int = 500
    eval_rows: int = 512
    most_skipped: int = 10

    @property
    def seconds(self) -> float | None:
        """The time to train, where `steps` is not read."""
        return None if self.hours is None else self.hours * HOUR

    @property
    def wanted(self) -> Arch | LayerwiseArch | None:
        """The architecture; None: that of `init_from`."""
        text = self.arch or (None if self.init_from else "bort")
        if text and text.startswith("H"):
            return LayerwiseArch.parse(text)
        return Arch.parse(text) if text else None

    @property
    def losses(self) -> LossWeights:
        return LossWeights(
            self.mlm_weight, self.distill_weight, self.hidden_weight, self.temperature
        )

    @property
    def recipe(self) -> Recipe:
        hyper = Hyper.of(
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            warmup_ratio=self.warmup_ratio,
            total_steps=self.pacing.total,
        )
        return Recipe(
            self.losses, hyper, self.optimizer, self.clip, self.accumulation_steps, self.seed
        )

    @property
    def pacing(self) -> Pacing:
        return Pacing(
            self.steps,
            self.seconds,
            save_every=self.save_every,
            keep=self.keep,
            keep_best=self.keep_best,
            log_every=self.log_every,
            eval_every=self.eval_every,
            eval_rows=self.eval_rows,
            most_skipped=self.most_skipped,
        )

    @property
    def corpus_folder(self) -> Path:
        """Where the built corpus is, or will be."""
        return Path(self.data) if holds_corpus(self.data) else Path(self.out) / "data"

    def corpus(self) -> Corpus:
        """The text, built in `OUT/data` where it is not built; read as the teacher reads it."""
        return prepare_corpus(
            self.data,
            self.corpus_folder,
            column=self.column,
            tokenizer=self.tokenizer or self.teacher or self.init_from,
            vocab_size=self.vocab_size,
        )

    def stream(self, corpus: Corpus) -> MaskedStream:
        return corpus.stream(
            seed=self.seed,
            batch_size=self.batch_size,
            seq_len=self.seq_len,
            packing=self.packing,
            buckets=self.buckets,
            whole_word=self.whole_word,
        )

    def start(self) -> Checkpoint | None:
        """The checkpoint of `init_from`; raises ValueError where it does not fit."""
        if self.init_from is None:
            return None
        return load_start(self.init_from, self.wanted, positions=self.positions)

    def model_config(self, corpus: Corpus, start: Checkpoint | None) -> BertConfig:
        """The model's shapes; what the options do not say is as in `start`.

        Raises:
          ValueError: `start` was trained on another vocabulary.
        """
        vocab_size = corpus.tokenizer.vocab_size
        options = {"dropout": self.dropout, "dtype": self.dtype}
        if start is None:
            arch = self.wanted or BORT
            return BertConfig(arch, vocab_size, positions=self.positions, **options)
        if start.config.vocab_size != vocab_size:
            raise ValueError(
                f"{self.init_from} has {start.config.vocab_size} tokens, the corpus {vocab_size}: "
                "a model goes on only with its own vocabulary"
            )
        # Rows of running text are no pairs: all token types are 0.
        return replace(start.config, separator=None, **options)

    def run_key(self, corpus: Corpus, arch: Arch | LayerwiseArch) -> dict[str, Any]:
        """The settings that a checkpoint shares with its reader, without the teacher."""
        return {
            "architecture": str(arch),
            "tokenizer": corpus.tokenizer.sha256,
            "data manifest": corpus.sha256,
            "seed": self.seed,
            "rows of a batch": self.batch_size,
            "tokens of a row": self.seq_len,
        }


def check(config: PretrainConfig) -> None:
    """Raises ValueError on what would only fail later, inside a trace."""
    config.wanted  # raises where it is none
    check_packing(config.packing, buckets=config.buckets)
    check_weights(config)
    check_remat(config.remat)
    check_numbers(config)
    if config.seq_len > config.positions:
        raise ValueError(
            f"seq_len {config.seq_len} is longer than the {config.positions} positions"
        )
    if config.dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}; got {config.dtype!r}")
    if config.hours is not None and not config.hours > 0:
        raise ValueError(f"hours must be more than 0; got {config.hours}")
    for name in (
        "steps",
        "batch_size",
        "accumulation_steps",
        "save_every",
        "keep",
        "log_every",
        "eval_every",
    ):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1; got {getattr(config, name)}")
    devices = jax.device_count()
    if config.batch_size % (devices * config.accumulation_steps):
        shares = f"{devices} devices" + (f" × {config.accumulation_steps} micro-batches") * (
            config.accumulation_steps > 1
        )
        raise ValueError(f"batch_size {config.batch_size} is not a multiple of {shares}")


def check_weights(config: PretrainConfig) -> None:
    """Raises ValueError for losses that nothing is there for."""
    weights = (config.mlm_weight, config.distill_weight, config.hidden_weight)
    if min(weights) < 0:
        raise ValueError(f"the losses' weights must not be negative; got {weights}")
    if config.hidden_weight and not config.teacher:
        raise ValueError("--hidden-weight needs a --teacher, whose hidden states are learnt")
    if config.teacher_cache and not config.distill_weight:
        raise ValueError("a --teacher-cache is given, but --distill-weight is 0")
    if config.teacher and not (config.distill_weight or config.hidden_weight):
        raise ValueError("a --teacher is given, but --distill-weight and --hidden-weight are 0")
    if not config.temperature > 0:
        raise ValueError(f"temperature must be positive; got {config.temperature}")


@dataclass(frozen=True)
class Config(Joining, PretrainConfig):
    """Pretraining of one architecture; see `PretrainConfig`.

    Attributes:
      dry_run: print parameters, memory, steps, tokens and time from ten real steps; write nothing.
      profile: write a trace of a few steps to `OUT/profile`.
    """

    dry_run: bool = False
    profile: bool = False

    def pretraining(self) -> PretrainConfig:
        """The options of the run, wherever it runs."""
        return PretrainConfig(**{f.name: getattr(self, f.name) for f in fields(PretrainConfig)})

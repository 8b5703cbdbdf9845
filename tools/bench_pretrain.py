# SPDX-License-Identifier: Apache-2.0
"""Tokens a second and MFU of pretraining on the devices there are, and the wait for data.

python tools/bench_pretrain.py CORPUS                          # Bort, BERT-base, BERT-large
python tools/bench_pretrain.py CORPUS --arch bort --seq_len 512 --batch_size 64
python tools/bench_pretrain.py CORPUS --arch bort --teacher bert-large

CORPUS is what `bort-jax data build` wrote. Weights are random: the time does not depend on them.
The cases take turns, so that a machine that slows down slows them all; a case's number is the
median of its turns. With --teacher an architecture is timed plain, distilled from that teacher
beside it, and from a teacher cache.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
import numpy as np

from bort_jax.arch import Arch
from bort_jax.data.prepared import Corpus, open_corpus
from bort_jax.engine.loop import fit
from bort_jax.engine.peaks import peak_flops
from bort_jax.engine.schedule import Steps
from bort_jax.engine.throughput import Meter, step_flops
from bort_jax.interop import Checkpoint
from bort_jax.model import BertConfig, MaskedLM, random_params
from bort_jax.report.terminal import say, show_table
from bort_jax.stages.pretrain.cache_teacher import TopKTeacher, cache_teacher
from bort_jax.stages.pretrain.config import PretrainConfig
from bort_jax.stages.pretrain.objectives import teacher_stream
from bort_jax.stages.pretrain.setup import Setup
from bort_jax.stages.pretrain.training import batches

AHEAD = 4  # batches that are made and not trained on
# Rows a device where nothing else is asked for: what fits, and on a CPU what ends.
ROWS = {"bort": 256, "bert-base": 128, "bert-large": 64}
ROWS_ON_CPU = {"bort": 8, "bert-base": 4, "bert-large": 2}


@dataclass
class Case:
    """One way to train, where its training stands, and what its turns measured."""

    name: str
    step: Any
    state: Any
    items: Iterator
    meter: Meter
    laps: list[dict[str, float]] = field(default_factory=list)

    def turn(self, steps: int) -> None:
        """One step that does not count, and `steps` that do."""
        passing = self.meter.watch(islice(self.items, steps + 1))
        self.state = fit(self.state, passing, step_fn=self.step)
        jax.block_until_ready(self.state)
        self.laps.append(self.meter.lap())

    def median(self, name: str) -> float:
        return float(np.median([lap[name] for lap in self.laps]))


def main() -> None:
    given = arguments()
    corpus = open_corpus(given.corpus)
    with TemporaryDirectory() as folder:
        cases = [
            case for arch in given.arch for case in cases_of(arch, corpus, given, Path(folder))
        ]
        for _ in range(given.turns):
            for case in cases:
                case.turn(given.steps)
        shown = [row(case) for case in cases]
    peak = peak_flops()
    devices = jax.devices()
    say(f"{len(devices)} × {devices[0].device_kind}, {given.dtype}, {given.seq_len} tokens a row")
    say(f"peak by data sheet: {peak / 1e12:.4g} TFLOP/s" if peak else "peak unknown")
    header = ("case", "rows", "ms a step", "tokens/s", "MFU %", "waiting for data %")
    show_table("pretraining", header, shown)


def row(case: Case) -> tuple:
    pace, speed = case.median("seconds_per_step"), case.median("tokens_per_second")
    mfu = 100 * case.median("mfu") if peak_flops() else "unknown"
    waited = 100 * case.median("waited_for_data")
    return (case.name, rows_of(case), 1e3 * pace, round(speed), mfu, waited)


def rows_of(case: Case) -> int:
    return len(next(case.items)["ids"]) * jax.process_count()


def cases_of(arch: str, corpus: Corpus, given: argparse.Namespace, folder: Path) -> Iterator[Case]:
    plain = settings(arch, given)
    yield case_of(plain, corpus, name=arch)
    if given.teacher:
        teacher = checkpoint(given.teacher, corpus, given.dtype)
        yield case_of(plain, corpus, name=f"{arch}, live teacher {given.teacher}", teacher=teacher)
        cache_teacher(
            corpus, plain.stream(corpus), TopKTeacher.of(teacher), folder / arch, steps=plain.steps
        )
        cached = replace(plain, teacher_cache=str(folder / arch))
        yield case_of(cached, corpus, name=f"{arch}, teacher cache of {given.teacher}")


def settings(arch: str, given: argparse.Namespace) -> PretrainConfig:
    rows = ROWS_ON_CPU if jax.default_backend() == "cpu" else ROWS
    per_device = given.batch_size or rows.get(arch, rows["bert-large"])
    return PretrainConfig(
        data=str(given.corpus),
        out="",
        arch=arch,
        steps=given.turns * (given.steps + 1) + AHEAD,
        batch_size=per_device * jax.device_count(),
        seq_len=given.seq_len,
        dtype=given.dtype,
        accumulation_steps=given.accumulation_steps,
    )


def case_of(
    config: PretrainConfig, corpus: Corpus, *, name: str, teacher: Checkpoint | None = None
) -> Case:
    student = checkpoint(config.arch or "bort", corpus, config.dtype)
    stream = teacher_stream(
        config.stream(corpus), corpus, config.losses, teacher=teacher, cache=config.teacher_cache
    )
    model = MaskedLM(student.config)
    setup = Setup(config.recipe, corpus, model, student.params, stream, {}, teacher)
    flops = step_flops(student.config, teacher.config if teacher else None)
    return Case(
        name=name,
        step=setup.step(),
        state=setup.new_state(),
        items=batches(stream, start=0, horizon=Steps(config.steps, done=0)),
        meter=Meter(flops, peak_flops()),
    )


def checkpoint(arch: str, corpus: Corpus, dtype: str) -> Checkpoint:
    config = BertConfig(Arch.parse(arch), corpus.tokenizer.vocab_size, dtype=dtype)
    return Checkpoint(config, random_params(MaskedLM(config), seed=0), tokenizer=corpus.tokenizer)


def arguments() -> argparse.Namespace:
    on_cpu = jax.default_backend() == "cpu"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--arch", nargs="+", default=list(ROWS))
    parser.add_argument("--teacher", help="an architecture: time distillation from it too")
    parser.add_argument("--seq_len", type=int, default=128)
    parser.add_argument("--batch_size", type=int, help="rows a device")
    parser.add_argument("--accumulation_steps", type=int, default=1)
    parser.add_argument("--dtype", default="float32" if on_cpu else "bfloat16")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2 if on_cpu else 20, help="in each turn")
    return parser.parse_args()


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Agora beside other uses of the same labels, the same Socrates and as many calls.

    python tools/agora_study.py --data_dir data --encoder all-minilm-l6-v2/ --probe --out runs/probe
    python tools/agora_study.py --data_dir data --encoder all-minilm-l6-v2/ \
        --student runs/three_layers/model --out runs/study

A task's rows are divided anew in each draw: test, dev, and two halves. Socrates learns one half;
the scarce rows and the pool stand in the other, which he never saw. The next draw swaps the halves.
Classes have their natural shares. Three regimes: the scarce rows are a random draw
(representative), stand in one of 8 clusters (patch), or the pool is 16 % in domain (mixed).

  plain            the scarce rows
  train + dev      and dev, with true labels
  pool at random   and so many pool texts with Socrates' answers
  pool by doubt    those that plain fine-tuning doubts most
  near any dev     `bort_jax.agora` with τ retrieve, parents from all of dev
  near mistakes    parents are mistakes
  Agora            parents as the mistake lift says: the default
  true labels      so many pool texts with their true labels
  whole pool       all of it with Socrates' answers

Every arm chooses among one Θ on dev and has the mean of three seeds on its last set as its score
(balanced accuracy would be the same: both tasks are balanced). The primary contrast, Agora − pool
at random at equal calls, was written down before the first run. Each draw is kept when it is
finished; the same command goes on. `--probe` has logistic regression on frozen embeddings in place
of both networks, a minute a task: it ranks arms and proves nothing about a fine-tuned student.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from jsonargparse import auto_cli
from study_arms import Ground, arms_of, score, socrates_of
from study_sets import REGIMES, Table, draw_rows, read_table
from study_students import Probe, TextStudent

from bort_jax.interop import Checkpoint, read
from bort_jax.report.paired import gain
from bort_jax.report.terminal import say, show_table
from bort_jax.stages.agora.pool.store import Encoder
from bort_jax.stages.finetune.tuner import FineTuner
from bort_jax.storage.files import read_json, whole_file, write_json
from bort_jax.storage.run_folder import claim

TASKS = ("reviews/rotten_tomatoes", "reviews/imdb")
PRIMARY = ("Agora", "pool at random")
PAIRS = (
    PRIMARY,
    ("near mistakes", "near any dev"),
    ("pool by doubt", "pool at random"),
    ("Agora", "plain"),
    ("whole pool", "plain"),
)


@dataclass(frozen=True)
class Settings:
    """The study's settings.

    Attributes:
      data_dir: folder with SUITE/TASK/SPLIT.parquet.
      encoder: its mean states say what is near; Socrates is fine-tuned from it.
      student: the checkpoint that is fine-tuned, with the same tokenizer.
      probe: logistic regression on the encoder's states in place of both.
      out: folder of the results.
      tasks: balanced tasks of single texts.
      rows: most rows of a task.
      draws: how many, from 0 on.
      regimes: of representative, patch and mixed.
      calls: budgets.
      scarce: labelled rows.
      dev: rows that steer.
      test: rows that are scored.
      seq_len: tokens in a row.
      steps: of each fine-tuning of the student.
      socrates_steps: of Socrates'.
      batch_size: rows in a step.
    """

    data_dir: str
    encoder: str
    student: str = ""
    probe: bool = False
    out: str = "runs/study"
    tasks: tuple[str, ...] = TASKS
    rows: int = 8000
    draws: int = 8
    regimes: tuple[str, ...] = REGIMES
    calls: tuple[int, ...] = (100, 300)
    scarce: int = 200
    dev: int = 300
    test: int = 1500
    seq_len: int = 48
    steps: int = 200
    socrates_steps: int = 600
    batch_size: int = 16


def main(settings: Settings) -> None:
    run(settings)


def run(settings: Settings) -> None:
    """Every draw that is not finished; then the tables."""
    out = claim(settings.out, settings, free=("out", "draws", "tasks", "regimes"))
    encoder = Encoder(read(settings.encoder), settings.seq_len)
    for task in settings.tasks:
        table = read_table(task, settings.data_dir, most=settings.rows)
        folder = out / task.replace("/", "-")
        vectors = kept_vectors(encoder, table, folder / "vectors.npy")
        for seed, regime in product(range(settings.draws), settings.regimes):
            file = folder / f"{regime}-{seed}.json"
            if not file.is_file():
                write_json(file, run_draw(table, vectors, regime, seed, encoder, settings))
                say(f"{task}, {regime}, draw {seed} is finished")
    report(out, settings)


def kept_vectors(encoder: Encoder, table: Table, file: Path) -> np.ndarray:
    """The table's embeddings, from their file where they are made."""
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        vectors = encoder.vectors(encoder.tokens(table.examples))
        with whole_file(file) as partial, partial.open("wb") as opened:
            np.save(opened, vectors.astype(np.float32))
    return np.load(file)


def run_draw(
    table: Table, vectors: np.ndarray, regime: str, seed: int, encoder: Encoder, settings: Settings
) -> dict[str, dict[str, float]]:
    """Test accuracy of every arm, by budget."""
    sizes = dict(scarce=settings.scarce, dev=settings.dev, test=settings.test)
    draw = draw_rows(table, vectors, regime, seed, **sizes)
    unknown = lambda x: np.zeros((len(x), table.classes))
    ground = Ground(table, vectors, draw, unknown, lambda seed: Probe(vectors, table.classes))
    teacher = ground.student_of(0)
    if not settings.probe:
        students = text_students(table, encoder, settings)
        ground, teacher = ground._replace(student_of=students[0]), students[1](seed)
    ground = ground._replace(label_fn=socrates_of(ground, teacher))
    answers = ground.label_fn(draw.test[:, None]).argmax(axis=1)
    socrates = float((answers == table.labels[draw.test]).mean())
    found = {}
    for calls in settings.calls:
        sets = arms_of(ground, calls)
        found[str(calls)] = {name: score(ground, make()) for name, make in sets.items()}
        found[str(calls)]["Socrates"] = socrates
    return found


def text_students(table: Table, encoder: Encoder, settings: Settings):
    """The student by seed, and Socrates by seed: networks on one table's tokens."""
    tokens, labels = encoder.tokens(table.examples), tuple(map(str, range(table.classes)))

    def network(start: Checkpoint, steps: int):
        tuner = FineTuner.of(start, labels, steps=steps, dropout=0.0)
        return lambda seed: TextStudent(tuner, tokens, settings.batch_size, seed)

    student = network(read(settings.student), settings.steps)
    return student, network(encoder.checkpoint, settings.socrates_steps)


def report(out: Path, settings: Settings) -> None:
    """A table for each regime and budget, from what is finished."""
    for regime, calls in product(settings.regimes, settings.calls):
        found = {task: list(scores(out, task, regime, calls)) for task in settings.tasks}
        found = {task: draws for task, draws in found.items() if len(draws) > 1}
        if found:
            title = f"{regime}, {calls} calls"
            arms = tuple(next(iter(found.values()))[0])
            show_table(f"{title}: accuracy, %", ("task", *arms), mean_rows(found, arms))
            pairs = [f"{a} − {b}" for a, b in PAIRS]
            show_table(f"{title}: differences", ("task", *pairs), gain_rows(found))


def scores(out: Path, task: str, regime: str, calls: int) -> Iterator[dict[str, float]]:
    """Each finished draw's accuracies, in order."""
    folder = out / task.replace("/", "-")
    for file in sorted(folder.glob(f"{regime}-*.json")):
        yield read_json(file)[str(calls)]


def mean_rows(found: dict[str, list], arms: Sequence[str]) -> Iterator[tuple]:
    for task, draws in found.items():
        yield task, *(f"{100 * np.mean([one[arm] for one in draws]):.1f}" for arm in arms)


def gain_rows(found: dict[str, list]) -> Iterator[tuple]:
    """Paired by draw; the last row has the draws of all tasks."""
    every = {**found, "all": [one for draws in found.values() for one in draws]}
    for task, draws in every.items():
        of = lambda arm, draws=draws: [100 * one[arm] for one in draws]
        yield task, *(str(gain(of(a), of(b))) for a, b in PAIRS)


if __name__ == "__main__":
    main(auto_cli(Settings, as_positional=False))

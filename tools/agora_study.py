# SPDX-License-Identifier: Apache-2.0
"""Agora beside other uses of the same labels, the same Socrates and as many calls.

    python tools/agora_study.py --data_dir data --encoder all-minilm-l6-v2/ --probe --out runs/probe
    python tools/agora_study.py --data_dir data --encoder all-minilm-l6-v2/ \
        --student runs/three_layers/model --out runs/study

A task's rows are divided anew in each draw: test, dev, and two halves. Socrates learns one half;
the scarce rows and the pool stand in the other, which he never saw. The next draw swaps the halves.
Classes have their natural shares. Three regimes: the scarce rows are a random draw
(representative), stand in one of 8 clusters (patch), or the pool is 16 % in domain (mixed).

  TF-IDF           the scarce rows, in logistic regression on as many words as networks read
  plain            the scarce rows
  train + dev      and dev, with true labels
  pool at random   and so many pool texts with Socrates' answers
  pool by doubt    those that plain fine-tuning doubts most
  near any dev     `bort_jax.agora` with τ retrieve, parents from all of dev
  near mistakes    parents are mistakes
  Agora            parents as the mistake lift says: the default
  true labels      so many pool texts with their true labels
  whole pool       all of it with Socrates' answers

A network has one learning rate, and as many steps as the pool at random needs on dev, chosen once a
task; the score of an arm is the mean of two seeds on its last set (balanced accuracy would be the
same: both tasks are balanced). The primary contrast, Agora − pool at random at equal calls, was
written down before the first run. Each draw is kept when it is finished; the same command goes on.
`--probe` has logistic regression on frozen embeddings in place of both networks, its strength
chosen on dev, minutes a task: it screens arms and proves nothing about a fine-tuned student.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jsonargparse import auto_cli
from study_arms import Ground, arms_of, score, socrates_answers
from study_sets import DRAWS, REGIMES, Draw, Table, draw_rows, read_table
from study_students import Probe, Student, TextStudent

from bort_jax.interop import read
from bort_jax.report.paired import gain
from bort_jax.report.terminal import say, show_table
from bort_jax.stages.agora.pool.store import Encoder
from bort_jax.stages.compress.baseline import tfidf_answers
from bort_jax.stages.finetune.tuner import FineTuner
from bort_jax.storage.files import read_json, whole_file, write_json
from bort_jax.storage.run_folder import claim
from bort_jax.tasks import Examples

TASKS = ("reviews/rotten_tomatoes", "reviews/imdb")
ARMS = (
    "plain", "train + dev", "pool at random", "pool by doubt", "near any dev", "near mistakes",
    "Agora", "true labels", "whole pool",
)  # fmt: skip
FREE = ("plain", "train + dev", "whole pool")  # whatever the budget
PRIMARY = ("Agora", "pool at random")
PAIRS = (
    PRIMARY,
    ("near mistakes", "near any dev"),
    ("pool by doubt", "pool at random"),
    ("Agora", "near any dev"),
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
      arms: those that are tried.
      calls: budgets.
      scarce: labelled rows.
      dev: rows that steer.
      test: rows that are scored.
      seq_len: tokens in a row.
      steps: choices of the student's training steps: the fewest with which the pool at random, at
        the largest budget, is within a point of its best on dev.
      learning_rate: of the student.
      socrates_steps: of Socrates.
      socrates_rate: his learning rate.
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
    arms: tuple[str, ...] = ARMS
    calls: tuple[int, ...] = (100, 300)
    scarce: int = 200
    dev: int = 300
    test: int = 1500
    seq_len: int = 48
    steps: tuple[int, ...] = (50, 100, 200)
    learning_rate: float = 3e-4
    socrates_steps: int = 200
    socrates_rate: float = 1e-4
    batch_size: int = 16


class Task(NamedTuple):
    """A task, and who learns it.

    Attributes:
      folder: of its results.
      socrates: he learns from many rows.
      student: learns from few.
    """

    folder: Path
    table: Table
    vectors: np.ndarray
    socrates: Student
    student: Student


def main(settings: Settings) -> None:
    run(settings)


def run(settings: Settings) -> None:
    """Every draw that is not finished, the first of all tasks first; then the tables."""
    out = claim(settings.out, settings, free=("out", "draws", "tasks", "regimes"))
    tasks = [prepare(name, out / name.replace("/", "-"), settings) for name in settings.tasks]
    for seed, task, regime in product(range(settings.draws), tasks, settings.regimes):
        file = task.folder / f"{regime}-{seed}.json"
        if not file.is_file():
            write_json(file, run_draw(task, regime, seed, settings))
            say(f"{task.folder.name}, {regime}, draw {seed} is finished")
    report(out, settings)


def prepare(name: str, folder: Path, settings: Settings) -> Task:
    encoder = Encoder(read(settings.encoder), settings.seq_len)
    table = read_table(name, settings.data_dir, most=settings.rows)
    vectors = kept(folder / "vectors.npy", lambda: encoder.vectors(encoder.tokens(table.examples)))
    if settings.probe:
        probe = Probe(vectors, table.classes)
        return Task(folder, table, vectors, probe, probe)
    teach = network(settings.encoder, table, settings, settings.socrates_rate)
    learn = network(settings.student, table, settings, settings.learning_rate)
    task = Task(folder, table, vectors, teach(settings.socrates_steps), learn(1))
    steps = kept(folder / "steps.npy", lambda: fewest_steps(task, learn, settings))
    return task._replace(student=learn(int(steps)))


def network(
    source: str, table: Table, settings: Settings, rate: float
) -> Callable[[int], TextStudent]:
    """Builds a student by its training steps."""
    start, labels = read(source), tuple(map(str, range(table.classes)))
    tokens = table.examples.encode(start.required_tokenizer, seq_len=settings.seq_len).x

    def with_steps(steps: int) -> TextStudent:
        tuner = FineTuner.of(start, labels, steps=steps, dropout=0.0)
        return TextStudent(tuner, tokens, settings.batch_size, rate)

    return with_steps


def fewest_steps(task: Task, learn: Callable[[int], TextStudent], settings: Settings) -> np.ndarray:
    """The fewest steps with which the pool at random is within a point of its best on dev."""
    ground = ground_of(task, "representative", 0, settings)
    train = arms_of(ground, max(settings.calls))[PRIMARY[1]]()

    def accuracy(steps: int) -> float:
        mine = ground._replace(student=learn(steps))
        models = mine.student.fit_all(mine.student.thetas, train)
        return float(np.mean([mine.right(model, mine.draw.dev).mean() for model in models]))

    found = {steps: accuracy(steps) for steps in sorted(settings.steps)}
    say("; ".join(f"{steps} steps: {100 * right:.1f} % on dev" for steps, right in found.items()))
    return np.asarray(next(k for k, right in found.items() if right >= max(found.values()) - 0.01))


def kept(file: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    """An array from its file, or made and put there."""
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        made = make()
        with whole_file(file) as partial, partial.open("wb") as opened:
            np.save(opened, made)
    return np.load(file)


def ground_of(task: Task, regime: str, seed: int, settings: Settings) -> Ground:
    """A draw, and Socrates' answers, which are kept."""
    sizes = dict(scarce=settings.scarce, dev=settings.dev, test=settings.test)
    draw = draw_rows(task.table, task.vectors, regime, seed, **sizes)
    file = task.folder / f"socrates-{seed // DRAWS}-{seed % 2}.npy"
    answers = kept(file, lambda: socrates_answers(task.table, draw, task.socrates))
    return Ground(task.table, task.vectors, draw, task.student, answers)


def run_draw(task: Task, regime: str, seed: int, settings: Settings) -> dict[str, dict[str, float]]:
    """Test accuracy of every arm, by budget."""
    ground = ground_of(task, regime, seed, settings)
    table, draw = task.table, ground.draw
    right = ground.answers[draw.test].argmax(axis=1) == table.labels[draw.test]
    sets = {calls: arms_of(ground, calls) for calls in settings.calls}
    first, chosen = sets[settings.calls[0]], settings.arms
    free = {name: score(ground, first[name]()) for name in chosen if name in FREE}
    free |= {
        "Socrates": float(right.mean()),
        "TF-IDF": tfidf_accuracy(table, draw, words=settings.seq_len),
    }
    return {
        str(calls): free | {name: score(ground, of[name]()) for name in chosen if name not in FREE}
        for calls, of in sets.items()
    }


def tfidf_accuracy(table: Table, draw: Draw, *, words: int) -> float:
    """Of the first words of the texts, no more of which the networks read."""
    first = lambda row: " ".join(table.texts[0][int(row)].split()[:words])
    of = lambda rows: Examples.of(([first(row) for row in rows],), table.labels[rows])
    answers, _ = tfidf_answers(of(draw.scarce), of(draw.test), scores=False)
    return float((answers == table.labels[draw.test]).mean())


def report(out: Path, settings: Settings) -> None:
    """A table for each regime and budget, from what is finished."""
    for regime, calls in product(settings.regimes, settings.calls):
        found = {task: list(scores(out, task, regime, calls)) for task in settings.tasks}
        found = {task: draws for task, draws in found.items() if len(draws) > 1}
        if found:
            title = f"{regime}, {calls} calls, " + ", ".join(
                f"{len(draws)} draws of {task}" for task, draws in found.items()
            )
            show_table(f"{title}: accuracy, %", ("arm", *found), mean_rows(found))
            show_table("differences", ("pair", *found, "all"), gain_rows(found))


def scores(out: Path, task: str, regime: str, calls: int) -> Iterator[dict[str, float]]:
    """Each finished draw's accuracies, in order."""
    folder = out / task.replace("/", "-")
    for file in sorted(folder.glob(f"{regime}-*.json")):
        yield read_json(file)[str(calls)]


def mean_rows(found: dict[str, list]) -> Iterator[tuple]:
    for arm in next(iter(found.values()))[0]:
        means = (100 * np.mean([one[arm] for one in draws]) for draws in found.values())
        yield arm, *(f"{mean:.1f}" for mean in means)


def gain_rows(found: dict[str, list]) -> Iterator[tuple]:
    """Paired by draw; the last column has the draws of all tasks."""
    every = [*found.values(), [one for draws in found.values() for one in draws]]
    for a, b in PAIRS:
        if {a, b} <= set(every[0][0]):
            of = lambda arm, draws: [100 * one[arm] for one in draws]
            yield f"{a} − {b}", *(str(gain(of(a, draws), of(b, draws))) for draws in every)


if __name__ == "__main__":
    main(auto_cli(Settings, as_positional=False))

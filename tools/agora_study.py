# SPDX-License-Identifier: Apache-2.0
"""Agora beside four other uses of the same data, on scarce versions of public tasks.

    python tools/agora_study.py --data_dir data --timaeus runs/small/model \
        --socrates all-minilm-l6-v2/ --out runs/study

From each task's train split a fifth of the texts is held out, the rest is what there is. Socrates,
the larger model, is fine-tuned on all of that; everyone else has a few rows of it, as many of each
class, drawn anew for every seed. One half of the task's validation split steers, the other only
reports. The arms, all with the same Θ, the same steps and the same number of fine-tunings, of
which each keeps the best on steer-dev:

  plain         the scarce rows
  distillation  and as many other texts of the train split as Agora's best model had generated ones
                (all, where there are fewer), drawn at random, with Socrates' labels, kept by
                Agora's rule. He was trained on those very texts, so his labels are better there
                than on new ones: this arm is favoured
  random        and as many texts by the same τ with Socrates' labels, near any rows of steer-dev
                rather than near mistakes
  Agora         `bort_jax.agora`
  dev appended  the scarce rows and steer-dev with its true labels; plain's best θ, one fine-tuning

What no arm reads: report-dev, the held-out fifth, and the labels of the official test split,
whose predictions are written as submission files, a zip for each arm and seed. Scores are the
task's own metrics (their mean where there are two), in points; differences are paired by seed, with
95 % intervals of Student's t.

Each seed of each task is kept when it is finished; the same command goes on, and so does one with
other tasks or more seeds. The line that is printed for a seed has report-dev only: settings are to
be chosen by it, never by the held-out rows.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jsonargparse import auto_cli
from scipy.special import softmax
from study_report import SPLITS, report, sentence, write_submissions
from study_sets import concatenate, distillation_set, draw_scarce, random_augmentation_set

from bort_jax.agora import (
    Agora,
    Copy,
    Dataset,
    Guard,
    Tau,
    Window,
    agora,
    balance_classes,
    cache_labels,
    drop_unsure,
    generator,
    grid,
    mix_tau,
    neighbour_tau,
    replay,
    start,
)
from bort_jax.data.row_text import text_keys
from bort_jax.data.tokenizer import Tokenizer
from bort_jax.interop import Checkpoint, load, save
from bort_jax.report.terminal import say
from bort_jax.stages.agora.sides import token_sides
from bort_jax.stages.agora.split import split_dev
from bort_jax.stages.finetune.tuner import FineTuner, Theta
from bort_jax.stages.predict.forward import class_logits
from bort_jax.storage.files import write_json
from bort_jax.storage.run_folder import claim
from bort_jax.tasks import Examples, Points, Task, decide, find_task, read_task, score
from bort_jax.tasks.submission import submission_lines

SHOWN = ("glue/sst2_sentences", "glue/mrpc", "glue/qnli", "glue/cola", "glue/rte")


@dataclass(frozen=True)
class Settings:
    """The study's settings.

    Attributes:
      data_dir: folder with SUITE/TASK/SPLIT.parquet.
      timaeus: the small pretrained model.
      socrates: the larger encoder that is fine-tuned into Socrates; the same tokenizer.
      out: folder of the results.
      tasks: single sentences or pairs, with classes.
      seeds: how many draws of the scarce rows.
      first_seed: the first of them; settings are chosen on other draws than those that are told.
      rows: scarce rows.
      held_out: most rows of the held-out fifth that are scored.
      seq_len: tokens in a row.
      steps: of each fine-tuning.
      batch_size: rows in a step.
      learning_rates: choices of Θ.
      theta_seeds: choices of Θ.
      dtype: of the operands of products, Socrates' too.
      socrates_steps: of Socrates' fine-tuning.
      socrates_rate: its peak.
      replays: times that Agora starts anew from the set that it has made, with all of Θ.
      samples_per_error: new points near each mistake.
      correct_per_error: correct rows of steer-dev that Agora augments too, for each mistake.
      edit_fraction: of a text's tokens that τ changes.
      min_distance: smallest fraction of changed tokens.
      max_distance: largest.
      min_confidence: pseudo-labels less confident do not join, in no arm.
      at_once: members of a population that a device trains together, at the most; None: as many
        as is fastest. It changes nothing but the time.
    """

    data_dir: str
    timaeus: str
    socrates: str
    out: str = "runs/study"
    tasks: tuple[str, ...] = SHOWN
    seeds: int = 5
    first_seed: int = 0
    rows: int = 500
    held_out: int = 1000
    seq_len: int = 64
    steps: int = 80
    batch_size: int = 32
    learning_rates: tuple[float, ...] = (1e-3, 3e-4)
    theta_seeds: tuple[int, ...] = (0, 1)
    dtype: str = "float32"
    socrates_steps: int = 300
    socrates_rate: float = 1e-4
    replays: int = 0
    samples_per_error: int = 8
    correct_per_error: float = 0.0
    edit_fraction: float = 0.5
    min_distance: float = 0.1
    max_distance: float = 0.9
    min_confidence: float = 0.95
    at_once: int | None = None


class Ground(NamedTuple):
    """A task's data, as it is the same for all seeds."""

    task: Task
    usable: Points  # of the train split
    steer: Points
    sides: np.ndarray  # which tokens of steer-dev may change
    scored: Mapping[str, tuple[Examples, np.ndarray]]  # by split: rows, and their tokens
    guard: Guard


class Arm(NamedTuple):
    """The best of what an arm trained."""

    copy: Copy
    rows: int  # that it was trained on


def main() -> None:
    run(auto_cli(Settings, as_positional=False))


def run(settings: Settings) -> None:
    """All tasks and seeds that are not yet in the folder, then the tables.

    Raises:
      SystemExit: there are fewer than two seeds.
    """
    if settings.seeds < 2:
        raise SystemExit(f"--seeds must be 2 or more to compare by seed; got {settings.seeds}")
    # Tasks and seeds may be added later to what is there.
    out = claim(settings.out, replace(settings, tasks=(), seeds=0, first_seed=0, at_once=None))
    timaeus, results = load(settings.timaeus), {}
    for reference in settings.tasks:
        folder = out / reference.replace("/", "-")
        folder.mkdir(exist_ok=True)
        results[reference] = study(reference, timaeus, folder, settings)
        report(results, out)
    write_submissions(out, settings.tasks, data_dir=settings.data_dir, seeds=draws(settings))


def study(reference: str, timaeus: Checkpoint, folder: Path, settings: Settings) -> list[dict]:
    """All seeds of a task; finished ones are read."""
    files = [folder / f"seed-{seed}.json" for seed in draws(settings)]
    if not all(file.is_file() for file in files):
        ground = read_ground(reference, timaeus.required_tokenizer, settings)
        label_fn = cache_labels(labeller(socrates_of(ground, folder, settings)))
        tuner = FineTuner.of(
            timaeus,
            ground.task.labels,
            steps=settings.steps,
            dropout=0.0,
            dtype=settings.dtype,
            at_once=settings.at_once,
        )
        table = load(settings.socrates).params["encoder"]["embeddings"]["word"]["embedding"]
        tau = taus(np.asarray(table), timaeus.required_tokenizer, label_fn, settings)
        for seed, file in zip(draws(settings), files, strict=True):
            if not file.is_file():
                found = run_seed(seed, ground, tuner, tau, label_fn, settings)
                lines = found.pop("lines")
                write_json(file.with_suffix(".lines"), lines)
                write_json(file, found)
                say(f"{reference}, seed {seed}: {sentence(found)}")
    return [json.loads(file.read_text()) for file in files]


def draws(settings: Settings) -> range:
    return range(settings.first_seed, settings.first_seed + settings.seeds)


def read_ground(reference: str, tokenizer: Tokenizer, settings: Settings) -> Ground:
    """Reads and divides a task; train rows that stand in what is held out are left out."""
    task, cut = find_task(reference), {"seq_len": settings.seq_len}
    rows = {
        name: read_task(task, settings.data_dir, name) for name in ("train", "validation", "test")
    }
    dev, train = split_dev(rows["validation"]), split_dev(rows["train"], steer=0.8)
    steer = rows["validation"].take(dev.steer)
    scored = {
        "held-out": rows["train"].take(train.report[: settings.held_out]),
        "report-dev": rows["validation"].take(dev.report),
        "test": rows["test"],
    }
    tokens = {
        name: (examples, examples.encode(tokenizer, **cut).x) for name, examples in scored.items()
    }
    steered = steer.encode(tokenizer, **cut)
    held_out = {name: x for name, (_, x) in tokens.items()} | {"steer-dev": steered.x}
    guard = Guard.of(text_keys(tokenizer), held_out)
    usable = rows["train"].take(train.steer).encode(tokenizer, **cut)
    clean = np.setdiff1d(np.arange(len(usable.y)), [row for row, _ in guard.leaks(usable.x)])
    sides = token_sides(steer, tokenizer, **cut)
    return Ground(task, usable.take(clean), steered, sides, tokens, guard)


def socrates_of(ground: Ground, folder: Path, settings: Settings) -> Checkpoint:
    """Socrates, trained on everything that is not held out; once for a task."""
    if not (folder / "socrates").is_dir():
        labels, steps = ground.task.labels, settings.socrates_steps
        larger = load(settings.socrates)
        tuner = FineTuner.of(larger, labels, steps=steps, dropout=0.1, dtype=settings.dtype)
        theta = Theta(0, settings.socrates_rate, 0.01, 0.1, settings.batch_size)
        params = tuner.fit(theta, ground.usable)
        save(tuner.checkpoint(params, {}), folder / "socrates")
    socrates = load(folder / "socrates")
    return replace(socrates, config=replace(socrates.config, dtype=settings.dtype))


def labeller(socrates: Checkpoint) -> Callable:
    """Socrates as `label_fn`."""
    run = class_logits(socrates.model, pad=socrates.required_tokenizer.special.pad)

    return lambda x: softmax(run(socrates.params, x), axis=1)


def taus(
    table: np.ndarray, tokenizer: Tokenizer, label_fn: Callable, settings: Settings
) -> Mapping:
    """Nearest tokens in Socrates' embedding table, and spans swapped between mistakes."""
    special, fraction = tuple(tokenizer.special), settings.edit_fraction
    return {
        neighbour_tau(table, special=special, edit_fraction=fraction): 2.0,
        mix_tau(label_fn, edit_fraction=fraction): 1.0,
    }


def run_seed(
    seed: int, ground: Ground, tuner: FineTuner, tau: Mapping[Tau, float], label_fn: Callable,
    settings: Settings,
) -> dict:  # fmt: skip
    """All arms on one draw of the scarce rows."""
    rng = np.random.default_rng(seed)
    scarce, rest = draw_scarce(ground.usable, settings.rows, rng)
    fit_fn = lambda thetas, train: fit_all(tuner, thetas, train, settings)
    calls = Agora(
        fit_fn=ground.guard.wrap(reuse_fits(fit_fn, scarce)),
        score_fn=lambda params, dev: tuner.correct(params, Points(*dev)),
        generate_fn=generator(
            tau,
            samples_per_error=settings.samples_per_error,
            window=Window(settings.min_distance, settings.max_distance),
            keys_fn=ground.guard.keys_fn,
            forbidden=ground.guard.held_out,
            sides=ground.sides,
        ),
        label_fn=label_fn,
        keep_fn=drop_unsure(
            balance_classes(np.bincount(scarce.y) / len(scarce.y), max_class_shift=0.1),
            min_confidence=settings.min_confidence,
        ),
        soft_labels=False,
        correct_per_error=settings.correct_per_error,
    )
    dev = Dataset(*ground.steer)
    thetas = grid(learning_rate=settings.learning_rates, seed=settings.theta_seeds)
    state = [*agora(start(scarce, thetas, seed=seed), dev, calls=calls)][-1]
    for _ in range(settings.replays):
        state = [*agora(replay(state, thetas), dev, calls=calls)][-1]
    spent = sum(len(record.accuracies) for record in state.rounds)
    budget = len(state.best_train.y) - len(scarce.y)
    best = lambda train: best_of(spent, train, dev, calls=calls, settings=settings)
    plain = best(scarce)
    others = rest.x[rng.permutation(len(rest.y))]
    arms = {
        "plain": plain,
        "distillation": best(distillation_set(budget, scarce, others, calls=calls)),
        "random": best(random_augmentation_set(budget, dev, scarce, calls=calls, rng=rng)),
        "Agora": Arm(state.champion, len(state.best_train.y)),
        "dev appended": dev_appended(scarce, dev, plain.copy.theta, tuner, settings),
    }
    return {
        "spent": spent,
        "budget": budget,
        "Socrates": {name: socrates_on(ground, name, label_fn) for name in SPLITS},
        "rounds": [record._asdict() for record in state.rounds],
        "arms": {name: scores_of(arm, ground, tuner) for name, arm in arms.items()},
        "lines": {name: test_lines(arm, ground, tuner) for name, arm in arms.items()},
    }


def fit_all(tuner: FineTuner, thetas: Sequence, train: Dataset, settings: Settings) -> Iterator:
    """`fit_fn`: a model for each θ."""
    # A θ names only what Θ varies.
    first = {"learning_rate": settings.learning_rates[0], "seed": settings.theta_seeds[0]}
    fixed = {"weight_decay": 0.01, "warmup_ratio": 0.1, "batch_size": settings.batch_size}
    full = [Theta(**(first | fixed | dict(theta))) for theta in thetas]
    return tuner.fit_all(full, Points(*train))


def reuse_fits(fit_fn: Callable, scarce: Dataset) -> Callable:
    """`fit_fn` that fits no θ to the scarce rows twice: plain fine-tuning begins as Agora does."""
    known = {}

    def fit(thetas: Sequence, train: Dataset) -> Iterator:
        if not np.array_equal(train.x, scarce.x):
            return fit_fn(thetas, train)
        new = [theta for theta in thetas if theta not in known]
        known.update(zip(new, fit_fn(new, train), strict=True))
        return (known[theta] for theta in thetas)

    return fit


def best_of(runs: int, train: Dataset, dev: Dataset, *, calls: Agora, settings: Settings) -> Arm:
    """The best on steer-dev of so many fine-tunings: Θ, then its rates with further seeds."""
    endless = (
        (("learning_rate", rate), ("seed", seed))
        for seed in count()
        for rate in settings.learning_rates
    )
    thetas, best = list(islice(endless, runs)), None
    for theta, params in zip(thetas, calls.fit_fn(thetas, train), strict=True):
        copy = Copy(theta, params, calls.score_fn(params, dev))
        if copy.beats(best):
            best = copy
    assert best is not None  # Agora has trained at least once
    return Arm(best, len(train.y))


def dev_appended(scarce: Dataset, dev: Dataset, theta, tuner: FineTuner, settings: Settings) -> Arm:
    """One fine-tuning on the scarce rows and steer-dev; its own accuracy there says nothing."""
    train = concatenate(scarce, dev)
    params = next(fit_all(tuner, [theta], train, settings))
    return Arm(Copy(theta, params, np.zeros(0, bool)), len(train.y))


def scores_of(arm: Arm, ground: Ground, tuner: FineTuner) -> dict:
    """Scores of an arm on the splits that it never read."""
    found = {"theta": dict(arm.copy.theta), "rows": arm.rows}
    if len(arm.copy.correct):
        found["steer-dev"] = arm.copy.accuracy
    for name in SPLITS:
        examples, x = ground.scored[name]
        predicted = decide(tuner.outputs(arm.copy.model, x), ground.task, examples=examples)
        found[name] = score(predicted, ground.task, examples=examples)
    return found


def socrates_on(ground: Ground, split: str, label_fn: Callable) -> dict[str, float]:
    examples, x = ground.scored[split]
    return score(label_fn(x).argmax(axis=1), ground.task, examples=examples)


def test_lines(arm: Arm, ground: Ground, tuner: FineTuner) -> list[str]:
    """The official test split as the leaderboard wants it."""
    examples, x = ground.scored["test"]
    predicted = decide(tuner.outputs(arm.copy.model, x), ground.task, examples=examples)
    return submission_lines(predicted, ground.task, examples=examples)


if __name__ == "__main__":
    main()

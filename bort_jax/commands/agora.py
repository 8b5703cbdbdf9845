# SPDX-License-Identifier: Apache-2.0
"""Rounds of fine-tuning, mistakes, new points labelled by Socrates, fewer hyperparameter
sets. Half of the validation split steers, the other half only reports; the test split is
scored once, at the end, for plain fine-tuning and for Agora with the same seeds."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import load_file, save_file

from bort_jax.agora import Agora, AgoraState, Copy, Dataset, Round, Tau, agora, grid, mlm_tau, start
from bort_jax.commands.finetune import check_length, trainable
from bort_jax.data.tasks import Points, TaskOptions, split_dev
from bort_jax.interop import Checkpoint, load, save
from bort_jax.report import page, plots
from bort_jax.report.terminal import say, show_box, show_table
from bort_jax.train.finetune import FineTuner, Theta
from bort_jax.train.predict import class_logits, resampler
from bort_jax.train.run_folder import claim, write_json

ACCEPTABLE = 2 / 3  # what bort.md's source asks of Socrates


@dataclass(frozen=True)
class Config(TaskOptions):
    """Agora on one task. Lists are written [a,b]; names with one value are not part of Θ.

    Attributes:
      model: Timaeus: the pretrained checkpoint that is fine-tuned.
      socrates: a trained classifier with the same labels, accuracy above 2/3.
      masked_lm: the masked LM that τ resamples with.
      out: run folder; the best classifier is written to `OUT/model`.
      steps: gradient steps of each fine-tuning, whatever the size of the data.
      seq_len: tokens in a row.
      learning_rate: choices of Θ.
      weight_decay: choices of Θ.
      warmup_ratio: choices of Θ.
      batch_size: choices of Θ.
      seed: choices of Θ.
      final_seeds: plain fine-tuning and Agora are compared with each of these.
      copies: new points τ makes near each mistake.
      share: share of a text's tokens that τ resamples.
      passes: passes in which τ resamples that share.
      steer: share of validation that steers; the rest only reports.
      dropout: everywhere BERT has it.
    """

    model: str = ""
    socrates: str = ""
    masked_lm: str = ""
    out: str = "runs/agora"
    steps: int = 300
    seq_len: int = 128
    learning_rate: tuple[float, ...] = (1e-4, 1e-5, 9e-6)
    weight_decay: tuple[float, ...] = (0.0, 10.0, 100.0, 350.0)
    warmup_ratio: tuple[float, ...] = (0.35, 0.40, 0.45, 0.50)
    batch_size: tuple[int, ...] = (8, 16)
    seed: tuple[int, ...] = (0, 1, 2, 3, 4)
    final_seeds: tuple[int, ...] = (0, 1, 2)
    copies: int = 2
    share: float = 0.2
    passes: int = 2
    steer: float = 0.5
    dropout: float = 0.1


def run(config: Config) -> dict:
    labels = trainable(config).labels
    timaeus, socrates, masked_lm = map(load, (config.model, config.socrates, config.masked_lm))
    for checkpoint in (timaeus, socrates, masked_lm):
        check_length(config.seq_len, checkpoint)
    check_family(timaeus, socrates, masked_lm, labels)
    if not config.read("test").labelled:  # it should not be missed after the last round
        raise ValueError(f"the test split of {config.source} has no labels to compare on")
    out = claim(config.out, config)
    if (out / "results.json").is_file():
        say(f"{out} is finished; its results:")
        show(summary := json.loads((out / "results.json").read_text()), out)
        return summary
    tuner = FineTuner.of(timaeus, labels, steps=config.steps, dropout=config.dropout)
    train = points(config, "train", tuner)
    steer, report = dev_halves(config, tuner)
    label_fn = labeller(socrates)
    trust = accuracy(label_fn(report.x), report.y)
    say(f"Socrates is right on {trust:.4f} of report-dev")
    if trust < ACCEPTABLE:
        say("WARNING: that is below 2/3; points labelled by it may do harm")
    calls = Agora(
        fit_fn=lambda theta, data: tuner.fit(full_theta(theta, config), Points(*data)),
        score_fn=lambda params, dev: tuner.predict(params, dev.x) == dev.y,
        generate_fn=tau(config, masked_lm, forbidden=steer.x),
        label_fn=label_fn,
    )
    first = Dataset(*train)
    state = load_state(out, first, theta_grid(config)) or start(first, theta_grid(config))
    history = read_history(out, state)
    for state in agora(state, Dataset(*steer), calls=calls):
        history.append(one_line(state, tuner.accuracy(state.champion.model, report)))
        save_state(out, state, history)
    test = points(config, "test", tuner)  # its texts are looked at here for the first time
    summary = compare(config, tuner, state, train=train, test=test, report=report)
    summary |= {
        "socrates_report_dev": trust,
        "test_rows": len(test.y),
        "leaked": copies(state.train.x, test.x) + copies(state.train.x, report.x),
        "rounds": history,
        "examples": generated_examples(state, tuner),
    }
    facts = {
        "fine-tuned": f"Agora, {len(history)} rounds on {config.source}",
        "accuracy, test": f"{100 * np.mean(summary['agora']['test']):.1f} %, mean over seeds",
    }
    save(tuner.checkpoint(state.champion.model, facts), out / "model")
    write_json(out / "results.json", summary)
    page.write_page(out / "report.html", "Agora", blocks(summary))
    show(summary, out)
    return summary


def check_family(timaeus: Checkpoint, socrates: Checkpoint, masked_lm: Checkpoint, labels) -> None:
    """Raises ValueError where the three models do not speak of the same tokens and labels."""
    if not socrates.labels:
        raise ValueError("socrates must be a classifier, not a masked LM")
    if socrates.labels != labels:
        raise ValueError(f"socrates knows the labels {socrates.labels}, the task has {labels}")
    if masked_lm.head != "masked_lm":
        raise ValueError("masked_lm must be a masked LM, not a classifier")
    hashes = {c.tokenizer.sha256 if c.tokenizer else None for c in (timaeus, socrates, masked_lm)}
    if len(hashes) > 1 or None in hashes:
        raise ValueError("model, socrates and masked_lm must have one and the same tokenizer")


def points(config: Config, split: str, tuner: FineTuner) -> Points:
    return config.read(split).encode(tuner.start.required_tokenizer, seq_len=config.seq_len)


def dev_halves(config: Config, tuner: FineTuner) -> tuple[Points, Points]:
    """Validation in two: what steers, and what Agora never reads."""
    examples = config.read("validation")
    split = split_dev(examples, steer=config.steer)
    if not len(split.steer) or not len(split.report):
        raise ValueError(f"steer {config.steer} leaves one half of validation empty")
    both = examples.encode(tuner.start.required_tokenizer, seq_len=config.seq_len)
    return both.take(split.steer), both.take(split.report)


def labeller(socrates: Checkpoint):
    """Socrates as a function of points."""
    logits = class_logits(socrates.model, pad=socrates.required_tokenizer.special.pad)
    return lambda x: logits(socrates.params, x).argmax(axis=-1)


def tau(config: Config, masked_lm: Checkpoint, *, forbidden: np.ndarray):
    special = masked_lm.required_tokenizer.special
    return mlm_tau(
        Tau(copies=config.copies, share=config.share, passes=config.passes),
        resample_fn=resampler(masked_lm.model, masked_lm.params, special),
        special=tuple(special),
        forbidden=forbidden,
    )


def theta_grid(config: Config) -> list:
    return grid(**{name: getattr(config, name) for name in Theta._fields})


def full_theta(theta, config: Config) -> Theta:
    """A member of Θ with the single choices filled in."""
    fixed = {name: getattr(config, name)[0] for name in Theta._fields}
    return Theta(**(fixed | dict(theta)))


def copies(train: np.ndarray, held_out: np.ndarray) -> int:
    """How many train rows are also held-out rows."""
    known = {row.tobytes() for row in held_out.astype(np.int32)}
    return sum(row.tobytes() in known for row in train.astype(np.int32))


def accuracy(predicted: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(predicted == labels))


def one_line(state: AgoraState, report_accuracy: float) -> dict:
    """A round as a record, said aloud."""
    record: Round = state.rounds[-1]
    line = {
        "round": record.number,
        "sets": len(record.accuracies),
        "steer": max(record.accuracies.values()),
        "best_steer": state.champion.accuracy,
        "report": report_accuracy,
        "mistakes": record.mistakes,
        "added": record.added,
        "labels_added": record.labels_added,
        "train_size": record.train_size,
        "removed": [dict(theta) for theta in record.removed],
    }
    say(
        f"round {record.number}: {line['sets']} sets, steer {line['steer']:.4f} (best so far "
        f"{line['best_steer']:.4f}), report {report_accuracy:.4f}, {record.mistakes} mistakes, "
        f"{record.added} points added, {len(record.removed)} sets removed"
    )
    return line


def compare(config: Config, tuner: FineTuner, state: AgoraState, *, train, test, report) -> dict:
    """Plain fine-tuning and Agora with the same seeds, steps and Θ, on what Agora never read.

    Each side uses the θ that steer-dev chose for it: plain the best of round 1, which is
    fine-tuning with all of Θ, and Agora the best of all rounds.
    """
    sides = {
        "plain": (dict(state.rounds[0].best), train),
        "agora": (dict(state.champion.theta), Points(*state.best_train)),
    }
    summary = {}
    for name, (theta, data) in sides.items():
        chosen = full_theta(tuple(theta.items()), config)
        scores = {"report": [], "test": []}
        for seed in config.final_seeds:
            params = tuner.fit(chosen._replace(seed=seed), data, title=f"{name}, seed {seed}")
            scores["report"].append(tuner.accuracy(params, report))
            scores["test"].append(tuner.accuracy(params, test))
        summary[name] = {"theta": chosen._asdict(), "train_rows": len(data.y), **scores}
    return summary


def save_state(out: Path, state: AgoraState, history: list[dict]) -> None:
    """Everything a next round needs; the JSON file is written last and makes it count."""
    number, best = len(state.rounds), state.champion
    save_file(
        {
            **cast(dict[str, np.ndarray], flatten_dict(best.model, sep=".")),
            "agora.x": np.ascontiguousarray(state.train.x),
            "agora.y": np.ascontiguousarray(state.train.y),
            "agora.correct": best.correct,
        },
        str(out / f"round-{number}.safetensors"),
    )
    record = {
        "round": number,
        "thetas": state.thetas,
        "best_theta": best.theta,
        "best_rows": len(state.best_train.y),
        "rounds": [r._asdict() for r in state.rounds],
        "history": history,
    }
    write_json(out / "state.json", record)
    (out / f"round-{number - 1}.safetensors").unlink(missing_ok=True)


def load_state(out: Path, first: Dataset, thetas: list) -> AgoraState | None:
    if not (out / "state.json").is_file():
        return None
    record = json.loads((out / "state.json").read_text())
    arrays = load_file(str(out / f"round-{record['round']}.safetensors"))
    train = Dataset(arrays.pop("agora.x"), arrays.pop("agora.y"))
    correct, rows = arrays.pop("agora.correct"), record["best_rows"]
    if not np.array_equal(train.x[: len(first.x)], first.x):
        raise ValueError(f"{out} was begun with another train set")
    known = {json.dumps(theta): theta for theta in thetas}
    theta_of = lambda pairs: known[json.dumps(pairs)]
    rounds = [
        Round(**r | {"best": theta_of(r["best"]), "removed": tuple(map(theta_of, r["removed"]))})
        for r in record["rounds"]
    ]
    return AgoraState(
        train=train,
        thetas=tuple(map(theta_of, record["thetas"])),
        best=Copy(theta_of(record["best_theta"]), unflatten_dict(arrays, sep="."), correct),
        best_train=Dataset(train.x[:rows], train.y[:rows]),
        rounds=tuple(rounds),
    )


def read_history(out: Path, state: AgoraState) -> list[dict]:
    return json.loads((out / "state.json").read_text())["history"] if state.rounds else []


def spread(scores: Sequence[float]) -> str:
    """Mean ± standard deviation over seeds, in percent."""
    deviation = np.std(scores, ddof=1) if len(scores) > 1 else 0.0
    return f"{100 * np.mean(scores):.1f} ± {100 * deviation:.1f} %"


def verdict(summary: dict) -> str:
    """Who did better on test, by how much, whatever the answer."""
    plain, ours = (np.array(summary[name]["test"]) for name in ("plain", "agora"))
    gain, noise = ours.mean() - plain.mean(), margin(summary)
    word = "gains" if gain > 0 else "LOSES"
    judged = "more than chance" if abs(gain) > noise else "WITHIN chance"
    return (
        f"Agora {word} {100 * abs(gain):.1f} points against plain fine-tuning on test, "
        f"{judged} (± {100 * noise:.1f})"
    )


def margin(summary: dict) -> float:
    """Half the 95 % interval of the difference: from the size of the test, and from the seeds."""
    squares = 0.0
    for name in ("plain", "agora"):
        scores = np.array(summary[name]["test"])
        squares += scores.mean() * (1 - scores.mean()) / summary["test_rows"]
        squares += scores.var(ddof=1) / len(scores) if len(scores) > 1 else 0.0
    return float(1.96 * np.sqrt(squares))


def generated_examples(state: AgoraState, tuner: FineTuner, *, number: int = 5) -> list[dict]:
    """The last generated points as text, with Socrates' labels."""
    backend = tuner.start.required_tokenizer.backend
    added = state.rounds[-1].train_size - sum(r.added for r in state.rounds)
    x, y = state.train.x[added:][-number:], state.train.y[added:][-number:]
    return [
        {"text": backend.decode(list(row)), "label": tuner.labels[label]}
        for row, label in zip(x, y, strict=True)
    ]


ROUND_HEADER = ("round", "sets", "steer", "best steer", "report", "mistakes", "added", "train rows")


def round_rows(summary: dict) -> list[tuple]:
    keys = ("round", "sets", "steer", "best_steer", "report", "mistakes", "added", "train_size")
    return [tuple(line[key] for key in keys) for line in summary["rounds"]]


def blocks(summary: dict) -> list[str]:
    """Agora's part of a report page."""
    lines = summary["rounds"]
    drawn = plots.rounds(
        [line["round"] for line in lines],
        {
            "steer-dev, best so far (steers: no evidence)": [line["best_steer"] for line in lines],
            "report-dev, never read by Agora": [line["report"] for line in lines],
        },
        [line["train_size"] for line in lines],
    )
    header = ("", "train rows", "report-dev", "test", "seeds")
    rows = [
        (name, s["train_rows"], spread(s["report"]), spread(s["test"]), len(s["test"]))
        for name, s in ((name, summary[name]) for name in ("plain", "agora"))
    ]
    return [
        page.paragraph(verdict(summary) + "."),
        page.table(header, rows),
        page.figure(drawn, f"Socrates on report-dev: {summary['socrates_report_dev']:.4f}."),
        page.table(ROUND_HEADER, round_rows(summary)),
        page.paragraph("Some generated points, with the label that Socrates gave them:"),
        page.table(("label", "text"), [(e["label"], e["text"]) for e in summary["examples"]]),
    ]


def show(summary: dict, out: Path) -> None:
    show_table("Agora, round by round", ROUND_HEADER, round_rows(summary))
    show_box(
        "Agora",
        [
            f"plain fine-tuning on test {spread(summary['plain']['test'])}",
            f"Agora on test             {spread(summary['agora']['test'])}",
            verdict(summary),
            f"train rows that stand in report-dev or test: {summary['leaked']}",
            f"model: {out}/model   rounds: {out}/report.html",
            f"next: bort-jax evaluate --model {out}/model --data FILE",
        ],
    )

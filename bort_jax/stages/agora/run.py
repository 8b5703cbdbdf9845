# SPDX-License-Identifier: Apache-2.0
"""Rounds of fine-tuning, mistakes, new points labelled by Socrates, fewer hyperparameter
sets. Half of the validation split steers, the other half only reports; the test split is
scored once, at the end, for plain fine-tuning and for Agora with the same seeds. On several hosts,
start the same command on each, as `pretrain`: a round's fine-tunings are dealt out."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from bort_jax.agora import (
    Agora,
    AgoraState,
    Store,
    Trust,
    Window,
    assess,
    balance_classes,
    cache_labels,
    drop_unsure,
    generator,
    grid,
    resume,
    score_once,
    start,
)
from bort_jax.data.row_text import point_texts
from bort_jax.engine.joining import PLACE
from bort_jax.engine.processes import kept_by_leader
from bort_jax.interop import save
from bort_jax.report import page
from bort_jax.report.terminal import say, show_box, show_table
from bort_jax.stages.agora import page as agora_page
from bort_jax.stages.agora.config import Config
from bort_jax.stages.agora.material import Material, read_material
from bort_jax.stages.agora.models import (
    distances,
    full_theta,
    labeller,
    load_all,
    packed,
    taus,
    tuner_of,
    unpacked,
)
from bort_jax.stages.agora.outcome import compare, submission
from bort_jax.stages.agora.page import blocks, verdict
from bort_jax.stages.finetune.tuner import FineTuner, Theta
from bort_jax.storage.run_folder import claim, write_json
from bort_jax.tasks import Points


def run(config: Config) -> dict:
    config.join()
    with kept_by_leader(Path(config.out)) as out:
        return run_here(replace(config, out=str(out)))


def run_here(config: Config) -> dict:
    """Runs or resumes Agora, compares it with plain fine-tuning, and writes model and page.

    Raises:
      ValueError: the models or the data do not fit together, train rows are held out, or Socrates
        is no better than chance.
    """
    loaded = load_all(config)
    material = read_material(config, loaded.timaeus.required_tokenizer)
    label_fn = cache_labels(labeller(loaded.socrates, material))
    out = claim(config.out, config, free=("out", "any_socrates", *PLACE))
    if (out / "results.json").is_file():
        say(f"{out} is finished; its results:")
        show(summary := json.loads((out / "results.json").read_text()), out)
        return summary
    trusted = examined(label_fn, material, any_socrates=config.any_socrates)
    tuner = tuner_of(config, loaded.timaeus, material)
    store = Store(
        out / "rounds",
        pack=packed,
        unpack=unpacked,
        dev_rows=material.steer.rows,
        ids=material.steer.ids,
        text_fn=lambda x: point_texts(x, material.tokenizer),
    )
    calls = Agora(
        fit_fn=material.guard.wrap(
            lambda thetas, train: tuner.fit_all(
                [full_theta(theta, config) for theta in thetas], Points(*train)
            )
        ),
        score_fn=lambda params, dev: tuner.correct(params, Points(*dev)),
        generate_fn=generator(
            taus(config, loaded, label_fn),
            samples_per_error=config.copies,
            window=Window(config.nearest, config.farthest, distances(config, loaded.timaeus)),
            keys_fn=material.guard.keys_fn,
            forbidden=material.guard.held_out,
            sides=material.steer.sides,
        ),
        label_fn=label_fn,
        keep_fn=drop_unsure(
            balance_classes(material.shares, max_class_shift=config.drift),
            min_confidence=config.confidence,
        ),
        correct_per_error=config.right,
    )
    state = rounds(config, store, material, calls=calls, tuner=tuner)
    summary = score_once(
        out / "scores.json", lambda: compare(config, tuner, state, material=material)
    )
    submission(out, tuner, state.champion.model, material=material)
    summary |= {
        "socrates_report_dev": trusted.accuracy,
        "socrates_chance": trusted.chance,
        "leaked": len(material.guard.leaks(state.train.x)),
        "rounds": [line_of(store, number) for number in range(1, len(state.rounds) + 1)],
        "examples": examples(store, len(state.rounds), material),
    }
    facts = facts_of(summary, config)
    save(tuner.checkpoint(state.champion.model, facts), out / "model")
    write_json(out / "results.json", summary)
    page.write_page(out / "report.html", f"Agora on {config.source}", blocks(summary))
    show(summary, out)
    return summary


def rounds(
    config: Config, store: Store, material: Material, *, calls: Agora, tuner: FineTuner
) -> AgoraState:
    """Every round that is not yet in the folder; the state after the last."""
    names = grid(**{name: getattr(config, name) for name in Theta._fields})
    first = start(material.train, names)
    if config.replay and not store.folder.is_dir():
        begin_replay(config, store, first)

    def watch(state: AgoraState) -> dict:
        report = material.report.points
        return {"report": tuner.accuracy(state.champion.model, Points(*report))}

    state = first
    for state in resume(store, first, material.steer.points, calls=calls, watch=watch):
        say(agora_page.sentence(line_of(store, len(state.rounds))))
    return state


def begin_replay(config: Config, store: Store, first: AgoraState) -> None:
    source = Store(Path(config.replay) / "rounds", pack=packed, unpack=unpacked)
    if not source.rounds():
        raise ValueError(f"{config.replay} has no finished round to replay from")
    fresh = first.thetas if config.fresh else ()
    source.branch(store.folder, first, after=config.after, thetas=fresh)
    say(f"replay of {config.replay} from the data set of round {config.after}")


def examined(label_fn: Callable, material: Material, *, any_socrates: bool) -> Trust:
    """Socrates on report-dev; raises ValueError where he knows nothing and that is not wanted."""
    report = material.report.points
    trusted = assess(label_fn(report.x)[0], report.y)
    say(
        f"Socrates is right on {trusted.accuracy:.4f} of report-dev "
        f"({len(report.y)} rows; his labels in random order: {trusted.chance:.4f})"
    )
    if trusted.random:
        problem = (
            f"Socrates is no better than chance on report-dev (p = {trusted.p:.2g}): "
            "points that he labels would be noise"
        )
        if not any_socrates:
            raise ValueError(f"{problem}; --any-socrates true goes on")
        say(f"WARNING: {problem}")
    elif not trusted.acceptable:
        say("WARNING: that is below 2/3; points labelled by it may do harm")
    return trusted


def line_of(store: Store, number: int) -> dict:
    """A round as a record: what happened, and the scores on both halves of dev."""
    about = store.about(number)
    record = about["round"]
    best = max(store.accuracy(k) for k in range(1, number + 1))
    return {
        "round": number,
        "sets": len(record["accuracies"]),
        "steer": store.accuracy(number),
        "best_steer": best,
        "report": about["watched"]["report"],
        "gap": best - about["watched"]["report"],
        "mistakes": record["mistakes"],
        "added": record["added"],
        "labels_added": record["labels_added"],
        "train_size": record["train_size"],
        "removed": [dict(theta) for theta in record["removed"]],
        "removed_by": dict(record["removed_by"]),
        "refused": record["refused"],
        "distances": record["distances"],
    }


def examples(store: Store, number: int, material: Material, *, each: int = 3) -> list[dict]:
    """Some generated points of every round beside their parents."""
    found = []
    for k in range(1, number + 1):
        points = store.lineage(k)
        for point in points[:: max(1, len(points) // each)][:each]:
            parent = material.steer.points.x[point["parent"]][None]
            label = material.cast.labels[int(point["label"])]
            texts = {"parent_text": point_texts(parent, material.tokenizer)[0], "label": label}
            found.append(point | texts)
    return found


def facts_of(summary: dict, config: Config) -> dict[str, str]:
    """What the model card says of the run."""
    facts = {"fine-tuned": f"Agora, {len(summary['rounds'])} rounds on {config.source}"}
    for split in ("report", "test"):
        scores = summary["agora"][split]
        if scores:
            facts[f"accuracy, {split}"] = f"{100 * np.mean(scores):.1f} %, mean over seeds"
    return facts


def show(summary: dict, out: Path) -> None:
    show_table("Agora, round by round", agora_page.HEADER, agora_page.round_rows(summary))
    show_box(
        "Agora",
        [
            *(f"{name} on {split}: {scores}" for name, split, scores in agora_page.sides(summary)),
            verdict(summary),
            f"train rows that stand in dev or test: {summary['leaked']}",
            f"model: {out}/model   rounds: {out}/report.html",
            f"next: bort-jax evaluate --model {out}/model --data FILE",
        ],
    )

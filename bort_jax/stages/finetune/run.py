# SPDX-License-Identifier: Apache-2.0
"""Every hyperparameter set with every seed, on one task or on several."""

from dataclasses import asdict, replace
from pathlib import Path

from bort_jax.engine.joining import PLACE
from bort_jax.engine.processes import leader_folder
from bort_jax.interop import Checkpoint, load, read, save
from bort_jax.interop.verify import compare_written
from bort_jax.report.terminal import say
from bort_jax.stages.finetune.config import (
    HEADS,
    Config,
    check_settings,
    one_of_many,
    recipe,
    starting_point,
    thetas,
    trainable,
)
from bort_jax.stages.finetune.early_stopping import EarlyStopping
from bort_jax.stages.finetune.page import show, show_many
from bort_jax.stages.finetune.records import finish_runs, model_card, summarise
from bort_jax.stages.finetune.splits import inputs_of, read_splits
from bort_jax.stages.finetune.teacher_answers import Teacher, cache_answers
from bort_jax.stages.finetune.tuner import FineTuner, visited_rows
from bort_jax.stages.predict.outputs import check_length
from bort_jax.storage.checks import explain_damage
from bort_jax.storage.files import read_json, write_json
from bort_jax.storage.hub import pin_revisions
from bort_jax.storage.run_folder import claim, claim_inputs
from bort_jax.tasks import Task


def run(config: Config) -> dict:
    """Fine-tunes on one task or on several; returns its results, or those of each task."""
    config.join()
    with leader_folder(Path(config.out)) as out:
        here = pin_revisions(replace(config, out=str(out)))
        return run_many(here) if config.tasks else run_one(here)


def run_many(config: Config) -> dict:
    """One task after the other; a table of all at the end."""
    parts = {reference: one_of_many(config, reference) for reference in config.tasks}
    for part in parts.values():  # what is wrong with the last is said before the first is trained
        check_settings(part, trainable(part, heads=HEADS))
    summaries = {}
    for reference, part in parts.items():
        say(f"== {reference}")
        summaries[reference] = run_one(pin_revisions(part))
    models = {reference: f"{part.out}/model" for reference, part in parts.items()}
    show_many(summaries, models, out=Path(config.out), data_dir=config.data_dir)
    write_json(Path(config.out) / "results.json", summaries)
    return summaries


def run_one(config: Config) -> dict:
    """Trains what is left of the runs, and writes the best model, the results and a page."""
    task = trainable(config, heads=HEADS)
    check_settings(config, task)
    start = read(starting_point(config, task))
    check_length(config.seq_len, start)
    teacher = teacher_of(config, task, start)
    out, metrics = claim(config.out, config, free=("out", *PLACE)), " and ".join(task.metrics)
    taught = teacher and teacher.checkpoint
    claim_inputs(out, inputs_of(config, model=start, teacher=taught))
    if (out / "results.json").is_file():
        say(f"{out} is finished; its results:")
        with explain_damage(out / "results.json"):
            show(summary := read_json(out / "results.json"), out, metrics)
        return summary
    tuner = FineTuner.of(start, task.labels, head=task.head, **asdict(recipe(config)))
    splits = read_splits(
        config, start.required_tokenizer, seq_len=config.seq_len, unlabelled=config.unlabelled
    )
    stopping = None
    if config.patience:
        dev = splits.dev
        stopping = EarlyStopping(dev.x, dev.headline, config.eval_every, config.patience)
    answers = teacher and cache_answers(
        teacher,
        teacher.rows(splits.texts, splits.train.x, start.required_tokenizer),
        out / "teacher",
        rows=visited_rows(thetas(config), len(splits.train.y), recipe=tuner.recipe),
    )
    records = finish_runs(
        tuner, thetas(config), splits, out=out, stopping=stopping, answers=answers
    )
    best = load(out / "model").params
    held = splits.test if config.score_test else None
    test = held and held.scores(tuner.outputs(best, held.x))
    summary = summarise(records, test)
    card = model_card(summary, metrics=metrics, source=config.source)
    save(tuner.checkpoint(best, card), out / "model")
    compare_written(out / "model")
    write_json(out / "results.json", summary)
    show(summary, out, metrics)
    return summary


def teacher_of(config: Config, task: Task, student: Checkpoint) -> Teacher | None:
    """The model that the student learns from, if there is one; raises ValueError where it does not
    fit."""
    if not config.teacher:
        return None
    return Teacher.of(read(config.teacher), task, student, hidden=config.hidden_weight > 0)

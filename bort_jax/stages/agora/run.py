# SPDX-License-Identifier: Apache-2.0
"""A run of Agora: rounds on disk, plain fine-tuning beside them, a model, a record and a page."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from bort_jax.agora import (
    Agora,
    AgoraState,
    Dataset,
    Store,
    Trust,
    assess,
    at_temperature,
    balance_classes,
    cross_validate,
    drop_unsure,
    fit_temperature,
    nearest_rows,
    resume,
    score_once,
    spread_budget,
    start,
)
from bort_jax.agora.diagnostics import Finding
from bort_jax.agora.folds import first_of
from bort_jax.agora.loop import no_limit
from bort_jax.data.row_text import point_texts
from bort_jax.engine.joining import PLACE
from bort_jax.engine.optimizer import check_numbers
from bort_jax.engine.processes import leader_folder
from bort_jax.interop import Checkpoint, save
from bort_jax.report.terminal import say
from bort_jax.stages.agora import page
from bort_jax.stages.agora.augment import unit_states_of
from bort_jax.stages.agora.checks import Plain, checks_of, plain_of, pool_checks
from bort_jax.stages.agora.config import Config
from bort_jax.stages.agora.curve import CurvePoint, agora_curve, random_curve
from bort_jax.stages.agora.labelled import write_contradictions, write_labelled
from bort_jax.stages.agora.labellers import Socrates, is_paid, socrates_of
from bort_jax.stages.agora.material import Material, Splits, cast_of, read_material
from bort_jax.stages.agora.models import (
    Models,
    flatten_params,
    load_models,
    unflatten_params,
)
from bort_jax.stages.agora.outcome import check_scores, compare, write_submission
from bort_jax.stages.agora.pool.retrieval import open_pool, random_texts
from bort_jax.stages.agora.record import card_facts, example_points, round_line
from bort_jax.stages.finetune.splits import inputs_of
from bort_jax.stages.finetune.tuner import FineTuner
from bort_jax.storage.checks import explain_damage
from bort_jax.storage.files import read_json, write_json
from bort_jax.storage.hub import pin_revisions
from bort_jax.storage.run_folder import claim, claim_inputs
from bort_jax.tasks import Points

ASKING = ("calls", "cost_per_call", "calls_per_minute", "call_timeout")  # may change on the way
FEW_SETS = 4


def run(config: Config) -> dict:
    config.join()
    with leader_folder(Path(config.out)) as out:
        return run_here(pin_revisions(replace(config, out=str(out))))


def run_here(config: Config) -> dict:
    """Runs or resumes Agora, compares it with plain fine-tuning, and writes model and page.

    Raises:
      ValueError: the models or the data do not fit together, train rows are held out, Socrates
        is no better than chance, or every fine-tuning of a round diverged.
    """
    models, material = read_inputs(config)
    socrates = socrates_of(
        config.socrates, models.socrates, material, config, folder=Path(config.out)
    )
    free = ("out", "allow_weak_socrates", "ignore_checks", *ASKING, *PLACE)
    out = claim(config.out, config, free=free)
    claim_inputs(out, inputs_of(config, **models._asdict()))
    if (out / "results.json").is_file():
        say(f"{out} is finished; its results:")
        with explain_damage(out / "results.json"):
            page.show(summary := read_json(out / "results.json"), out)
        return summary
    trust = check_socrates(socrates, material, allow_weak=config.allow_weak_socrates)
    ready = Ready(out, models, material, socrates, tuner_of(config, models.timaeus, material))
    label_fn, temperature = soften(socrates, material, soft=config.soft_labels)
    calls = calls_of(config, ready, label_fn)
    plain = plain_of(config, calls, material, out / "plain.json")
    findings = findings_of(config, ready, plain, calls)
    judge(findings, sets=len(config.sets()), ignore=config.ignore_checks)
    store = store_of(out / "rounds", material)
    state = run_rounds(config, ready, store, calls=calls)
    summary = scores_of(config, ready, state, plain, store)
    summary |= record(store, state, material, trust)
    summary |= {"temperature": temperature, "folds": config.folds}
    if config.curve and config.calls and config.retrieves:
        summary |= curves_of(config, ready, state, calls, summary)
    summary |= socrates.bill(state.asked, cost_per_call=config.cost_per_call)
    summary |= {"checks": [finding._asdict() for finding in findings]}
    if models.socrates:  # who is paid is asked about no row that is labelled
        write_contradictions(out, label_fn, material)
    write_results(config, ready, store, summary)
    return summary


class Ready(NamedTuple):
    """What a run works with."""

    out: Path
    models: Models
    material: Material
    socrates: Socrates
    tuner: FineTuner


def findings_of(config: Config, ready: Ready, plain: Plain, calls: Agora) -> list[Finding]:
    """The checks of a run, and of its pool where it has one."""
    material = ready.material
    judged = [ready.socrates.judge(half.points) for half in (material.steer, material.report)]
    findings = checks_of(plain, calls, judged, material)
    if not config.retrieves:
        return findings
    encoder = config.encoder_of(ready.models, material.seq_len)
    pool = open_pool(config.pool, material, encoder, ready.out / "pool")
    return findings + pool_checks(pool, encoder, material, config.calls)


def write_results(config: Config, ready: Ready, store: Store, summary: dict) -> None:
    """The model, the labelled set, a submission where labels are withheld, numbers and page."""
    out, best = ready.out, store.read_final()
    write_submission(out, ready.tuner, best, ready.material)
    save(ready.tuner.checkpoint(best, card_facts(summary, source=config.source)), out / "model")
    write_labelled(out, store, len(summary["rounds"]), ready.material)
    write_json(out / "results.json", summary)
    page.write(out, summary, source=config.source)
    page.show(summary, out)


def read_inputs(config: Config) -> tuple[Models, Material]:
    check_numbers(config)
    config.check_models()
    masked_lm = config.masked_lm if "mlm" in config.weights else None
    checkpoint = None if is_paid(config.socrates) else config.socrates
    models = load_models(config.model, checkpoint, masked_lm, seq_len=config.seq_len)
    splits = Splits.read(config, folds=config.folds)
    material = read_material(
        splits,
        cast_of(splits.task, one_vs_rest=config.one_vs_rest, thresholds=config.score_thresholds),
        models.timaeus.required_tokenizer,
        seq_len=config.seq_len,
        steer_fraction=config.steer_fraction,
        drop_leaks=config.drop_leaks,
    )
    return models, material


def tuner_of(config: Config, timaeus: Checkpoint, material: Material) -> FineTuner:
    recipe = dict(steps=config.steps, dropout=config.dropout, dtype=config.dtype)
    return FineTuner.of(timaeus, tuple(material.cast.labels), head=material.head, **recipe)


def calls_of(config: Config, ready: Ready, label_fn: Callable) -> Agora:
    """Agora's callables."""
    models, material, tuner = ready.models, ready.material, ready.tuner

    def fit(thetas: Sequence, train: Dataset) -> Iterator:
        return tuner.fit_all([config.full(theta) for theta in thetas], Points(*train))

    balance = balance_classes(material.shares, max_class_shift=config.max_class_shift)
    new_texts = ready.socrates.new_texts(config.calls)
    calls = Agora(
        fit_fn=material.guard.wrap(fit),
        score_fn=lambda params, dev: tuner.correct(params, Points(*dev)),
        generate_fn=config.generate_fn(
            models, material, label_fn, tuner.outputs, folder=ready.out / "pool"
        ),
        label_fn=label_fn,
        keep_fn=drop_unsure(balance, min_confidence=config.min_confidence),
        soft_labels=config.soft_labels,
        parents=config.parents,
        neighbours=nearest_rows(unit_states_of(models.timaeus, "mean")(material.steer.points.x)),
        first_fraction=config.first_fraction,
        allowance_fn=spread_budget(new_texts) if config.calls else no_limit,
    )
    return cross_validate(calls, material.train, folds=config.folds) if config.folds else calls


def judge(findings: Sequence[Finding], *, sets: int, ignore: bool) -> None:
    """Prints what the checks found, before anything new is asked of Socrates.

    Raises:
      ValueError: one says that Agora will not help, and checks are not ignored.
    """
    say(f"sets of Θ in the first round: {sets}")
    if sets < FEW_SETS:
        say(f"WARNING: Θ has {sets} of at least {FEW_SETS} sets: rounds have little to choose from")
    for finding in findings:
        say(f"check, {finding.name}: {finding.number}")
    wrong = [finding.problem for finding in findings if finding.problem]
    if wrong and not ignore:
        raise ValueError("; ".join(wrong) + "; --ignore-checks true goes on")
    for problem in wrong:
        say(f"WARNING: {problem}")


def scores_of(config: Config, ready: Ready, state: AgoraState, plain: Plain, store: Store) -> dict:
    """Plain fine-tuning and Agora, each with the θ that steer-dev chose for it."""
    chosen = {"plain": plain.theta, "agora": state.champion.theta}
    thetas = {side: config.full(theta) for side, theta in chosen.items()}

    def compared() -> dict:
        return compare(
            ready.tuner,
            state,
            ready.material,
            thetas=thetas,
            seeds=config.final_seeds,
            keep_fn=store.write_final,
        )

    file = ready.out / "scores.json"
    summary = score_once(file, compared)
    with explain_damage(file):  # a run that was cut off reads what it scored before
        check_scores(summary)
    return summary


def curves_of(
    config: Config, ready: Ready, state: AgoraState, calls: Agora, summary: dict
) -> dict[str, dict]:
    """Accuracy by calls, of Agora and, where calls cost nothing, of random texts of the pool."""
    theta, material = config.full(state.champion.theta), ready.material
    report = Points(*material.report.points)

    def score_fn(train: Dataset) -> list[float]:
        thetas = [theta._replace(seed=seed) for seed in config.final_seeds]
        models = ready.tuner.fit_all(thetas, Points(*train))
        return [ready.tuner.accuracy(params, report) for params in models]

    def draw() -> dict[str, dict]:
        ends = {"first": summary["plain"]["report"], "last": summary["agora"]["report"]}
        lines = {"Agora": agora_curve(state, score_fn, **ends)}
        if ready.models.socrates:
            encoder = config.encoder_of(ready.models, material.seq_len)
            pool = open_pool(config.pool, material, encoder, ready.out / "pool")
            x = random_texts(pool, material, state.asked)
            beside = lines["Agora"]
            random = random_curve(state, x, score_fn, calls=calls, beside=beside)
            lines["the pool at random"] = random
        return {"curve": {name: named(points) for name, points in lines.items()}}

    named = lambda points: [point._asdict() for point in points]
    file = ready.out / "curve.json"
    lines = score_once(file, draw)
    with explain_damage(file):  # a run that was cut off reads what it drew before
        read = lambda points: named(CurvePoint.read(point) for point in points)
        return {"curve": {name: read(points) for name, points in lines["curve"].items()}}


def record(store: Store, state: AgoraState, material: Material, trust: Trust) -> dict:
    return {
        "socrates_report_dev": trust.accuracy,
        "socrates_chance": trust.chance,
        "leaked": len(material.guard.leaks(state.train.x)),
        "rounds": round_lines(store, state),
        "examples": example_points(store, len(state.rounds), material),
    }


def check_socrates(socrates: Socrates, material: Material, *, allow_weak: bool) -> Trust:
    """Scores Socrates on report-dev.

    Raises:
      ValueError: he is no better than chance, and that is not allowed.
    """
    answers, labels = socrates.judge(material.report.points)
    trust = assess(answers.argmax(axis=1), labels)
    say(
        f"Socrates (the teacher, whose pseudo-labels join the train set): accuracy "
        f"{trust.accuracy:.4f} on report-dev ({len(labels)} rows; his labels in random order: "
        f"{trust.chance:.4f})"
    )
    if trust.random:
        problem = (
            f"Socrates is no better than chance on report-dev (p = {trust.p:.2g}): "
            "his pseudo-labels would be noise"
        )
        if not allow_weak:
            raise ValueError(f"{problem}; --allow-weak-socrates true goes on")
        say(f"WARNING: {problem}")
    elif not trust.acceptable:
        say("WARNING: that is below 2/3; his pseudo-labels may do harm")
    return trust


def soften(socrates: Socrates, material: Material, *, soft: bool) -> tuple[Callable, float]:
    """Fits the temperature of Socrates' answers on steer-dev, and applies it; 1 of hard labels."""
    if not soft:
        return socrates.label_fn, 1.0
    temperature = fit_temperature(*socrates.judge(material.steer.points))
    say(f"soft labels: Socrates' probabilities at the temperature {temperature:.2f}, by steer-dev")
    return at_temperature(socrates.label_fn, temperature), temperature


def store_of(folder: Path, material: Material | None = None) -> Store:
    """Rounds in a folder; with texts and names of rows where there is material to write them."""
    if material is None:
        return Store(folder, pack=flatten_params, unpack=unflatten_params)
    return Store(
        folder,
        pack=flatten_params,
        unpack=unflatten_params,
        dev_rows=material.steer.rows,
        ids=material.steer.ids,
        text_fn=lambda x: point_texts(x, material.tokenizer),
    )


def begin_replay(config: Config, store: Store, first: AgoraState) -> None:
    """Copies another run's rounds, up to the one whose data set the replay starts from.

    Raises:
      ValueError: the other run has no finished round, or not this one.
    """
    source = store_of(Path(config.replay) / "rounds")
    if not source.rounds():
        raise ValueError(f"{config.replay} has no finished round to replay from")
    thetas = first.thetas if config.replay_full_theta else ()
    source.branch(store.folder, first, after=config.replay_after, thetas=thetas)
    say(f"replay of {config.replay} from the data set of round {config.replay_after}")


def run_rounds(config: Config, ready: Ready, store: Store, *, calls: Agora) -> AgoraState:
    """Runs every round that is not yet in the folder; the state after the last."""
    material, tuner = ready.material, ready.tuner
    state = start(material.train, config.sets())
    if config.replay and not store.folder.is_dir():
        begin_replay(config, store, state)

    def watch(state: AgoraState) -> dict:
        model = state.champion.model
        model = first_of(model) if config.folds else model
        return {"report": tuner.accuracy(model, Points(*material.report.points))}

    for state in resume(store, state, material.steer.points, calls=calls, watch=watch):
        say(page.sentence(round_lines(store, state)[-1]))
    return state


def round_lines(store: Store, state: AgoraState) -> list[dict]:
    reports = [store.about(k)["watched"]["report"] for k in range(1, len(state.rounds) + 1)]
    return [round_line(state.rounds[: k + 1], report=report) for k, report in enumerate(reports)]

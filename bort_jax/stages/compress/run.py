# SPDX-License-Identifier: Apache-2.0
"""A parent and labelled rows in, a small classifier and a table out: each stage in a folder of its
own, which it resumes."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from bort_jax.data.corpus import read_texts
from bort_jax.interop import Checkpoint, read, save
from bort_jax.interop.verify import verify
from bort_jax.model import output_names
from bort_jax.model.heads import HEADS
from bort_jax.report.terminal import say
from bort_jax.stages.agora import run as agora
from bort_jax.stages.compress import page, table
from bort_jax.stages.compress.baseline import baseline_line
from bort_jax.stages.compress.config import (
    Config,
    Folders,
    agora_config,
    ceilings,
    distil_config,
    extract_config,
    few_rows,
    scratch_config,
    tune_config,
)
from bort_jax.stages.compress.fetch import parent_folder
from bort_jax.stages.compress.inside import budget_within, shape_of, write_chosen, write_inherited
from bort_jax.stages.compress.plan import Work, show_plan
from bort_jax.stages.compress.texts import example_texts, write_texts
from bort_jax.stages.extract.parent.calibration import (
    drawn_texts,
    encoded,
    encoded_examples,
)
from bort_jax.stages.extract.parent.result import RESULT
from bort_jax.stages.extract.parent.run import opened, run_inside
from bort_jax.stages.extract.parent.vocabulary import with_vocabulary
from bort_jax.stages.finetune import run as finetune
from bort_jax.stages.finetune.config import trainable
from bort_jax.stages.finetune.splits import inputs_of, read_unlabelled
from bort_jax.stages.pretrain.run import pretrain
from bort_jax.storage.checks import explain_damage
from bort_jax.storage.files import read_json, write_json
from bort_jax.storage.hub import pin_revisions
from bort_jax.storage.run_folder import claim, claim_inputs
from bort_jax.tasks import Examples, Task
from bort_jax.tasks.labels import check_splits

SCORES, SECONDS = "scores.json", "seconds.json"


class Compressed(NamedTuple):
    """A finished compression."""

    lines: list[table.Line]
    folders: Folders
    results: dict[str, Any]


def compress(parent: str, data: str, *, out: str, **options: Any) -> dict[str, Any]:
    """Compresses a model on labelled rows; returns the results, also in `OUT/results.json`.

    Args:
      parent: folder of a BERT or RoBERTa, or a name that is known.
      data: folder with train, validation and test.
      out: run folder; the student is written to `OUT/model`.
      options: further fields of `stages.compress.config.Config`.

    Raises:
      ValueError, FileNotFoundError: as `run`.
    """
    return run(Config(parent=parent, data=data, out=out, **options))


def run(config: Config) -> dict[str, Any]:
    """Compresses, or says what it would do; returns the results.

    Raises:
      ValueError: the parent, the data or the ceilings do not fit together.
      FileNotFoundError: the parent or a split is not there.
    """
    return planned(config) if config.dry_run else compressed(config).results


def compressed(config: Config) -> Compressed:
    """Every stage that is not finished yet; then the table, and a page."""
    task, config = trainable(config, heads=HEADS), pin_revisions(config)
    # What is wrong with any split is said before hours of work.
    check_splits(
        task, {name: config.read(name) for name in ("train", "validation", split_of(config))}
    )
    out = claim(config.out, config, free=("out", "dry_run"))
    parent = None if config.parent == "none" else read(parent_folder(config.parent))
    claim_inputs(out, inputs_of(config, parent=parent))
    texts = write_texts(config, out / "texts.parquet", unlabelled=config.unlabelled)
    folders = extracted(config, task, out, texts)
    with time_stage("distil the parent into it", out):
        finetune.run(distil_config(config, folders.student, folders.parent, out / "distilled"))
    with time_stage("plain fine-tuning of the same shape", out):
        finetune.run(tune_config(config, config.distil, folders.inherited, out / "plain"))
    if wants_agora(config):
        with time_stage("Agora, for labels are scarce", out):
            pool = str(texts) if task.columns == ("text",) else config.unlabelled
            agora.run(agora_config(config, config, folders, pool=pool, out=out / "agora"))
    with time_stage("score and export", out):
        lines = scored(config, task, out, folders)
        exported = export(out, config)
    results = page.record(lines, exported=exported, seconds=seconds(out))
    write_json(out / "results.json", results)
    page.write(out, lines, results, chosen=shape_of(folders.student))
    page.show(out, lines, results, data=config.data)
    return Compressed(lines, folders, results)


def planned(config: Config) -> dict[str, Any]:
    """Prints what would be done; writes and fetches nothing."""
    work = Work(
        train=len(config.read("train").texts),
        test=len(config.read(split_of(config)).texts),
        pool=len(read_unlabelled(config.unlabelled, config.record()).texts)
        if config.unlabelled
        else 0,
        few=few_rows(config.agora) if wants_agora(config) else 0,
    )
    return show_plan(config, work)


def extracted(config: Config, task: Task, out: Path, texts: Path) -> Folders:
    """The parent as a classifier, and the best shape inside it."""
    with time_stage("the parent", out):
        given = raw_parent(config, out, texts)
        examples = own_rows(config, task)
        check_before_training(config, given, texts, examples)
        raw = with_fewer_tokens(config, given, texts, out)
        parent = tuned_parent(config, task, raw, out)
    with time_stage("extract inside it", out):
        run = out / "extract"
        if not (run / RESULT).is_file():  # written last
            run_inside(extract_config(config, parent, texts, run), examples=examples)
        budget = budget_within(run, share=config.share, ceilings=ceilings(config))
        student = write_chosen(run, budget, out / "chosen")
    with time_stage("the same shape with the raw parent's weights", out):
        inherited = inherited_shape(
            config, raw, parent, student, lambda found: measured_on(config, found, texts, examples)
        )
    return Folders(raw, parent, student, inherited)


def raw_parent(config: Config, out: Path, texts: Path) -> Path:
    """The parent's folder; for `none` it is pretrained first."""
    if config.parent != "none":
        return parent_folder(config.parent)
    pretrain(scratch_config(config, out / "scratch", texts))
    return out / "scratch" / "model"


def own_rows(config: Config, task: Task) -> Examples | None:
    """The examples that the parent is measured on, where they are more than a text each."""
    if len(task.columns) == 1 and task.head != "choice":
        return None
    return read_unlabelled(config.unlabelled, task) if config.unlabelled else config.read("train")


def measured_on(
    config: Config, parent: Checkpoint, texts: Path, examples: Examples | None
) -> dict[str, Any]:
    """Rows for a parent's Gram matrices."""
    rows = config.search.calibration_rows
    if examples is not None:
        return encoded_examples(parent, examples, rows=rows, seq_len=config.seq_len, seed=0)
    drawn_rows = drawn_texts(str(texts), column="text", rows=rows, seed=0)
    return encoded(parent, drawn_rows, seq_len=config.seq_len, seed=0)


def check_before_training(
    config: Config, parent: Path, texts: Path, examples: Examples | None
) -> None:
    """Raises ValueError for what the extraction would refuse, minutes later: the parent, its Gram
    matrices, too few texts."""
    found, _ = opened(str(parent), seq_len=config.seq_len)
    measured_on(config, found, texts, examples)


def with_fewer_tokens(config: Config, raw: Path, texts: Path, out: Path) -> Path:
    """The parent with the tokens that the texts need most, in every stage; itself without a cut."""
    folder = out / "fewer_tokens" / "model"
    if config.vocab is None:
        return raw
    if not folder.is_dir():
        known = [*read_texts(str(texts)), *example_texts(config.read("train"))]
        cut, partial = with_vocabulary(read(raw), known, config.vocab), folder.with_name("partial")
        save(cut, partial)
        partial.rename(folder)
    return folder


def tuned_parent(config: Config, task: Task, raw: Path, out: Path) -> Path:
    """The parent's folder as a classifier of the task.

    Raises:
      ValueError: it is a classifier of other labels.
    """
    found = read(raw)
    if not found.labels:
        finetune.run(tune_config(config, config.tune, raw, out / "parent"))
        return out / "parent" / "model"
    wanted = output_names(task.head, task.labels)
    if set(found.labels) != set(wanted) or found.problem != task.head:
        raise ValueError(
            f"the parent's labels are {', '.join(found.labels)}, the task's "
            f"{', '.join(wanted)}: give --labels in the parent's words, or an encoder"
        )
    return raw


def inherited_shape(
    config: Config, raw: Path, parent: Path, student: Path, rows_fn: Callable
) -> Path:
    """The student's shape with the weights of the parent as it came, refitted to rows for it; of a
    parent that came as a classifier these are the student's own."""
    folder = Path(config.out) / "inherited" / "model"
    if raw == parent:
        return student
    if not folder.is_dir():
        found = read(raw)
        write_inherited(found, shape_of(student), rows_fn(found), folder)
    return folder


def wants_agora(config: Config) -> bool:
    """Labels are classes and scarce, and there is a pool."""
    few = bool(config.unlabelled) and len(config.read("train").texts) < config.scarce
    return few and config.record().head == "classification"


def scored(config: Config, task: Task, out: Path, folders: Folders) -> list[table.Line]:
    """Every model on the test rows, once: a second call reads the first one's result."""
    file = out / SCORES
    if not file.is_file():
        split = split_of(config)
        examples = config.read(split)
        models = {
            table.PARENT: read(folders.parent),
            table.REFITTED: read(folders.student),
            table.PLAIN: read(out / "plain" / "model"),
            table.STUDENT: read(out / "distilled" / "model"),
        }
        if wants_agora(config):
            models[table.AGORA] = read(out / "agora" / "model")
        lines = table.lines_of(models, task, examples, seq_len=config.seq_len)
        lines += baseline_line(config.read("train"), examples, task)
        write_json(file, {"split": split, "lines": [line._asdict() for line in lines]})
    with explain_damage(file):
        return [table.Line(**line) for line in read_json(file)["lines"]]


def split_of(config: Config) -> str:
    """The rows that models are compared on: test, or validation where it has no labels."""
    return "test" if config.read_labelled("test") else "validation"


def export(out: Path, config: Config) -> list[str]:
    """The student in a folder of its own, read back and compared."""
    name = "agora" if wants_agora(config) else "distilled"
    student: Checkpoint = read(out / name / "model")
    save(student, out / "model")
    return verify(student, out / "model")


@contextmanager
def time_stage(stage: str, out: Path) -> Iterator[None]:
    """Announces a stage, and adds its seconds to those of earlier, interrupted runs."""
    say(f"\n== {stage}")
    start = time.monotonic()
    try:
        yield
    finally:
        known = seconds(out)
        with explain_damage(out / SECONDS):
            known[stage] = known.get(stage, 0.0) + time.monotonic() - start
        write_json(out / SECONDS, known)


def seconds(out: Path) -> dict[str, float]:
    """Seconds of each stage so far."""
    file = out / SECONDS
    return read_json(file) if file.exists() else {}

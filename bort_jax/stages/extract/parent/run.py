# SPDX-License-Identifier: Apache-2.0
"""From a pretrained parent and text to the best network inside it, with its weights."""

import shutil
import time
from pathlib import Path
from typing import Any

import jax

from bort_jax.arch import Arch, LayerwiseArch
from bort_jax.engine.parallel import parallel_map
from bort_jax.interop import Checkpoint, read, save
from bort_jax.interop.orbax_folder import save_orbax
from bort_jax.model.bert import BertConfig
from bort_jax.model.inherit import gram_bytes, inherit, refined
from bort_jax.ose import Budget
from bort_jax.report.terminal import say
from bort_jax.stages.extract.config import Config, budget_of, given_sizes
from bort_jax.stages.extract.parent.calibration import drawn_texts, encoded
from bort_jax.stages.extract.parent.choices import Choices, Costs, Sizes, measured_choices
from bort_jax.stages.extract.parent.grams import load_inheritance, save_grams
from bort_jax.stages.extract.parent.search import (
    Checked,
    Found,
    answer,
    best_of_depths,
    ceilings_within,
    front,
    parent_fits,
    parent_itself,
)
from bort_jax.stages.extract.parent.show import Answer, show, write_page
from bort_jax.storage.files import read_json, write_json
from bort_jax.storage.memory import available_memory
from bort_jax.storage.run_folder import claim

RESULT, MODEL = "parent.json", "model"
BATCH = 64  # rows at a time, or a few more where the devices do not divide it


def run_inside(config: Config) -> Found:
    """One pass of the parent, the errors of its parts, the program, the answer's weights."""
    start = time.monotonic()
    parent, arch = opened(str(config.parent), seq_len=config.seq_len)
    sizes = Sizes.of(
        arch,
        depths=given_sizes(config, "depth"),
        heads=given_sizes(config, "heads"),
        units=given_sizes(config, "intermediate"),
    )
    ceilings = ceilings_within(budget_of(config))
    out = claim(str(config.out), config)
    texts = drawn_texts(
        str(config.data), column=config.column, rows=config.calibration_rows, seed=config.seed
    )
    rows = encoded(parent, texts, seq_len=config.seq_len, seed=config.seed)
    size = batch_size(len(texts))
    inheritance = inherit(parent, rows, seed=config.seed, batch_size=size, map_fn=parallel_map)
    costs = Costs.of(parent, arch, seq_len=config.seq_len)
    say(f"parent: {arch}, e {inheritance.base:.4g}, {_seconds(start)}")
    choices = measured_choices(inheritance, sizes, costs)
    say(f"{len(sizes.options)} options of each layer measured, {_seconds(start)}")
    if parent_fits(choices, ceilings):
        found, known = [parent_itself(choices)], {}
    else:
        found, known = answer(choices, ceilings, inheritance.error)
    shown = Answer(choices, found[0], found[1:], front(choices, known, found), known)
    save_grams(inheritance, choices.kept, out)
    student, error = refined(inheritance, found[0].arch)
    write_student(student, out / MODEL)
    write_result(shown, out, parent=str(config.parent), student_error=error)
    show(shown, out, run=out)
    say(f"e of the weights that were written: {error:.4g}")
    say(f"all of it in {_seconds(start)}")
    return found[0]


def answer_inside(run: Path, budget: Budget, *, pick: int | None, out: str | None) -> Found:
    """Another budget, or a network of the front, from what a finished run has measured."""
    start = time.monotonic()
    choices, known, picked = read_result(run)
    ceilings = ceilings_within(budget)
    if pick is not None:
        best, others = picked_from(picked, pick, budget), []
    elif parent_fits(choices, ceilings):
        best, others = parent_itself(choices), []
    else:
        best, *others = best_of_depths(choices, ceilings, known)
    say(f"answered in {_seconds(start)}, nothing measured")
    shown = Answer(choices, best, others, picked, known)
    if out:
        write_again(shown, run, Path(out))
    show(shown, Path(out) if out else None, run=run)
    return best


def write_again(shown: Answer, run: Path, out: Path) -> None:
    """The weights of an answer, from the Gram matrices that the run has kept."""
    if out.resolve() == run.resolve():
        raise ValueError(f"{out} holds the run itself: choose another --out")
    start = time.monotonic()
    source = str(read_json(run / RESULT)["parent"])
    inheritance = load_inheritance(read(source), run, base=shown.choices.bases[0])
    out.mkdir(parents=True, exist_ok=True)
    write_student(inheritance.checkpoint(shown.best.arch), out / MODEL)
    write_result(shown, out, parent=source)
    say(f"weights in {_seconds(start)}")


def opened(source: str, *, seq_len: int) -> tuple[Checkpoint, Arch]:
    """The parent and its architecture, if it can be one.

    Raises:
      ValueError: it answers choices, its layers differ, it has no tokenizer, its rows are shorter
        than `seq_len`, or its Gram matrices do not fit into memory.
    """
    parent = read(source)
    if parent.head == "choice":
        raise ValueError(f"{source} chooses among texts, which unlabelled text has not")
    arch = parent.config.arch
    if not isinstance(arch, Arch):
        raise ValueError(f"{source}: layers of {arch} differ; a parent's must not")
    if parent.tokenizer is None:
        raise ValueError(f"{source} has no tokenizer: text cannot be encoded for it")
    if seq_len > parent.config.positions:
        raise ValueError(f"--seq-len {seq_len}: the parent has {parent.config.positions} positions")
    check_memory(parent.config, available_memory())
    return parent, arch


def check_memory(config: BertConfig, free: int) -> None:
    """Raises ValueError where the Gram matrices need more than is free, and says what would fit."""
    needed = gram_bytes(config)
    if needed > free:
        raise ValueError(
            f"the Gram matrices of {config.arch} take {needed / 2**30:.2f} GiB, and "
            f"{free / 2**30:.2f} GiB are free: a parent whose layers are "
            f"{(free / needed) ** 0.5:.0%} as wide would fit, or a machine with more memory"
        )


def batch_size(rows: int) -> int:
    """About `BATCH`: the third that is held out fills its batches; a multiple of the devices."""
    held, devices = max(1, round(rows / 3)), jax.local_device_count()
    size = -(-held // -(-held // BATCH))
    return -(-size // devices) * devices


def write_student(student: Checkpoint, folder: Path) -> None:
    """A stock folder where the layers are equal, else one of orbax."""
    shutil.rmtree(folder, ignore_errors=True)
    write = save if isinstance(student.config.arch, Arch) else save_orbax
    write(student, folder)


def picked_from(picked: list[Found], pick: int, budget: Budget) -> Found:
    """The network of the front with this number, from 1."""
    if budget.ceilings:
        raise ValueError("--pick names a network: leave the budget out")
    if not 1 <= pick <= len(picked):
        raise ValueError(f"--pick must lie between 1 and {len(picked)}; got {pick}")
    return picked[pick - 1]


def write_result(shown: Answer, out: Path, *, parent: str, **notes: float) -> None:
    """`report.html`, then `parent.json`, all that `read_result` needs."""
    write_page(shown, out)
    plain = lambda one: one._asdict() | {"arch": str(one.arch), "w": one.w}
    result: dict[str, Any] = {
        "parent": str(Path(parent).resolve()),
        "best": plain(shown.best),
        "others": [plain(one) for one in shown.others],
        "front": [plain(one) for one in shown.front],
        "checked": {name: one._asdict() for name, one in shown.known.items()},
        "choices": shown.choices.as_json(),
        **notes,
    }
    write_json(out / RESULT, result)


def read_result(run: Path) -> tuple[Choices, dict[str, Checked], list[Found]]:
    """What was measured, the networks that were checked, and the front.

    Raises:
      ValueError: the file is damaged.
    """
    result = read_json(run / RESULT)
    try:
        known = {name: Checked(**one) for name, one in result["checked"].items()}
        picked = []
        for one in result["front"]:
            fields: list[Any] = [one[name] for name in Found._fields]
            picked.append(Found(*fields)._replace(arch=LayerwiseArch.parse(one["arch"])))
        return Choices.from_json(result["choices"]), known, picked
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{run / RESULT} is damaged: {error}") from error


def _seconds(start: float) -> str:
    return f"{time.monotonic() - start:.1f} s"

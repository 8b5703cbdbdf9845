# SPDX-License-Identifier: Apache-2.0
"""From a pretrained parent and text to the best network inside it, with its weights."""

import time
from pathlib import Path
from typing import Any

import jax

from bort_jax.arch import Arch
from bort_jax.engine.parallel import parallel_map
from bort_jax.interop import Checkpoint, checkpoint_folder, read, save
from bort_jax.model.bert import BertConfig
from bort_jax.model.inherit import Inheritance, gram_bytes, inherit, refine
from bort_jax.ose import Budget
from bort_jax.report.terminal import say
from bort_jax.stages.extract.config import MEASURED, Config, budget_of, given_sizes
from bort_jax.stages.extract.parent.answer import answer_inside
from bort_jax.stages.extract.parent.calibration import (
    drawn_texts,
    encoded,
    encoded_examples,
    some_texts,
)
from bort_jax.stages.extract.parent.choices import Choices, LayerLatency, Sizes
from bort_jax.stages.extract.parent.grams import save_grams
from bort_jax.stages.extract.parent.latency import layer_latency
from bort_jax.stages.extract.parent.measured import costs_of, measured_choices
from bort_jax.stages.extract.parent.result import MODEL, RESULT, read_result
from bort_jax.stages.extract.parent.search import (
    Found,
    answer,
    check_budget,
    front,
    parent_fits,
    parent_itself,
)
from bort_jax.stages.extract.parent.show import Answer, show
from bort_jax.stages.extract.parent.uniform import uniform_answer
from bort_jax.stages.extract.parent.vocabulary import with_vocabulary
from bort_jax.stages.extract.parent.weights import write_result, write_student
from bort_jax.storage.hub import pin_revisions
from bort_jax.storage.memory import available_memory
from bort_jax.storage.run_folder import claim
from bort_jax.tasks import Examples

__all__ = [  # what other stages call
    "MODEL",
    "RESULT",
    "answer_inside",
    "batch_size",
    "opened",
    "read_result",
    "run_inside",
    "write_student",
]
BATCH = 64  # rows at a time, or a few more where the devices do not divide it


def run_inside(config: Config, *, examples: Examples | None = None) -> Found:
    """One pass of the parent, the errors of its parts, the program, the answer's weights.

    Args:
      examples: of a task, to measure on instead of single texts.

    Raises:
      ValueError: as `opened`, or the parent chooses among texts and there are no examples.
    """
    start, config = time.monotonic(), pin_revisions(config)
    parent, arch = opened(str(config.parent), seq_len=config.seq_len)
    if parent.head == "choice" and examples is None:
        raise ValueError(
            f"{config.parent} chooses among texts, which unlabelled text has not: compress it on "
            "its task"
        )
    sizes, budget = sizes_of(config, arch), budget_of(config)
    out = claim(str(config.out), config)
    parent, source = cut_vocabulary(config, parent, out)
    rows, size = calibration(config, parent, examples), batch_size(config.calibration_rows)
    inheritance = inherit(parent, rows, seed=config.seed, batch_size=size, map_fn=parallel_map)
    say(f"parent: {arch}, e {inheritance.base:.4g}, {_seconds(start)}")
    choices = choices_of(config, inheritance, arch, sizes)
    say(f"{len(sizes.heads)} numbers of heads, {len(sizes.units)} of units, {_seconds(start)}")
    check_budget(choices, budget)
    shown = find_answer(config, choices, budget, inheritance)
    write_answer(shown, inheritance, out, source=source)
    say(f"all of it in {_seconds(start)}")
    return shown.best


def sizes_of(config: Config, arch: Arch) -> Sizes:
    """Depths, heads and units to choose from."""
    return Sizes.of(
        arch,
        depths=given_sizes(config, "depth"),
        heads=(arch.heads,) if config.stock else given_sizes(config, "heads"),
        units=given_sizes(config, "intermediate"),
    )


def cut_vocabulary(config: Config, parent: Checkpoint, out: Path) -> tuple[Checkpoint, str]:
    """The parent with `config.vocab` tokens, kept in `out`, and where it is; without, as it is."""
    if config.vocab is None:
        return parent, str(checkpoint_folder(str(config.parent)))
    parent = with_vocabulary(parent, some_texts(str(config.data), config.column), config.vocab)
    save(parent, out / "parent")
    return parent, str(out / "parent")


def choices_of(config: Config, inheritance: Inheritance, arch: Arch, sizes: Sizes) -> Choices:
    """What each part of the parent costs, and what it adds to e."""
    parent = inheritance.parent
    return measured_choices(
        inheritance,
        sizes,
        costs_of(parent, arch, seq_len=config.seq_len),
        latency=timed(config, parent, arch, sizes),
        inference=config.inference,
        equal=config.stock or config.search_kind != "layerwise",
    )


def find_answer(
    config: Config, choices: Choices, budget: Budget, inheritance: Inheritance
) -> Answer:
    """The answer within a budget, by the search that is asked for, and the front beside it."""
    if parent_fits(choices, budget):
        found, known = [parent_itself(choices)], {}
    elif config.search_kind in MEASURED:
        how: Any = dict(search=config.search_kind, epsilon=config.epsilon)
        found, known = uniform_answer(choices, budget, inheritance.errors_of, **how)
    else:
        found, known = answer(choices, budget, inheritance.error)
    return Answer(choices, found[0], found[1:], front(choices, known, found), known)


def write_answer(shown: Answer, inheritance: Inheritance, out: Path, *, source: str) -> None:
    """Gram matrices for other budgets, the answer with its weights, and the page."""
    save_grams(inheritance, shown.choices.kept, out)
    student, error = refine(inheritance, shown.best.arch)
    write_student(student, out / MODEL)
    write_result(shown, out, parent=source, student_error=error)
    show(shown, out, run=out)
    say(f"e of the weights that were written: {error:.4g}")


def calibration(config: Config, parent: Checkpoint, examples: Examples | None) -> dict:
    """The rows that the parent is measured on."""
    how = dict(seq_len=config.seq_len, seed=config.seed)
    if examples is not None:
        return encoded_examples(parent, examples, rows=config.calibration_rows, **how)
    rows, column = config.calibration_rows, config.column
    texts = drawn_texts(str(config.data), column=column, rows=rows, seed=config.seed)
    return encoded(parent, texts, **how)


def timed(config: Config, parent: Checkpoint, arch: Arch, sizes: Sizes) -> LayerLatency | None:
    """Latencies of the parent's parts on this device, where an option needs them."""
    asked = config.latency or config.max_latency_ms is not None
    if not (asked or config.inference == "latency_ms"):
        return None
    vocab_size = parent.config.vocab_size
    latency = layer_latency(arch, sizes, vocab_size=vocab_size, seq_len=config.seq_len)
    layer = latency.heads[-1]
    say(f"a row takes {latency.rest + arch.depth * layer:.3g} ms, {layer:.3g} of it a whole layer")
    return latency


def opened(source: str, *, seq_len: int) -> tuple[Checkpoint, Arch]:
    """The parent and its architecture, if it can be one.

    Raises:
      ValueError: its layers differ, it has no tokenizer, its rows are shorter than `seq_len`, or
        its Gram matrices do not fit into memory.
    """
    parent = read(source)
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


def batch_size(rows: int = 4 * BATCH) -> int:
    """About `BATCH`: the quarter that is held out fills its batches; a multiple of the devices."""
    held, devices = max(1, round(rows / 4)), jax.local_device_count()
    size = -(-held // -(-held // BATCH))
    return -(-size // devices) * devices


def _seconds(start: float) -> str:
    return f"{time.monotonic() - start:.1f} s"

# SPDX-License-Identifier: Apache-2.0
"""Models in every form, timed in turns, printed and written."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from bort_jax.arch import NAMED, PATTERN, Arch
from bort_jax.interop import Checkpoint, read
from bort_jax.model import BertConfig, Headless, random_params
from bort_jax.report.plots import races
from bort_jax.report.terminal import say, show_table
from bort_jax.stages.bench.accuracy import scorer
from bort_jax.stages.bench.config import Config, scored_file
from bort_jax.stages.bench.programs import our_program
from bort_jax.stages.bench.race import race
from bort_jax.storage.files import write_json

SHAPES = ((1, 128), (1, 512), (16, 128))  # batch and length, where none are named
VOCABULARY = 50265  # of architectures with random weights


def run(config: Config) -> list[dict[str, Any]]:
    if config.repeats < 1:
        raise ValueError(f"--repeats must be at least 1; got {config.repeats}")
    named = [shape_of(text) for text in config.shapes]
    models = {name: checkpoint_of(name) for name in config.models}
    limits = {name: checkpoint.config.positions for name, checkpoint in models.items()}
    shapes = named or shapes_within(min(limits.values()))
    for name, limit in limits.items():
        if max(length for _, length in shapes) > limit:
            raise ValueError(f"{name} has {limit} positions; --shapes asks for more")
    records, file = [], scored_file(config)
    for name, checkpoint in models.items():
        score = file and scorer(checkpoint, file, reference=our_program(checkpoint))
        with TemporaryDirectory() as folder:
            found = race(
                checkpoint,
                Path(folder),
                shapes=shapes,
                repeats=config.repeats,
                compiled=config.compiled,
                score=score,
            )
        records += [{"model": name, **one} for one in found]
        show(found, name)
    out = Path(config.out)
    write_json(out / "bench.json", records)
    draw(records).savefig(out / "bench.png", bbox_inches="tight")
    show_ratios(records, config.models, shapes)
    say(f"all of it: {out}/bench.json, {out}/bench.png")
    return records


def shapes_within(limit: int) -> list[tuple[int, int]]:
    """The usual shapes, cut at what every model reads."""
    return list(dict.fromkeys((batch, min(length, limit)) for batch, length in SHAPES))


def shape_of(text: str) -> tuple[int, int]:
    """`16x128`; raises ValueError for anything else."""
    batch, _, length = text.partition("x")
    if not (batch.isdecimal() and length.isdecimal() and int(batch) and int(length)):
        raise ValueError(f"--shapes wants BATCHxLENGTH such as 1x128, got {text!r}")
    return int(batch), int(length)


def checkpoint_of(name: str) -> Checkpoint:
    """The checkpoint, or an encoder of the architecture with random weights."""
    if Path(name).exists() or not (name in NAMED or PATTERN.fullmatch(name)):
        return read(name)
    config = BertConfig(Arch.parse(name), VOCABULARY)
    return Checkpoint(config, random_params(Headless(config), seed=0), headless=True)


def show(records: list[dict[str, Any]], name: str) -> None:
    scores = [*records[0].get("scores", {})]
    header = ("form", "batch × length", "ms", "range", "MB on disk", "MB of memory", *scores)
    rows = [
        (
            one["form"],
            f"{one['batch']} × {one['length']}",
            one["median"],
            f"{one['least']:.4g} to {one['most']:.4g}",
            one["bytes"] / 1e6,
            one["memory"] / 1e6,
            *(one["scores"][score] for score in scores),
        )
        for one in records
    ]
    show_table(f"{name}, in turns, medians", header, rows)


def draw(records: list[dict[str, Any]]):
    """Every shape's medians and ranges, by model and form."""
    times = {}
    for one in records:
        shape = f"{one['batch']} × {one['length']}"
        times[one["model"], one["form"], shape] = [one[key] for key in ("least", "median", "most")]
    models, forms, shapes = (list(dict.fromkeys(parts)) for parts in zip(*times, strict=True))
    missing = [np.nan] * 3  # a form that a model has not
    of_form = lambda *where: [times.get((model, *where), missing) for model in models]
    panels = {shape: {form: of_form(form, shape) for form in forms} for shape in shapes}
    return races(models, panels)


def show_ratios(records: list[dict[str, Any]], models: tuple[str, ...], shapes) -> None:
    """Every model's fastest form beside the first model's."""
    rows = []
    for batch, length in shapes:
        best = {}
        for name in models:
            wanted = (name, batch, length)
            here = [r for r in records if (r["model"], r["batch"], r["length"]) == wanted]
            best[name] = min(here, key=lambda one: one["median"])
        first = best[models[0]]["median"]
        rows += [
            (f"{batch} × {length}", name, one["form"], one["median"], one["median"] / first)
            for name, one in best.items()
        ]
    header = ("batch × length", "model", "fastest form", "ms", f"times {models[0]}'s")
    show_table("each in its fastest form", header, rows)

# SPDX-License-Identifier: Apache-2.0
"""The search behind `bort-jax extract`: text, costs, latency, errors, results."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bort_jax.arch import Arch, SearchSpace
from bort_jax.cost import Latency, bert_network, cost_function, designed_sample, fit_latency
from bort_jax.data.prepared import Corpus, prepare_corpus
from bort_jax.interop import load
from bort_jax.ose import Extraction, extract, planned
from bort_jax.ose.abnc import is_abnc
from bort_jax.ose.extraction import with_evidence
from bort_jax.ose.fitted import FittedError, fitted_error
from bort_jax.ose.table import save_table
from bort_jax.report import page
from bort_jax.report.plots import close
from bort_jax.report.terminal import say
from bort_jax.stages.extract import plots
from bort_jax.stages.extract.config import Config, budget_of, space_of
from bort_jax.stages.extract.elastic_error import elastic_error
from bort_jax.stages.extract.latency import forward_seconds
from bort_jax.stages.extract.page import blocks
from bort_jax.stages.extract.shared_errors import one_at_a_time, read_records, share_errors
from bort_jax.stages.extract.tables import ranked
from bort_jax.stages.extract.trained_error import trained_error
from bort_jax.storage.run_folder import claim, write_json

CHUNKS = {"elastic": 32, "trained": 4, "fitted": 4}  # architectures claimed and trained together
RIVALS = 5  # whose latency is measured beside the winner's


def searched(config: Config) -> tuple[Extraction, list[tuple]]:
    """Searches, or goes on with a search that was stopped."""
    out = claim(str(config.out), config)
    with one_at_a_time(out):
        corpus = corpus_of(config, out)
    space = space_of(config, vocab_size=corpus.tokenizer.vocab_size)
    cost_fn = columns_of(config, space, out)
    arguments: dict[str, Any] = dict(
        cost_fn=cost_fn,
        epsilon=config.epsilon,
        search=config.search,
        budget=budget_of(config),
        inference=config.inference,
    )
    first = planned(space, **arguments)
    more = "" if config.search != "bounded" else " first, then what may be best"
    say(f"{len(space.archs())} architectures, {len(first)} to train{more}")
    error_fn = error_of(config, corpus, space, out, total=len(first))
    extraction = extract(space, error_fn=error_fn, **arguments)
    extraction = replace(extraction, seconds=seconds_of(extraction, out))
    if isinstance(error_fn, FittedError):
        extraction = with_evidence(extraction, str(error_fn))
    latencies = timed(config, space, extraction)
    with one_at_a_time(out):
        write(extraction, out, space, latencies)
    return extraction, latencies


def corpus_of(config: Config, out: Path) -> Corpus:
    return prepare_corpus(
        str(config.data),
        out / "data",
        column=config.column,
        tokenizer=config.tokenizer or config.teacher,
        vocab_size=config.vocab_size,
    )


# Costs.


def columns_of(config: Config, space: SearchSpace, out: Path) -> Callable:
    """Counts, and latency where an option needs it, as named columns."""
    counts = cost_function(space, seq_len=config.seq_len, batch=config.inference_batch)
    latency = latency_of(config, space, out) if needs_latency(config) else None

    def cost_fn(rows) -> dict[str, np.ndarray]:
        found = counts(rows)
        columns = {
            name: getattr(found, name) for name in ("params", "macs", "operations", "memory")
        }
        return columns | ({"latency_ms": latency.predict(rows)} if latency else {})

    return cost_fn


def needs_latency(config: Config) -> bool:
    return config.latency or config.max_latency_ms is not None or config.inference == "latency_ms"


def latency_of(config: Config, space: SearchSpace, out: Path) -> Latency:
    """The fit of this run: made once, read by whoever comes later."""
    file = out / "latency.json"
    with one_at_a_time(out):
        if file.exists():
            found = json.loads(file.read_text())
            times = dict(zip(map(Arch.parse, found["archs"]), found["seconds"], strict=True))
            latency = fit_latency(space, lambda archs: [times[a] for a in archs], size=len(times))
        else:
            say(f"timing {min(config.latency_points, len(space.archs()))} architectures")
            latency = fit_latency(space, timer(config, space), size=config.latency_points)
            seconds = (latency.measured / 1e3).tolist()
            write_json(file, {"archs": list(map(str, latency.archs)), "seconds": seconds})
    say(str(latency))
    return latency


def timer(config: Config, space: SearchSpace) -> Callable:
    return partial(
        forward_seconds,
        vocab_size=space.vocab_size,
        seq_len=config.seq_len,
        batch=config.inference_batch,
    )


def timed(config: Config, space: SearchSpace, extraction: Extraction) -> list[tuple]:
    """(architecture, predicted ms, measured ms) of the winner, the first rivals and T."""
    predicted = extraction.candidates.columns.get("latency_ms")
    if predicted is None:
        return []
    names = [row[0] for row in ranked(extraction)[: 1 + RIVALS]]
    chosen = [k for k, arch in enumerate(extraction.archs) if str(arch) in names]
    chosen.sort(key=lambda k: names.index(str(extraction.archs[k])))
    chosen += [extraction.candidates.maximum_point] * (str(extraction.maximum_point) not in names)
    archs = [extraction.archs[k] for k in chosen]
    measured = 1e3 * timer(config, space)(archs)
    return [
        (str(arch), float(predicted[k]), float(ms))
        for arch, k, ms in zip(archs, chosen, measured, strict=True)
    ]


# Errors.


def error_of(config: Config, corpus: Corpus, space: SearchSpace, out: Path, *, total: int):
    """The error function of the configuration, remembered and shared in the run folder."""
    arguments: dict[str, Any] = dict(
        steps=config.steps,
        batch_size=config.batch_size,
        seq_len=config.seq_len,
        learning_rates=tuple(config.learning_rates),
        measure=config.measure,
        teacher=load(config.teacher) if config.teacher else None,
        clip_weights=config.clip_weights,
        eval_rows=config.eval_rows,
        seed=config.seed,
    )
    build = (
        partial(elastic_error, corpus, space)
        if config.errors == "elastic"
        else partial(trained_error, corpus)
    )
    points = designed_sample(space, size=config.fit_points) if config.errors == "fitted" else []
    announce = Announcer(len(points) or total, "" if points else config.search)
    lookup = share_errors(build(**arguments), out, chunk=CHUNKS[config.errors], on_result=announce)
    if not points:
        return lookup
    fitted = fitted_error(points, np.array(lookup(points)))
    say(str(fitted))
    return fitted


class Announcer:
    """Says each result as it comes, with how many are left and how long they may take."""

    def __init__(self, total: int, search: str):
        self.total = total if search != "bounded" else None
        self.done, self.begun = 0, time.monotonic()

    def __call__(self, arch: Arch, error: float) -> None:
        self.done += 1
        of = f"/{self.total}" if self.total else ""
        say(f"  [{self.done}{of}] e({arch}) = {error:.4f}{self.left()}")

    def left(self) -> str:
        if not self.total or self.done >= self.total:
            return ""
        seconds = (time.monotonic() - self.begun) / self.done * (self.total - self.done)
        return f"   about {seconds:.0f} s left" if seconds >= 1 else ""


def seconds_of(extraction: Extraction, out: Path) -> np.ndarray:
    """Seconds of training as they were recorded, whoever and whenever trained."""
    records = read_records(out)
    return np.array([records.get(str(a), {}).get("seconds", 0.0) for a in extraction.archs])


# Results.


def write(extraction: Extraction, out: Path, space: SearchSpace, latencies: list[tuple]) -> None:
    """`extraction.parquet` with all of Ξ, `extraction.json` with the answer, `report.html`."""
    network = bert_network(
        vocab_size=space.vocab_size, positions=space.positions, seq_len=space.positions
    )
    report = is_abnc(network, points=extraction.archs)
    abnc = str(report).splitlines()
    save_table(extraction, out, abnc=abnc, latency=[list(row) for row in latencies])
    drawn = plots.front(extraction)
    drawn.savefig(out / "front.png", dpi=120, bbox_inches="tight")
    close(drawn)
    parts = blocks(extraction, latencies=latencies)
    parts += [page.heading("AB^nC"), *map(page.paragraph, abnc)]
    page.write_page(out / "report.html", "Extraction", parts)

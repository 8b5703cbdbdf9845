# SPDX-License-Identifier: Apache-2.0
"""Trains few architectures on your text, keeps the one with the largest W, and says how far from
the best of the space it can be. Start the same command several times on one folder to share the
work. `--from RUN` asks a finished run again under another budget; nothing is trained."""

import fcntl
import json
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from bort_jax.arch import Arch, SearchSpace
from bort_jax.cost import Latency, bert_network, cost, fit_latency
from bort_jax.data.prepared import Corpus, prepare_corpus
from bort_jax.interop import load
from bort_jax.ose import Budget, Extraction, extract, planned, resolve
from bort_jax.ose.abnc import is_abnc
from bort_jax.ose.search import SEARCHES
from bort_jax.ose.table import load_table, save_table
from bort_jax.report import page, plots
from bort_jax.report.extraction import (
    HEADER,
    READING,
    SHOWN,
    blocks,
    certificate_lines,
    ranked,
)
from bort_jax.report.terminal import say, show_box, show_table
from bort_jax.train.elastic_error import elastic_error
from bort_jax.train.latency import forward_seconds
from bort_jax.train.run_folder import claim, write_json
from bort_jax.train.shared_errors import recorded_seconds, remembered
from bort_jax.train.trained_error import trained_error

ERRORS = ("trained", "elastic")
CHUNKS = {"trained": 2, "elastic": 32}  # architectures that one process claims at a time
INFERENCES = ("steps", "operations", "latency_ms")
RIVALS = 5  # whose latency is measured beside the winner's
LIMITS = {
    "max_params": "params",
    "max_steps": "steps",
    "max_latency_ms": "latency_ms",
    "max_memory": "memory",
    "max_error": "error",
}


@dataclass(frozen=True)
class Config:
    """An extraction. Lists are written [2,4,6].

    Attributes:
      data: file or folder of text, or a corpus that another stage prepared.
      out: run folder; with --from optional.
      from_run: `--from RUN`: answer from this finished extraction, without training.
      depth: choices of D, the number of layers.
      heads: choices of A; a tuple is valid where A divides H.
      hidden: choices of H.
      intermediate: choices of I.
      search: interval (the published scheme), bounded (assumes less, trains what may be best) or
        exhaustive.
      epsilon: ε in (0, 1): the winner's W is at least (1 − ε) of the best, see report.html.
      errors: trained (each candidate by itself) or elastic (one masked network serves all).
      measure: what e is: error (masked tokens that are wrong), perplexity, distillation (nats
        from a teacher) or excess (perplexity over a unigram model's).
      teacher: checkpoint of a masked LM with the same tokenizer, for --measure distillation.
      steps: training steps s of each candidate.
      learning_rates: Θ: every candidate is trained with each, the best is kept.
      clip_weights: largest weight allowed in training (the compact condition); none: no limit.
      batch_size: rows in a training step.
      seq_len: tokens in a row; costs are counted at this length too.
      eval_rows: held-out rows that the error is measured on.
      inference: what i is: steps (multiply-adds), operations (softmax, LayerNorm and GELU too)
        or latency_ms (fitted to this device).
      latency: fit latency even where no option needs it.
      latency_points: architectures that are timed for the fit.
      inference_batch: rows of a forward pass, for latency and memory.
      max_params: ceiling on p.
      max_steps: ceiling on multiply-adds.
      max_latency_ms: ceiling on latency on this device.
      max_memory: ceiling on bytes of weights and activations.
      max_error: ceiling on e.
      about_params: parameters within a tenth of this number.
      tokenizer: folder with a tokenizer.json; none: train one on the text.
      vocab_size: of a tokenizer that is trained.
      column: text column of parquet, JSON lines and CSV.
      seed: of weights, order and masks.
    """

    data: str | None = None
    out: str | None = None
    from_run: str | None = None
    depth: tuple[int, ...] = (2, 4, 6, 8, 10, 12)
    heads: tuple[int, ...] = (4, 8, 12, 16)
    hidden: tuple[int, ...] = (512, 768, 1024)
    intermediate: tuple[int, ...] = (256, 512, 768, 1024, 3072)
    search: str = "interval"
    epsilon: float = 0.25
    errors: str = "trained"
    measure: str = "error"
    teacher: str | None = None
    steps: int = 100
    learning_rates: tuple[float, ...] = (1e-3,)
    clip_weights: float | None = None
    batch_size: int = 16
    seq_len: int = 128
    eval_rows: int = 256
    inference: str = "steps"
    latency: bool = False
    latency_points: int = 24
    inference_batch: int = 1
    max_params: float | None = None
    max_steps: float | None = None
    max_latency_ms: float | None = None
    max_memory: float | None = None
    max_error: float | None = None
    about_params: float | None = None
    tokenizer: str | None = None
    vocab_size: int = 8192
    column: str = "text"
    seed: int = 0


def run(config: Config) -> Extraction:
    check(config)
    return resolved(config) if config.from_run else searched(config)


def check(config: Config) -> None:
    """Raises ValueError before any text is read."""
    if not config.from_run and not (config.data and config.out):
        raise ValueError("--data and --out are needed, or --from RUN to ask a finished run again")
    space_of(config, vocab_size=config.vocab_size).archs()
    if not 0 < config.epsilon < 1:
        raise ValueError(f"epsilon must lie in (0, 1); got {config.epsilon}")
    if not config.learning_rates:
        raise ValueError("learning_rates is empty: each candidate needs at least one")
    for name, choices in (("search", SEARCHES), ("errors", ERRORS), ("inference", INFERENCES)):
        if getattr(config, name) not in choices:
            got = getattr(config, name)
            raise ValueError(f"{name} must be one of {', '.join(choices)}; got {got!r}")


def searched(config: Config) -> Extraction:
    """Searches, or goes on with a search that was stopped."""
    out = claim(config.out, config)
    with one_at_a_time(out):
        corpus = corpus_of(config, out)
    space = space_of(config, vocab_size=corpus.tokenizer.vocab_size)
    cost_fn = columns_of(config, space, out)
    arguments = dict(
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
    latencies = timed(config, space, extraction)
    with one_at_a_time(out):
        write(extraction, out, config, latencies)
    show(extraction, out, latencies)
    return extraction


def resolved(config: Config) -> Extraction:
    """Another budget for a finished run."""
    table = load_table(config.from_run, Arch)
    extraction = resolve(table, budget=budget_of(config))
    if config.out:
        out = claim(config.out, config)
        save_table(extraction, out)
        page.write_page(out / "report.html", "Extraction", blocks(extraction))
    show(extraction, Path(config.out or config.from_run), [])
    return extraction


def corpus_of(config: Config, out: Path) -> Corpus:
    return prepare_corpus(
        str(config.data),
        out / "data",
        column=config.column,
        tokenizer=config.tokenizer or config.teacher,
        vocab_size=config.vocab_size,
    )


def space_of(config: Config, *, vocab_size: int) -> SearchSpace:
    return SearchSpace(
        depth=tuple(config.depth),
        heads=tuple(config.heads),
        hidden=tuple(config.hidden),
        intermediate=tuple(config.intermediate),
        vocab_size=vocab_size,
        positions=config.seq_len,
    )


def budget_of(config: Config) -> Budget:
    """The limits that were given, together."""
    ceilings = {
        column: float(getattr(config, limit))
        for limit, column in LIMITS.items()
        if getattr(config, limit) is not None
    }
    about = Budget.about(params=config.about_params) if config.about_params else Budget()
    return Budget(ceilings) & about


# Costs.


def columns_of(config: Config, space: SearchSpace, out: Path) -> Callable:
    """Counts, and latency where an option needs it, as named columns."""
    counts = cost(space, seq_len=config.seq_len, batch=config.inference_batch)
    latency = latency_of(config, space, out) if needs_latency(config) else None

    def cost_fn(rows) -> dict[str, np.ndarray]:
        found = counts(rows)
        columns = {
            name: getattr(found, name) for name in ("params", "steps", "operations", "memory")
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
    arguments = dict(
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
    if config.errors == "elastic":
        error_fn = elastic_error(corpus, space, **arguments)
    else:
        error_fn = trained_error(corpus, **arguments)
    return remembered(
        error_fn, out, chunk=CHUNKS[config.errors], on_result=Announcer(total, config.search)
    )


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
    spent = recorded_seconds(out)
    return np.array([spent.get(str(arch), 0.0) for arch in extraction.archs])


@contextmanager
def one_at_a_time(out: Path):
    """Processes that share a run folder take turns here."""
    with (out / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


# Results.


def write(extraction: Extraction, out: Path, config: Config, latencies: list[tuple]) -> None:
    """`extraction.parquet` with all of Ξ, `extraction.json` with the answer, `report.html`."""
    network = bert_network(vocab_size=1, positions=config.seq_len, seq_len=config.seq_len)
    report = is_abnc(network, points=extraction.archs)
    abnc = str(report).splitlines()
    save_table(extraction, out, abnc=abnc, latency=[list(row) for row in latencies])
    drawn = plots.front(extraction)
    drawn.savefig(out / "front.png", dpi=120, bbox_inches="tight")
    plots.close(drawn)
    parts = blocks(extraction, latencies=latencies)
    parts += [page.heading("AB^nC"), *map(page.paragraph, abnc)]
    page.write_page(out / "report.html", "Extraction", parts)


def show(extraction: Extraction, out: Path, latencies: list[tuple]) -> None:
    rows = ranked(extraction)
    show_table("trained architectures, largest W first", HEADER, rows[:SHOWN])
    say(READING)
    if latencies:
        show_table("latency", ("architecture", "predicted, ms", "measured, ms"), latencies)
    runner_up = extraction.runner_up
    show_box(
        "extraction",
        [
            f"best: {extraction.best_arch}   runner-up: "
            f"{'none' if runner_up is None else extraction.archs[runner_up]}   "
            f"T: {extraction.maximum_point}",
            f"budget: {extraction.budget}   i: {extraction.candidates.inference}",
            *certificate_lines(extraction),
            f"{out}/report.html, {out}/extraction.parquet, {out}/extraction.json",
            f"next: bort-jax pretrain --arch {extraction.best_arch} --data DATA --out OUT",
            f"or:   bort-jax extract --from {out} --max-params "
            f"{0.8 * extraction.params[extraction.best]:.3g}",
        ],
    )

# SPDX-License-Identifier: Apache-2.0
"""An extraction from its options to its answer: over uniform networks, or layer by layer."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from bort_jax.arch import SearchSpace
from bort_jax.cost import Latency, cost_function, designed_sample
from bort_jax.data.prepared import Corpus, prepare_corpus
from bort_jax.interop import load
from bort_jax.interop.description import identity
from bort_jax.ose import Extraction, LayerwiseSolution, extract, plan, solve_layerwise
from bort_jax.ose.extraction import with_evidence
from bort_jax.ose.fitted import FittedError, fitted_error
from bort_jax.report.terminal import say
from bort_jax.stages.extract.answer import Announcer, show_extraction
from bort_jax.stages.extract.config import Config, budget_of, ceilings_of, check, space_of
from bort_jax.stages.extract.errors import elastic_error, trained_error
from bort_jax.stages.extract.latency import compare_latency, forward_seconds, run_latency
from bort_jax.stages.extract.layer_errors import LayerSpace, train_elastic
from bort_jax.stages.extract.layerwise import (
    compare_with_uniform,
    layer_problem,
    show_layerwise,
    write_layerwise,
)
from bort_jax.stages.extract.measure import Measure
from bort_jax.stages.extract.page import write_extraction
from bort_jax.stages.extract.recipe import Recipe
from bort_jax.stages.extract.shared_errors import SharedErrors, one_at_a_time, read_records
from bort_jax.storage.hub import pin_revisions
from bort_jax.storage.run_folder import claim, claim_inputs

CHUNKS = {"elastic": 32, "trained": 4, "fitted": 4}  # architectures claimed and trained together
COUNTED = ("params", "macs", "operations", "memory")


def run(config: Config) -> Extraction | LayerwiseSolution:
    """Searches, or goes on with a search that was stopped."""
    check(config)
    config = pin_revisions(config)
    return search_layers(config) if config.search_kind == "layerwise" else search_uniform(config)


def search_uniform(config: Config) -> Extraction:
    """Uniform networks: counts all, trains few, keeps the largest W."""
    out = claim(str(config.out), config)
    corpus = corpus_of(config, out)
    space = space_of(config, vocab_size=corpus.tokenizer.vocab_size)
    sizes = dict(seq_len=config.seq_len, batch=config.inference_batch)
    time_fn = partial(forward_seconds, vocab_size=space.vocab_size, **sizes)
    timed = config.latency or config.max_latency_ms is not None or config.inference == "latency_ms"
    latency = run_latency(space, out, time_fn, size=config.latency_points) if timed else None
    question: dict[str, Any] = dict(
        cost_fn=cost_columns(space, latency, **sizes),
        epsilon=config.epsilon,
        search=config.search_kind,
        budget=budget_of(config),
        inference=config.inference,
    )
    first = plan(space, **question)
    more = "" if config.search_kind != "bounded" else " first, then what may be best"
    say(f"{len(space.archs())} architectures, {len(first)} to train{more}")
    error_fn = error_function(config, corpus, space, out, planned=len(first))
    extraction = extract(space, error_fn=error_fn, **question)
    extraction = replace(extraction, seconds=training_seconds(extraction, out))
    if isinstance(error_fn, FittedError):
        extraction = with_evidence(extraction, str(error_fn))
    latencies = compare_latency(extraction, time_fn)
    with one_at_a_time(out):
        write_extraction(extraction, out, space, latencies)
    show_extraction(extraction, out, latencies=latencies)
    return extraction


def search_layers(config: Config) -> LayerwiseSolution:
    """Every layer its own heads and width, or none: one elastic network, then the program."""
    out = claim(str(config.out), config)
    corpus = corpus_of(config, out)
    space = space_of(config, vocab_size=corpus.tokenizer.vocab_size)
    layers = LayerSpace.of(space, head_size=config.head_size)
    say(f"{layers.networks:.3g} networks of {layers.depth} layers")
    elastic = train_elastic(corpus, layers, recipe_of(config))
    problems = [layer_problem(elastic, hidden) for hidden in layers.options]
    start = time.monotonic()
    solution = solve_layerwise(problems, ceilings=ceilings_of(config))
    say(f"solved in {time.monotonic() - start:.2f} s, compilation included")
    rows = compare_with_uniform(solution, elastic, problems)
    write_layerwise(solution, rows, out)
    show_layerwise(solution, rows, out)
    return solution


# From options to what they stand for.


def corpus_of(config: Config, out: Path) -> Corpus:
    """The run's corpus: built by the first process, opened by later ones.

    Raises:
      RunMismatch: the folder's run was made from another text or teacher.
    """
    with one_at_a_time(out):
        corpus = prepare_corpus(
            str(config.data),
            out / "data",
            column=config.column,
            tokenizer=config.tokenizer or config.teacher,
            vocab_size=config.vocab_size,
        )
        teacher = load(config.teacher) if config.teacher else None
        claim_inputs(out, {"corpus": corpus.sha256, "teacher": identity(teacher)})
        return corpus


def recipe_of(config: Config) -> Recipe:
    return Recipe(
        steps=config.steps,
        batch_size=config.batch_size,
        seq_len=config.seq_len,
        learning_rates=tuple(config.learning_rates),
        measure=cast(Measure, config.measure),
        teacher=load(config.teacher) if config.teacher else None,
        clip_weights=config.clip_weights,
        eval_rows=config.eval_rows,
        seed=config.seed,
    )


def error_function(config: Config, corpus: Corpus, space: SearchSpace, out: Path, *, planned: int):
    """The error function that was asked for, kept and shared in the run folder."""
    recipe = recipe_of(config)
    if config.errors == "elastic":
        error_fn = elastic_error(corpus, space, recipe)
    else:
        error_fn = trained_error(corpus, recipe)
    points = designed_sample(space, size=config.fit_points) if config.errors == "fitted" else []
    total = len(points) or (planned if config.search_kind != "bounded" else None)
    shared = SharedErrors(error_fn, out, chunk=CHUNKS[config.errors], on_result=Announcer(total))
    if not points:
        return shared
    fitted = fitted_error(points, np.array(shared(points)))
    say(str(fitted))
    return fitted


# What the search asks for.


def cost_columns(
    space: SearchSpace, latency: Latency | None, *, seq_len: int, batch: int
) -> Callable:
    """Counts, and latency where it was fitted, as named columns."""
    count = cost_function(space, seq_len=seq_len, batch=batch)

    def cost_fn(rows) -> dict[str, np.ndarray]:
        costs = count(rows)
        columns = {name: getattr(costs, name) for name in COUNTED}
        return columns | ({"latency_ms": latency.predict(rows)} if latency else {})

    return cost_fn


def training_seconds(extraction: Extraction, out: Path) -> np.ndarray:
    """Seconds of training as they were recorded, whoever and whenever trained."""
    records = read_records(out)
    return np.array([records.get(str(a), {}).get("seconds", 0.0) for a in extraction.archs])

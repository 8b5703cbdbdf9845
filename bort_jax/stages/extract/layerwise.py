# SPDX-License-Identifier: Apache-2.0
"""`bort-jax extract --search layerwise`: every layer its own heads and width, or none."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import cast

import numpy as np

from bort_jax.arch import LayerwiseArch, SearchSpace
from bort_jax.cost.layerwise import layer_cost, layer_options, layerwise_cost
from bort_jax.ose import LayerChoices, LayerwiseSolution, solve_layerwise
from bort_jax.report import page
from bort_jax.report.terminal import say, show_box, show_table
from bort_jax.stages.extract import plots
from bort_jax.stages.extract.config import Config, budget_of, space_of
from bort_jax.stages.extract.layer_errors import (
    Elastic,
    Options,
    layer_errors,
    shape_errors,
    train_elastic,
)
from bort_jax.stages.extract.measure import Measure
from bort_jax.stages.extract.uniform import corpus_of
from bort_jax.storage.run_folder import claim, write_json

HEADER = ("network", "p", "i", "e, surrogate", "e, measured", "W, surrogate", "W, measured")
KEPT = ("params", "macs", "error")
READING = (
    "“surrogate”: what each layer's choice adds to e, added up; “measured”: the error "
    "of the whole network as a part of the elastic one. The bound is on the surrogate's W. Stock "
    "BERT classes hold uniform networks only."
)


def run(config: Config) -> LayerwiseSolution:
    out = claim(str(config.out), config)
    ceilings = ceilings_of(config)
    corpus = corpus_of(config, out)
    space = space_of(config, vocab_size=corpus.tokenizer.vocab_size)
    options = options_of(config, space)
    depth = max(config.depth)
    say(f"{sum(len(x) ** depth for x in options.values()):.3g} networks of {depth} layers")
    elastic = train_elastic(
        corpus,
        options,
        depth=depth,
        head_size=config.head_size,
        steps=config.steps,
        batch_size=config.batch_size,
        seq_len=config.seq_len,
        learning_rate=config.learning_rates[0],
        measure=cast(Measure, config.measure),
        eval_rows=config.eval_rows,
        seed=config.seed,
    )
    problems = [problem_of(elastic, hidden, options, config, space) for hidden in options]
    begun = time.monotonic()
    solution = solve_layerwise(problems, ceilings=ceilings)
    say(f"solved in {time.monotonic() - begun:.2f} s, compilation included")
    rows = compared(solution, elastic, options, problems, config, space)
    write(solution, rows, out)
    show(solution, rows, out)
    return solution


def ceilings_of(config: Config) -> tuple[float, float, float]:
    """Ceilings on p, i and e; raises ValueError for limits that a layerwise search cannot keep."""
    budget = budget_of(config)
    if budget.floors or set(budget.ceilings) - set(KEPT):
        raise ValueError("a layerwise search keeps --max-params, --max-macs and --max-error only")
    params, macs, error = (budget.ceilings.get(name, np.inf) for name in KEPT)
    return params, macs, error


def options_of(config: Config, space: SearchSpace) -> Options:
    """By hidden size, what a layer can be."""
    return {
        hidden: layer_options(space, hidden=hidden, head_size=config.head_size)
        for hidden in sorted(set(config.hidden))
    }


def problem_of(
    elastic: Elastic, hidden: int, options: Options, config: Config, space: SearchSpace
) -> LayerChoices:
    """Exact p and i of every option, and what it adds to e."""
    base, added = layer_errors(elastic, hidden, options[hidden])
    sizes = dict(hidden=hidden, head_size=config.head_size, seq_len=config.seq_len)
    costs = np.array([layer_cost(option, **sizes) for option in options[hidden]], dtype=np.int64)
    params, macs = (np.tile(column, (elastic.depth, 1)) for column in costs.T)
    embeddings = (space.vocab_size + space.positions + 2) * hidden
    return LayerChoices(params, macs, added, base_params=embeddings, base_error=base)


def compared(solution, elastic: Elastic, options: Options, problems, config, space) -> list[tuple]:
    """Rows for `HEADER`: the answer, and every uniform network, with their measured errors."""
    hidden = list(options)[solution.problem]
    pick = lambda choice: tuple(options[hidden][k] for k in choice)
    answer = LayerwiseArch(hidden, config.head_size, pick(solution.choice))
    uniform = [
        (LayerwiseArch(h, config.head_size, (options[h][k],) * elastic.depth), problem, k)
        for h, problem in zip(options, problems, strict=True)
        for k in range(1, len(options[h]))
    ]
    errors = shape_errors(elastic, [answer, *(arch for arch, *_ in uniform)])
    surrogates = [solution.error] + [p.base_error + p.errors[:, k].sum() for _, p, k in uniform]
    archs = [answer, *(arch for arch, *_ in uniform)]
    sizes = dict(vocab_size=space.vocab_size, positions=space.positions, seq_len=config.seq_len)
    costs = np.array([layerwise_cost(arch, **sizes) for arch in archs], dtype=np.int64)
    largest = costs.max(axis=0)
    saved = np.prod(1 - costs / largest, axis=1)
    rows = [
        (a, int(p), int(i), float(s), float(e), float(g / s), float(g / e))
        for a, (p, i), s, e, g in zip(archs, costs, surrogates, errors, saved, strict=True)
    ]
    return [rows[0], *sorted(rows[1:], key=lambda row: -row[6])[:5]]


def write(solution: LayerwiseSolution, rows: list[tuple], out: Path) -> None:
    """`layerwise.json` and `report.html`."""
    found = asdict(solution) | {"choice": solution.choice.tolist(), "gap": solution.gap}
    write_json(
        out / "layerwise.json",
        found
        | {"networks": [dict(zip(HEADER, (str(row[0]), *row[1:]), strict=True)) for row in rows]},
    )
    parts = [
        page.paragraph(f"Largest W: {rows[0][0]}."),
        page.figure(plots.layers(rows[0][0], rows[1][0]), "Beside the best uniform network."),
        page.table(HEADER, rows),
        page.paragraph(READING),
        *map(page.paragraph, lines(solution)),
    ]
    page.write_page(out / "report.html", "Layerwise extraction", parts)


def lines(solution: LayerwiseSolution) -> list[str]:
    proved = "proved optimal" if solution.gap < 1e-8 else f"within {solution.gap:.3%} of optimal"
    return [
        f"W of the surrogate {solution.w:.4f}, {proved}: no choice has more than "
        f"{solution.bound:.4f}",
        f"the Lagrange sweep alone: {solution.sweep_w:.4f}",
    ]


def show(solution: LayerwiseSolution, rows: list[tuple], out: Path) -> None:
    show_table("the answer, then uniform networks, largest measured W first", HEADER, rows)
    say(READING)
    box = [f"best: {rows[0][0]}", *lines(solution), f"{out}/report.html, {out}/layerwise.json"]
    show_box("layerwise extraction", box)

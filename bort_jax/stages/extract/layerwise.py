# SPDX-License-Identifier: Apache-2.0
"""A layerwise search: its problem, its answer beside uniform networks, and its page."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from bort_jax.arch import LayerwiseArch
from bort_jax.cost.bert import embedding_params
from bort_jax.cost.layerwise import layer_cost, layerwise_cost
from bort_jax.ose import LayerChoices, LayerwiseSolution
from bort_jax.report import page
from bort_jax.report.terminal import say, show_box, show_table
from bort_jax.stages.extract import plots
from bort_jax.stages.extract.layer_errors import Elastic, layer_errors, shape_errors
from bort_jax.storage.files import write_json

HEADER = ("network", "p", "i", "e, surrogate", "e, measured", "W, surrogate", "W, measured")
READING = (
    "“surrogate”: what each layer's choice adds to e, added up; “measured”: the error "
    "of the whole network as a part of the elastic one. The bound is on the surrogate's W. Stock "
    "BERT classes hold uniform networks only."
)


def layer_problem(elastic: Elastic, hidden: int) -> LayerChoices:
    """Exact p and i of every option at one hidden size, and what it adds to e."""
    layers = elastic.layers
    base_error, added = layer_errors(elastic, hidden)
    costs = np.array(
        [
            layer_cost(option, hidden=hidden, head_size=layers.head_size, seq_len=layers.positions)
            for option in layers.options[hidden]
        ]
    )
    params, macs = (np.tile(column, (layers.depth, 1)) for column in costs.T)
    embeddings = embedding_params(hidden, vocab_size=layers.vocab_size, positions=layers.positions)
    return LayerChoices(params, macs, added, base_params=embeddings, base_error=base_error)


def compare_with_uniform(
    solution: LayerwiseSolution, elastic: Elastic, problems: Sequence[LayerChoices]
) -> list[tuple]:
    """Rows for `HEADER`: the answer, then the best five uniform networks by measured W."""
    layers = elastic.layers
    hidden = list(layers.options)[solution.problem]
    chosen = tuple(layers.options[hidden][k] for k in solution.choice)
    archs, surrogates = [LayerwiseArch(hidden, layers.head_size, chosen)], [solution.error]
    for hidden, problem in zip(layers.options, problems, strict=True):
        for k, option in enumerate(layers.options[hidden][1:], start=1):
            archs.append(layers.uniform(hidden, option))
            surrogates.append(problem.base_error + problem.errors[:, k].sum())
    sizes = dict(vocab_size=layers.vocab_size, positions=layers.positions)
    costs = np.array([layerwise_cost(a, **sizes, seq_len=layers.positions) for a in archs])
    savings = np.prod(1 - costs / costs.max(axis=0), axis=1)
    errors = shape_errors(elastic, archs)
    rows = [
        (arch, int(p), int(i), float(s), float(e), float(g / s), float(g / e))
        for arch, (p, i), s, e, g in zip(archs, costs, surrogates, errors, savings, strict=True)
    ]
    return [rows[0], *sorted(rows[1:], key=lambda row: -row[6])[:5]]


def write_layerwise(solution: LayerwiseSolution, rows: list[tuple], out: Path) -> None:
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
        *map(page.paragraph, solution_lines(solution)),
    ]
    page.write_page(out / "report.html", "Layerwise extraction", parts)


def solution_lines(solution: LayerwiseSolution) -> list[str]:
    proved = "proved optimal" if solution.gap < 1e-8 else f"within {solution.gap:.3%} of optimal"
    return [
        f"W of the surrogate {solution.w:.4f}, {proved}: no choice has more than "
        f"{solution.bound:.4f}",
        f"the Lagrange sweep alone: {solution.sweep_w:.4f}",
    ]


def show_layerwise(solution: LayerwiseSolution, rows: list[tuple], out: Path) -> None:
    show_table("the answer, then uniform networks, largest measured W first", HEADER, rows)
    say(READING)
    box = [
        f"best: {rows[0][0]}",
        *solution_lines(solution),
        f"{out}/report.html, {out}/layerwise.json",
    ]
    show_box("layerwise extraction", box)

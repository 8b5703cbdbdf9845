# SPDX-License-Identifier: Apache-2.0
"""An answer inside a parent in the terminal, and what its certificate says in words."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bort_jax.report.terminal import say, show_box, show_table
from bort_jax.stages.extract.parent.choices import Choices
from bort_jax.stages.extract.parent.search import (
    LEAST_ERROR,
    W_OF_DEPTH,
    Found,
    Known,
    parent_itself,
)

HEADER = ("network", "p", "macs", "ms", "e, surrogate", "e", "W")
READING = (
    "“surrogate”: what each layer's choice adds to e, added up. e is measured jointly; after ~ it "
    "is the surrogate, times the ratio that was seen at its depth."
)


class Answer(NamedTuple):
    """What is shown.

    Attributes:
      best: the network; others: the best of other depths; front: of all budgets.
      known: the networks that were measured jointly.
    """

    choices: Choices
    best: Found
    others: Sequence[Found]
    front: Sequence[Found]
    known: Known


def row(found: Found) -> tuple:
    """For `HEADER`."""
    error = found.error if found.measured else f"~ {found.error:.4g}"
    ms = "–" if found.latency_ms is None else found.latency_ms
    return (str(found.arch), found.params, found.macs, ms, found.surrogate, error, found.w)


def rows(answer: Answer) -> list[tuple]:
    """The parent first, then the answer, then the best of other depths."""
    return [row(parent_itself(answer.choices)), row(answer.best), *map(row, answer.others)]


def certificate(answer: Answer) -> list[str]:
    """What is proved, on what, and how far that was from what was measured."""
    best, base = answer.best, answer.choices.bases[0]
    if best.saving == 0:
        return ["the parent is within the budget: it is the answer"]
    proved = best.wanted in (W_OF_DEPTH, LEAST_ERROR)
    lines = [f"{best.wanted}: proved, on the sum over its layers" if proved else best.wanted]
    ratios = [one.ratio for one in answer.known.values()]
    if ratios:
        lines.append(
            f"measured/surrogate lay in [{min(ratios):.3f}, {max(ratios):.3f}] over the "
            f"{len(ratios)} networks that were checked"
        )
    for name, factor in (("half", 0.5), ("double", 2.0)):
        moved = lambda one, factor=factor: one.saving / (one.error + (factor - 1) * base)
        first = max([best, *answer.others], key=moved)
        same = "the same" if first == best else str(first.arch)
        lines.append(
            f"with {name} the base of e ({base:.4g}) the answer is {same}, W {moved(first):.4f}"
        )
    return lines


def show(answer: Answer, out: Path | None, *, run: Path) -> None:
    """The table, the certificate and what to do next."""
    show_table("the parent, the answer, the best of other depths", HEADER, rows(answer))
    say(READING)
    whole = answer.choices.whole
    shares = (answer.best.params / whole["params"], answer.best.macs / whole["macs"])
    lines = [
        f"best: {answer.best.arch}",
        f"{shares[0]:.1%} of the parent's parameters, {shares[1]:.1%} of its multiply-adds",
        *certificate(answer),
    ]
    if out:
        lines += [f"weights: {out}/model", *next_commands(out)]
    lines.append(f"or:   bort-jax extract --from {run} --pick K --out OUT")
    show_table("front", ("K", *HEADER), [(k, *row(f)) for k, f in enumerate(answer.front, 1)])
    show_box("extraction inside a parent", lines)


def next_commands(out: Path) -> list[str]:
    """What takes the weights."""
    return [
        f"next: bort-jax finetune --model {out}/model --task TASK --out OUT",
        f"or:   bort-jax convert {out}/model OUT --to onnx",
    ]

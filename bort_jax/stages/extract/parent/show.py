# SPDX-License-Identifier: Apache-2.0
"""An answer inside a parent: in the terminal, as a page, and in words."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
from matplotlib.ticker import EngFormatter

from bort_jax.arch import LayerwiseArch
from bort_jax.report import page
from bort_jax.report.plots import BLUE, GREY, ORANGE
from bort_jax.report.terminal import say, show_box, show_table
from bort_jax.stages.extract import plots
from bort_jax.stages.extract.parent.choices import Choices
from bort_jax.stages.extract.parent.search import Checked, Found, Known, parent_itself

HEADER = ("network", "p", "i", "e, surrogate", "e", "W")
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
    return (str(found.arch), found.params, found.macs, found.surrogate, error, found.w)


def rows(answer: Answer) -> list[tuple]:
    """The parent first, then the answer, then the best of other depths."""
    return [row(parent_itself(answer.choices)), row(answer.best), *map(row, answer.others)]


def certificate(answer: Answer) -> list[str]:
    """What is proved, on what, and how far that was from what was measured."""
    best, base = answer.best, answer.choices.bases[0]
    if best.saving == 0:
        return ["the parent is within the budget: it is the answer"]
    proved = "proved" if best.gap < 1e-8 else f"within {best.gap:.2%} of it"
    lines = [f"{best.wanted}: {proved}, on the sum over its layers"]
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
    whole = answer.choices.costs.whole
    shares = (answer.best.params / whole[0], answer.best.macs / whole[1])
    lines = [
        f"best: {answer.best.arch}",
        f"{shares[0]:.1%} of the parent's parameters, {shares[1]:.1%} of its multiply-adds",
        *certificate(answer),
    ]
    if out:
        lines += [f"weights: {out}/model", *next_commands(answer.best.arch, out)]
    lines.append(f"or:   bort-jax extract --from {run} --pick K --out OUT")
    show_table("front", ("K", *HEADER), [(k, *row(f)) for k, f in enumerate(answer.front, 1)])
    show_box("extraction inside a parent", lines)


def next_commands(arch: LayerwiseArch, out: Path) -> list[str]:
    """What takes the weights: fine-tuning reads stock folders, whose layers are equal."""
    stock = len({*arch.sizes()}) == 1 and arch.sizes()[0][0] * arch.head_size == arch.hidden
    tune = [f"next: bort-jax finetune --model {out}/model --task TASK --out OUT"] if stock else []
    return [*tune, f"or:   bort-jax convert {out}/model OUT --to stablehlo"]


def write_page(answer: Answer, out: Path) -> None:
    """`report.html`."""
    parent = parent_itself(answer.choices)
    drawn = "The parent and the answer, layer by layer; a layer that is skipped is a line."
    parts = [
        page.paragraph(f"Largest W: {answer.best.arch}."),
        page.figure(plots.layers(parent.arch, answer.best.arch), drawn),
        page.table(HEADER, rows(answer)),
        page.paragraph(READING),
        *map(page.paragraph, certificate(answer)),
        page.figure(front_plot(answer), "The front, with the parent on it."),
        page.table(("K", *HEADER), [(k, *row(one)) for k, one in enumerate(answer.front, 1)]),
    ]
    if answer.known:
        caption = "Joint errors against sums over layers; on the line they agree."
        parts.append(page.figure(agreement_plot(list(answer.known.values())), caption))
    page.write_page(out / "report.html", "Extraction inside a parent", parts)


def front_plot(answer: Answer):
    """e over p and over i."""
    drawn, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True)
    parent = parent_itself(answer.choices)
    for axis, name in zip(axes, ("params", "macs"), strict=True):
        cost = lambda one, name=name: getattr(one, name)
        axis.scatter([*map(cost, answer.front)], [one.error for one in answer.front], color=BLUE)
        axis.scatter(cost(parent), parent.error, color=GREY, marker="s", label="parent")
        best = answer.best
        axis.scatter(cost(best), best.error, s=180, fc="none", ec=ORANGE, lw=2, label="answer")
        axis.set(xlabel=name)
        axis.xaxis.set_major_formatter(EngFormatter())
        axis.grid(alpha=0.25)
    axes[0].set_ylabel("error e")
    axes[1].legend(frameon=False)
    return drawn


def agreement_plot(known: Sequence[Checked]):
    """Measured e over the surrogate."""
    drawn, axis = plt.subplots(figsize=(5, 4.5))
    top = 1.05 * max(max(one) for one in known)
    axis.plot([0, top], [0, top], color=GREY, linewidth=1)
    axis.scatter([one.surrogate for one in known], [one.error for one in known], color=BLUE)
    axis.set(xlabel="surrogate", ylabel="measured", xlim=(0, top), ylim=(0, top))
    axis.grid(alpha=0.25)
    return drawn

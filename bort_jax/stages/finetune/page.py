# SPDX-License-Identifier: Apache-2.0
"""Tables, a page and the next command of a fine-tuning."""

from pathlib import Path

from bort_jax.report import page
from bort_jax.report.terminal import say, show_box, show_table
from bort_jax.stages.finetune.tuner import Theta
from bort_jax.tasks import find_task

HEADER = ("learning rate", "decay", "warm-up", "batch", "validation mean", "std", "seeds")


def theta_text(theta: Theta) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in theta._asdict().items())


def score_text(score: float | None) -> str:
    return "diverged" if score is None else f"{score:.4f}"


def set_cells(row: dict) -> tuple:
    """A hyperparameter set's line of the table; one without a mean has diverged with some seed."""
    if row["mean"] is None:
        row = row | {"mean": "diverged", "std": "–"}
    return tuple(row.values())


def show(summary: dict, out: Path, metrics: str) -> None:
    rows = [set_cells(row) for row in summary["by_set"]]
    show_table(f"{metrics} on validation, over seeds", HEADER, rows)
    page.write_page(out / "report.html", "Fine-tuning", [page.table(HEADER, rows)])
    test = f", on test {summary['test']:.4f}" if "test" in summary else ""
    show_box(
        "fine-tuning",
        [
            f"best {metrics} on validation {summary['best_validation']:.4f}{test}",
            f"model: {out}/model (stock transformers loads it)",
            f"next: bort-jax evaluate --model {out}/model --data FILE",
        ],
    )


def show_many(
    summaries: dict[str, dict], models: dict[str, str], *, out: Path, data_dir: str
) -> None:
    """A line a task: its best hyperparameter set over seeds, and the best run.

    Args:
      models: the folder of each task's best model.
    """
    header = ("task", "metrics", *HEADER, "best run", "test")
    rows = [
        (
            reference,
            " and ".join(find_task(reference).metrics),
            *set_cells(summary["by_set"][0]),
            summary["best_validation"],
            summary.get("test", "–"),
        )
        for reference, summary in summaries.items()
    ]
    show_table("the best set of each task, mean over seeds, on validation", header, rows)
    page.write_page(out / "report.html", "Fine-tuning", [page.table(header, rows)])
    given = ",".join(f"{name}={folder}" for name, folder in models.items())
    data = f" --data-dir {data_dir}" if data_dir else ""
    show_box("fine-tuning", [f"{len(rows)} tasks: {out}/report.html"])
    say(f"next: bort-jax submit --models '[{given}]'{data} --partial")  # unbroken, to be copied

# SPDX-License-Identifier: Apache-2.0
"""The page and the terminal output of a pretraining: curves, scores, forecast, next command."""

from datetime import timedelta
from pathlib import Path

from bort_jax.engine.loop import read_metrics
from bort_jax.report import page, plots
from bort_jax.report.terminal import format_value, millions, show_box, show_table
from bort_jax.stages.predict.mlm_scores import MlmScores
from bort_jax.stages.pretrain.forecast import Forecast


def show_scores(scores: MlmScores, out: Path, *, arch: str) -> None:
    """Writes the run's page, and prints its scores and the next command."""
    write_report(out, {arch: out})
    show_box(
        "pretraining",
        [
            f"held-out loss {scores.loss:.4f}, perplexity {scores.perplexity:.2f}, "
            f"masked-token error {scores.error:.4f}",
            *agreement_lines(scores),
            f"model: {out}/model (loads as BertForMaskedLM)   curves: {out}/report.html",
            f"next: bort-jax finetune --model {out}/model --data DIR --out OUT",
        ],
    )


def agreement_lines(scores: MlmScores) -> list[str]:
    if scores.agreement is None:
        return []
    return [
        f"agrees with the teacher on {100 * scores.agreement:.1f} % of the masked tokens, "
        f"KL {scores.divergence:.4f} nats"
    ]


def show_forecast(found: Forecast, *, arch: str, batch: str) -> None:
    """Prints a dry run; `batch` says the rows of a step."""
    gib = lambda size: f"{size / 2**30:.2f} GiB"
    show_table(
        f"pretrain {arch}, not begun",
        ("what", "how much"),
        [
            ("parameters", millions(found.params)),
            ("memory of a device in a step", gib(found.device_bytes)),
            ("kept between steps", gib(found.kept_bytes)),
            ("steps", f"{found.steps:,} of {batch}"),
            ("tokens", f"{format_value(found.tokens)}, {found.epochs:.2f} epochs"),
            ("compilation", f"{found.compile_seconds:.1f} s"),
            ("a step", f"{found.seconds_per_step:.4g} s, median of ten"),
            ("the run", f"{timedelta(seconds=round(found.seconds))}, without evaluations"),
        ],
    )


def write_report(out: Path, runs: dict[str, Path]) -> None:
    page.write_page(out / "report.html", "Pretraining", loss_blocks(runs))


def loss_blocks(runs: dict[str, Path]) -> list[str]:
    """The loss curves of pretraining runs, by name, and their last scores."""
    records = {name: read_metrics(folder) for name, folder in runs.items()}
    curve = lambda key, title: plots.curves(records, key, title)
    return [
        page.figure(curve("mlm", "masked-LM loss, nats"), "On the training batches."),
        page.figure(curve("heldout_loss", "masked-LM loss, nats"), "On held-out text."),
        page.table(("run", *SHOWN.values()), [last_scores(*run) for run in records.items()]),
    ]


SHOWN = {
    "step": "steps",
    "heldout_loss": "held-out loss",
    "heldout_perplexity": "perplexity",
    "heldout_accuracy": "accuracy",
    "heldout_agreement": "agreement with teacher",
    "heldout_divergence": "KL to teacher",
    "tokens_per_second": "tokens/s",
    "mfu": "MFU",
    "skipped": "steps skipped",
}


def last_scores(name: str, records: list[dict]) -> list:
    """The newest value of each column, or nothing."""
    newest = {key: value for record in records for key, value in record.items()}
    return [name, *(newest.get(key, "") for key in SHOWN)]

# SPDX-License-Identifier: Apache-2.0
"""Runs on every device there is; the same command resumes. On several hosts, start the same
command on each with --distributed true."""

from dataclasses import dataclass
from pathlib import Path

import jax

from bort_jax.report import page, plots
from bort_jax.report.terminal import show_box
from bort_jax.train.loop import read_metrics
from bort_jax.train.parallel import is_leader
from bort_jax.train.pretrain import PretrainConfig, pretrain


@dataclass(frozen=True)
class Config(PretrainConfig):
    """Pretraining of one architecture; see `PretrainConfig`.

    Attributes:
      distributed: join the other hosts' processes first (jax.distributed finds them on TPU
        pods, SLURM, Open MPI and GKE).
    """

    distributed: bool = False


def run(config: Config) -> None:
    if config.distributed:
        jax.distributed.initialize()
    scores = pretrain(config)
    if not is_leader():
        return
    out = Path(config.out)
    write_report(out, {config.arch: out})
    show_box(
        "pretraining",
        [
            f"held-out loss {scores.loss:.4f}, perplexity {scores.perplexity:.2f}, "
            f"masked-token error {scores.error:.4f}",
            f"model: {out}/model (loads as BertForMaskedLM)   curves: {out}/report.html",
            f"next: bort-jax finetune --model {out}/model --data DIR --out OUT",
        ],
    )


def write_report(out: Path, runs: dict[str, Path]) -> None:
    page.write_page(out / "report.html", "Pretraining", loss_blocks(runs))


def loss_blocks(runs: dict[str, Path]) -> list[str]:
    """The loss curves of pretraining runs, by name."""
    records = {name: read_metrics(folder) for name, folder in runs.items()}
    return [
        page.figure(
            plots.curves(records, "mlm", "masked-LM loss, nats"), "On the training batches."
        )
    ]

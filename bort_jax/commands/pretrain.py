# SPDX-License-Identifier: Apache-2.0
"""Runs on every device there is; the same command resumes. On several hosts, start the same
command on each: with --distributed where SLURM, Open MPI, GKE or a TPU pod say who is there, else
with --coordinator HOST:PORT --processes N --process K."""

from pathlib import Path

from bort_jax.engine.processes import barrier, is_leader
from bort_jax.stages.pretrain.config import Config
from bort_jax.stages.pretrain.page import show_forecast, show_scores
from bort_jax.stages.pretrain.run import dry_run, pretrain


def run(config: Config) -> None:
    config.join()
    arch = str(config.wanted or config.init_from)
    if config.dry_run:
        found = dry_run(config.pretraining())
        if is_leader():
            batch = f"{config.batch_size} rows of {config.seq_len} tokens"
            show_forecast(found, arch=arch, batch=batch)
        return
    scores = pretrain(config.pretraining(), profile=config.profile)
    if is_leader():
        show_scores(scores, Path(config.out), arch=arch)
    barrier("reported")  # or those who end first would not wait as long for the first process

# SPDX-License-Identifier: Apache-2.0
"""Runs on every device there is; the same command resumes. On several hosts, start the same
command on each: with --distributed where SLURM, Open MPI, GKE or a TPU pod say who is there, else
with --coordinator HOST:PORT --processes N --process K."""

from bort_jax.engine.processes import barrier, is_leader
from bort_jax.stages.pretrain.config import Config
from bort_jax.stages.pretrain.dry_run import dry_run
from bort_jax.stages.pretrain.page import show, show_plan
from bort_jax.stages.pretrain.run import pretrain


def run(config: Config) -> None:
    config.join()
    if config.dry_run:
        show_plan(config, dry_run(config.pretraining()))
        return
    scores = pretrain(config.pretraining(), profile=config.profile)
    if is_leader():
        show(config, scores)
    barrier("reported")  # or those who end first would not wait as long for the first process

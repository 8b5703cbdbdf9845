# SPDX-License-Identifier: Apache-2.0
"""Trains few architectures on your text, keeps the one with the largest W, and says how far from
the best of the space it can be. Start the same command several times on one folder to share the
work. `--from RUN` asks a finished run again under another budget; nothing is trained."""

from bort_jax.ose import Extraction, LayerwiseSolution
from bort_jax.stages.extract.answer import answer_again
from bort_jax.stages.extract.config import Config, budget_of, check


def run(config: Config) -> Extraction | LayerwiseSolution:
    if config.from_run:
        check(config)
        return answer_again(config.from_run, budget_of(config), out=config.out)
    from bort_jax.stages.extract.run import run as search  # training takes a second to import

    return search(config)

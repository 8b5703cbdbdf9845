# SPDX-License-Identifier: Apache-2.0
"""Trains few architectures on your text, keeps the one with the largest W, and says how far from
the best of the space it can be. Start the same command several times on one folder to share the
work. `--from RUN` asks a finished run again under another budget; nothing is trained.
`--parent CKPT` extracts inside a pretrained checkpoint, and gives the answer its weights."""

from pathlib import Path
from typing import Any

from bort_jax.stages.extract.answer import answer_again
from bort_jax.stages.extract.config import Config, budget_of, check


def run(config: Config) -> Any:
    if config.parent and not config.from_run:
        from bort_jax.stages.extract.parent.run import run_inside

        check(config)
        return run_inside(config)
    if config.from_run:
        check(config)
        run_folder = Path(config.from_run)
        if (run_folder / "parent.json").is_file():
            from bort_jax.stages.extract.parent.answer import answer_inside

            return answer_inside(run_folder, budget_of(config), pick=config.pick, out=config.out)
        if config.pick is not None:
            raise ValueError("--pick names a network of a front inside a parent: leave it out")
        return answer_again(config.from_run, budget_of(config), out=config.out)
    from bort_jax.stages.extract.run import run as search  # training takes a second to import

    return search(config)

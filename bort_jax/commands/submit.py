# SPDX-License-Identifier: Apache-2.0
"""Predicts test sets and writes the leaderboards' files, one zip a suite; or checks such a file.

AX is predicted by MNLI's model, AX-b and AX-g by SuperGLUE RTE's, MNLI-mm by MNLI-m's, unless they
are given models of their own.
"""

from dataclasses import dataclass
from pathlib import Path

from bort_jax.report.terminal import say, show_box
from bort_jax.stages.predict.submissions import (
    check_complete,
    check_submission,
    drop_missing,
    tasks_to_predict,
    write_suite,
)
from bort_jax.tasks.suites import SUITES


@dataclass(frozen=True)
class Config:
    """A submission to write, or one to check. Lists are written [a,b].

    Attributes:
      models: TASK=CHECKPOINT for each task, such as glue/rte=runs/rte/model; a folder of the data
        such as glue/sst2_sentences is a task too.
      data_dir: folder that holds the test splits as SUITE/TASK/test.parquet; without it, the
        Hugging Face hub.
      out: folder for `glue.zip`, `superglue.zip` and `race.zip`.
      partial: write a zip, or accept one, that lacks tasks of its suite.
      check: a zip, or a file of one, to check and nothing else.
      tasks: for `check`: tasks whose test split is not in the usual folder, such as glue/qqp_tiny.
      seq_len: tokens in a row.
    """

    models: tuple[str, ...] = ()
    data_dir: str = ""
    out: str = "runs/submit"
    partial: bool = False
    check: str = ""
    tasks: tuple[str, ...] = ()
    seq_len: int = 128


def run(config: Config) -> list[Path]:
    """Writes and checks a zip for each suite that has models; raises ValueError where one fails."""
    if bool(config.check) == bool(config.models):
        raise ValueError("give one of --models [TASK=CHECKPOINT,…] and --check FILE")
    data_dir = config.data_dir
    if config.check:
        file = Path(config.check)
        check_submission(file, data_dir=data_dir, variants=config.tasks, partial=config.partial)
        say(f"{file}: nothing wrong with it")
        return []
    tasks = drop_missing(tasks_to_predict(config.models), data_dir, partial=config.partial)
    suites = [suite for suite in SUITES if any(one.task.suite == suite for one in tasks)]
    for suite in suites if not config.partial else ():
        check_complete(suite, tasks)
    written = [
        write_suite(suite, tasks, data_dir=data_dir, out=Path(config.out), seq_len=config.seq_len)
        for suite in suites
    ]
    show_box("submission", [*map(str, written), "the checker found nothing wrong with it"])
    return written

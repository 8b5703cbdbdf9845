# SPDX-License-Identifier: Apache-2.0
"""The options of `bort-jax bench`."""

from dataclasses import dataclass
from typing import Any

from bort_jax.stages.bench.accuracy import ScoredFile

POSITIONAL = {"models": "checkpoints, or architectures such as bort, bert-base, D4-A8-H1024-I768"}


@dataclass(frozen=True)
class Config:
    """What is timed, and at which sizes.

    Attributes:
      models: checkpoints or architectures; all are compared with the first.
      out: folder for `bench.json` and `bench.png`.
      shapes: batch x length; none: 1x128, 1x512 and 16x128, no longer than the models read.
      repeats: turns.
      compiled: also torch.compile, which takes minutes.
      data: a file to score every form on: labelled rows for a classifier, else any text.
      columns: of --data: one text column, or two of a pair.
      label: of --data: label column.
      task: a test set whose rows --data holds, such as glue/rte.
      seq_len: of --data: tokens in a row.
    """

    models: tuple[str, ...]
    out: str = "runs/bench"
    shapes: tuple[str, ...] = ()
    repeats: int = 9
    compiled: bool = False
    data: str = ""
    columns: tuple[str, ...] = ("text",)
    label: str = "label"
    task: str = ""
    seq_len: int = 128


def scored_file(options: Any) -> ScoredFile | None:
    """The rows of `--data`, as `--columns`, `--label`, `--task` and `--seq-len` read them."""
    names = ("columns", "label", "task", "seq_len")
    how = {name: getattr(options, name) for name in names}
    return ScoredFile(options.data, **how) if options.data else None

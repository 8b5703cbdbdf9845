# SPDX-License-Identifier: Apache-2.0
"""The student's shape inside the parent, and that shape with the weights of another parent."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bort_jax.arch import LayerwiseArch
from bort_jax.engine.parallel import parallel_map
from bort_jax.interop import Checkpoint
from bort_jax.model.inherit import inherit
from bort_jax.ose import Budget
from bort_jax.stages.extract.parent.result import MODEL, RESULT, read_result
from bort_jax.stages.extract.parent.run import batch_size
from bort_jax.stages.extract.parent.search import least_error
from bort_jax.stages.extract.parent.show import Answer
from bort_jax.stages.extract.parent.weights import write_again, write_student
from bort_jax.storage.checks import explain_damage
from bort_jax.storage.files import read_json


def budget_within(run: Path, *, share: float, ceilings: Mapping[str, float]) -> Budget:
    """The ceilings that were given; without any, a share of the parent's multiply-adds."""
    return Budget(dict(ceilings) or {"macs": share * read_result(run)[0].whole["macs"]})


def write_chosen(run: Path, budget: Budget, folder: Path) -> Path:
    """The weights of the network within a budget that has the least error; returns their folder.

    W alone would go on saving below a ceiling; who sets one wants all that it allows. Where no
    network is within, it is the extraction's own answer.
    """
    choices, known, front = read_result(run)
    best = least_error(choices, budget, known)
    if best is None:
        return run / MODEL
    if not (folder / RESULT).is_file():  # written last
        write_again(Answer(choices, best, [], front, known), run, folder)
    return folder / MODEL


def write_inherited(
    parent: Checkpoint, arch: LayerwiseArch, rows: Mapping[str, Any], folder: Path
) -> None:
    """A shape with a parent's weights, refitted to the rows; whole or not at all."""
    size = batch_size(len(rows["ids"]))
    inheritance = inherit(parent, dict(rows), batch_size=size, map_fn=parallel_map)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    write_student(inheritance.checkpoint(arch), partial)
    partial.rename(folder)


def shape_of(chosen: Path) -> LayerwiseArch:
    """The network whose weights stand in a folder, as layers of its parent."""
    with explain_damage(chosen.parent / RESULT):
        return LayerwiseArch.parse(read_json(chosen.parent / RESULT)["best"]["arch"])

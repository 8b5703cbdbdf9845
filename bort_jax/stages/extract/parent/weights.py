# SPDX-License-Identifier: Apache-2.0
"""The weights of an answer inside a parent, and its result, in a folder."""

import shutil
import time
from pathlib import Path
from typing import Any

from bort_jax.interop import Checkpoint, read, save
from bort_jax.report.terminal import say
from bort_jax.stages.extract.parent.grams import load_inheritance
from bort_jax.stages.extract.parent.page import write_page
from bort_jax.stages.extract.parent.result import MODEL, RESULT
from bort_jax.stages.extract.parent.show import Answer
from bort_jax.storage.checks import explain_damage
from bort_jax.storage.files import read_json, write_json


def write_again(shown: Answer, run: Path, out: Path) -> None:
    """The weights of an answer, from the Gram matrices that the run has kept."""
    if out.resolve() == run.resolve():
        raise ValueError(f"{out} holds the run itself: choose another --out")
    start = time.monotonic()
    with explain_damage(run / RESULT):
        source = str(read_json(run / RESULT)["parent"])
    inheritance = load_inheritance(read(source), run, base=shown.choices.bases[0])
    out.mkdir(parents=True, exist_ok=True)
    write_student(inheritance.checkpoint(shown.best.arch), out / MODEL)
    write_result(shown, out, parent=source)
    say(f"weights in {time.monotonic() - start:.1f} s")


def write_student(student: Checkpoint, folder: Path) -> None:
    """A stock folder; layers of different sizes are filled up with zeros in it."""
    shutil.rmtree(folder, ignore_errors=True)
    save(student, folder)


def write_result(shown: Answer, out: Path, *, parent: str, **notes: float) -> None:
    """`report.html`, then `parent.json`, all that `read_result` needs."""
    write_page(shown, out)
    plain = lambda one: one._asdict() | {"arch": str(one.arch), "w": one.w}
    result: dict[str, Any] = {
        "parent": str(Path(parent).resolve()),
        "best": plain(shown.best),
        "others": [plain(one) for one in shown.others],
        "front": [plain(one) for one in shown.front],
        "checked": {name: one._asdict() for name, one in shown.known.items()},
        "choices": shown.choices.as_json(),
        **notes,
    }
    write_json(out / RESULT, result)

# SPDX-License-Identifier: Apache-2.0
"""The result of an extraction inside a parent, as its run folder keeps it."""

from pathlib import Path
from typing import Any

from bort_jax.arch import LayerwiseArch
from bort_jax.stages.extract.parent.choices import Choices
from bort_jax.stages.extract.parent.search import Checked, Found
from bort_jax.storage.checks import explain_damage
from bort_jax.storage.files import read_json

RESULT, MODEL = "parent.json", "model"


def read_result(run: Path) -> tuple[Choices, dict[str, Checked], list[Found]]:
    """What was measured, the networks that were checked, and the front.

    Raises:
      ValueError: the file is damaged.
    """
    with explain_damage(run / RESULT):
        result = read_json(run / RESULT)
        known = {name: Checked(**one) for name, one in result["checked"].items()}
        picked = []
        for one in result["front"]:
            fields: list[Any] = [one[name] for name in Found._fields]
            picked.append(Found(*fields)._replace(arch=LayerwiseArch.parse(one["arch"])))
        return Choices.from_json(result["choices"]), known, picked

# SPDX-License-Identifier: Apache-2.0
"""A run folder belongs to one configuration: the same resumes, another is refused."""

import json
import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

CONFIG = "run.json"
PACKAGES = ("bort-jax", "jax", "flax", "optax", "orbax-checkpoint")


class RunMismatch(ValueError):
    """The folder holds a run of another configuration."""


def claim(folder: str | Path, config: Any) -> Path:
    """Makes the folder this configuration's, or checks that it already is.

    Raises:
      RunMismatch: it holds another; the message names every difference.
    """
    folder, wanted = Path(folder), _plain(asdict(config))
    wanted.pop("out", None)  # the folder may be moved
    file = folder / CONFIG
    if file.exists():
        found = json.loads(file.read_text())["config"]
        differences = [
            f"{key}: {found.get(key)!r} there, {wanted.get(key)!r} asked for"
            for key in sorted(found.keys() | wanted.keys())
            if found.get(key) != wanted.get(key)
        ]
        if differences:
            raise RunMismatch(
                f"{folder} holds a run of another configuration ({'; '.join(differences)}); "
                "choose another --out, or the same configuration to resume"
            )
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    write_json(file, {"config": wanted, "versions": _versions()})
    return folder


def write_json(file: Path, value: Any) -> None:
    """Writes the whole file or none of it."""
    partial = file.with_name(file.name + ".partial")
    partial.write_text(json.dumps(value, indent=2))
    partial.replace(file)


def _plain(config: dict) -> dict:
    return json.loads(json.dumps(config))


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}

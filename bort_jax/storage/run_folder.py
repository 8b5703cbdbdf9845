# SPDX-License-Identifier: Apache-2.0
"""A run folder belongs to one configuration: the same resumes, another is refused."""

import errno
import json
import platform
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bort_jax.storage.checks import differences
from bort_jax.storage.files import read_json, write_json

CONFIG, INPUTS = "run.json", "inputs.json"
RECORDS = {CONFIG, INPUTS, "error.txt"}  # what a run that was refused leaves
PACKAGES = ("bort-jax", "jax", "flax", "optax", "orbax-checkpoint")


class RunMismatch(ValueError):
    """The folder holds a run of another configuration."""


def claim(folder: str | Path, config: Any, *, free: Collection[str] = ("out",)) -> Path:
    """Makes the folder this configuration's, or checks that it already is. One in which a run was
    refused before it began, for a wrong row say, is free again.

    Args:
      free: fields that may differ, such as the folder itself, which may be moved.

    Raises:
      RunMismatch: it holds another; the message names every difference.
      ValueError: its file cannot be read.
    """
    folder, wanted = Path(folder), _as_json(asdict(config))
    wanted.pop("out", None)
    file = folder / CONFIG
    if file.exists() and has_begun(folder):
        bound = lambda fields: {name: fields[name] for name in fields if name not in free}
        different = differences(bound(read_claim(folder)), bound(wanted))
        if different:
            raise RunMismatch(
                f"{folder} holds a run of another configuration ({'; '.join(different)}); "
                "choose another --out, or the same configuration to resume"
            )
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    write_json(file, {"config": wanted, "versions": _versions()})
    return folder


def claim_inputs(folder: Path, inputs: dict[str, Any]) -> None:
    """Notes what the folder's run is made from, or checks that it is the same.

    Args:
      inputs: JSON values; files and models by digests of their content.

    Raises:
      RunMismatch: another file or model under a name of before; the message names it.
    """
    file = folder / INPUTS
    if not file.exists() or not has_begun(folder):
        write_json(file, inputs)
        return
    different = differences(read_json(file), _as_json(inputs))
    if different:
        raise RunMismatch(
            f"{folder} holds a run of other inputs ({'; '.join(different)}); choose another --out, "
            "or the same files to resume"
        )


def has_begun(folder: Path) -> bool:
    """Whether there is more in a run folder than records, and files that are empty."""
    others = (file for file in folder.iterdir() if file.name not in RECORDS)
    return any(file.is_dir() or file.stat().st_size for file in others)


@contextmanager
def explain_full_disk(folder: Path) -> Iterator[None]:
    """Errors of a full disk, or of a spent quota, say which and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(
            f"no room left for {error.filename or folder}: what was finished is kept; make room, "
            "and the same command continues"
        ) from error


def read_claim(folder: Path) -> dict[str, Any]:
    """The configuration that a run folder belongs to.

    Raises:
      ValueError: its file is damaged.
    """
    file = folder / CONFIG
    remedy = (
        "if the folder's run is the one asked for, delete this file and it resumes; else choose "
        "another --out"
    )
    config = read_json(file, remedy=remedy).get("config")
    if not isinstance(config, dict):
        raise ValueError(f"{file} is damaged (no configuration in it): {remedy}")
    return config


def _as_json(config: dict) -> dict:
    return json.loads(json.dumps(config))


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}

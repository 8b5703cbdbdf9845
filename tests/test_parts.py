# SPDX-License-Identifier: Apache-2.0
"""A build in parts: stopped anywhere it ends in the same bytes; every flipped byte is named."""

import json
from pathlib import Path

import numpy as np
import pytest

from bort_jax.storage.parts import HEADER, Layout, OpenPart, continue_parts, read_parts

LAYOUT = Layout("manifest.json", streams=("even", "odd"), counts=("numbers", "next"))
MADE_FROM = {"first": 0, "last": 9}
SMALLEST = np.dtype("<u2")


def build(folder, made_from=MADE_FROM):
    """The numbers 0 to 9, at most four a part, even and odd ones apart."""
    parts = continue_parts(folder, LAYOUT, made_from)
    while not parts.complete:
        start = parts.total("numbers")
        numbers = range(start, min(start + 4, 10))
        with OpenPart(parts) as part:
            if not numbers:
                parts = part.discard().finish()
                continue
            for number in numbers:
                part.write(SMALLEST.type(number).tobytes(), "odd" if number % 2 else "even")
            parts = part.close(numbers=len(numbers), next=numbers[-1] + 1)
    return parts


@pytest.fixture
def folder(tmp_path):
    build(tmp_path / "built")
    return tmp_path / "built"


def contents(folder):
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


class Killed(BaseException):
    """Not an error: nothing may catch it and tidy up."""


def stop_at_rename(monkeypatch, moment, when):
    """Every file comes into being by a rename: before and after each is every state there is."""
    rename, left = Path.replace, [moment]

    def replace_until(path, target):
        left[0] -= 1
        if left[0] < 0 and when == "before":
            raise Killed
        rename(path, target)
        if left[0] < 0:
            raise Killed

    monkeypatch.setattr(Path, "replace", replace_until)


@pytest.mark.parametrize("when", ["before", "after"])
def test_continue_parts_after_a_stop_at_any_rename_ends_in_the_same_bytes(
    tmp_path, folder, monkeypatch, when
):
    stops = 0
    while True:
        stopped = tmp_path / f"stopped{stops}"
        with monkeypatch.context() as patch:
            stop_at_rename(patch, stops, when)
            try:
                build(stopped)
                break
            except Killed:
                stops += 1
        build(stopped)
        assert contents(stopped) == contents(folder)
    assert stops == 11  # manifests: begun, three parts, complete; and two files a part


def test_mapped_gives_what_was_written(folder):
    parts = read_parts(folder, LAYOUT)
    parts.check_files()
    found = {
        name: [parts.memory_map(k, name, dtype=SMALLEST).tolist() for k in range(len(parts))]
        for name in LAYOUT.streams
    }
    assert found == {"even": [[0, 2], [4, 6], [8]], "odd": [[1, 3], [5, 7], [9]]}
    assert parts.total("numbers") == 10 and parts.size("odd") == 10 and parts.complete
    with pytest.raises(ValueError, match="ends within an element"):
        parts.memory_map(0, "odd", dtype=np.dtype("S3"))


def test_check_bytes_names_every_file_of_which_a_byte_is_flipped(folder):
    parts = read_parts(folder, LAYOUT)
    for file in folder.glob("*/*.bin"):
        good = file.read_bytes()
        for at in range(len(good)):
            file.write_bytes(good[:at] + bytes([good[at] ^ 16]) + good[at + 1 :])
            with pytest.raises(ValueError, match=str(file)):
                parts.check_bytes()
        file.write_bytes(good)
    parts.check_bytes()


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda good: None, "{file} is missing"),
        (lambda good: good[:-1], "{file}: 67 bytes, the manifest says 68"),
        (lambda good: b"GARBAGE!" + good[8:], "{file} does not begin as a part of ours does"),
        (lambda good: good[:8] + bytes(HEADER - 8) + good[HEADER:], "{file} was made from some"),
        (lambda good: good[:-1] + b"x", "{file} is corrupt"),
    ],
)
def test_a_wrong_file_is_named_by_every_reader(folder, change, message):
    parts, file = read_parts(folder, LAYOUT), folder / "odd" / "00001.bin"
    bad = change(file.read_bytes())
    file.unlink() if bad is None else file.write_bytes(bad)
    message = message.format(file=file)
    readers = [parts.check_bytes, lambda: build(folder)]
    readers += [parts.check_files] * ("corrupt" not in message)  # which reads no contents
    for read in readers:
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            read()


def test_continue_parts_begins_anew_where_no_part_was_finished(tmp_path):
    continue_parts(tmp_path, LAYOUT, {"rows": "with a fault"})
    assert continue_parts(tmp_path, LAYOUT, {"rows": "mended"}).made_from == {"rows": "mended"}
    assert read_parts(tmp_path, LAYOUT).made_from == {"rows": "mended"}


def test_continue_parts_refuses_other_inputs_naming_each_difference(folder):
    message = "first: 0 there, 1 asked for; last: 9 there, None asked for.*another folder"
    with pytest.raises(ValueError, match=message):
        build(folder, {"first": 1})


@pytest.mark.parametrize(
    "change",
    [
        lambda m: "",
        lambda m: "[" * 100_000,
        lambda m: json.dumps([m]),
        lambda m: json.dumps(m | {"complete": 1}),
        lambda m: json.dumps(m | {"made_from": []}),
        lambda m: json.dumps(m | {"parts": 3}),
        lambda m: json.dumps(m | {"parts": [{}]}),
        lambda m: json.dumps(m | {"parts": [m["parts"][0] | {"counts": {"numbers": -1}}]}),
        lambda m: json.dumps(m | {"parts": [m["parts"][0] | {"files": {"even": {}}}]}),
        lambda m: json.dumps({name: value for name, value in m.items() if name != "parts"}),
    ],
)
def test_read_parts_refuses_a_damaged_manifest(folder, change):
    file = folder / LAYOUT.manifest
    file.write_text(change(json.loads(file.read_text())))
    with pytest.raises(ValueError, match="manifest.json (is damaged|is not JSON|holds no object)"):
        read_parts(folder, LAYOUT)


def test_read_parts_tells_another_format_from_damage(folder):
    file = folder / LAYOUT.manifest
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": 9}))
    with pytest.raises(ValueError, match="manifest.json has format 9; this version reads 1: build"):
        read_parts(folder, LAYOUT)


def test_read_parts_does_not_read_a_huge_manifest(folder):
    with (folder / LAYOUT.manifest).open("wb") as out:
        out.truncate(1 << 40)  # a hole, no disk
    with pytest.raises(ValueError, match="at most 67108864 are read"):
        read_parts(folder, LAYOUT)


def test_read_parts_says_where_there_is_none(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"no manifest.json in {tmp_path}"):
        read_parts(tmp_path, LAYOUT)

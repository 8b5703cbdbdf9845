# SPDX-License-Identifier: Apache-2.0
"""What the fuzzing tool calls a fault, and what it does to files."""

import random

import fuzz_inputs
import pytest
from fuzz_mutations import change

LINE = "bort-jax: a.csv, line 2: no text\n"


@pytest.mark.parametrize(
    "code, err, seconds, fault",
    [
        (0, "", 1, ""),
        (0, "WARNING: one of two\n", 1, ""),
        (1, LINE, 1, ""),
        (2, LINE, 1, ""),
        (0, LINE, 1, "a refusal with exit code 0"),
        (1, "", 1, "0 lines of refusal"),
        (1, LINE + LINE, 1, "2 lines of refusal"),
        (1, "a library's warning\n" + LINE, 1, "more than the one line"),
        (1, "bort-jax: " + "x" * 2000, 1, "a line of 2010 characters"),
        (1, "bort-jax: unexpected KeyError: 'a'", 1, "an error that nobody expected"),
        (1, "Traceback (most recent call last)\n" + LINE, 1, "a traceback"),
        (1, "thread panicked at 'x'\n" + LINE, 1, "a traceback"),
        (3, LINE, 1, "exit code 3"),
        (-6, "", 1, "killed by SIGABRT"),
        (1, LINE, fuzz_inputs.SECONDS, "took too long"),
    ],
)
def test_fault_of_an_ending(code, err, seconds, fault):
    assert fuzz_inputs.fault_of(code, err, seconds) == fault


def test_change_takes_files_away_and_swaps_them_too(tmp_path):
    one, other = tmp_path / "a", tmp_path / "b"
    states = set()
    for seed in range(120):
        if one.is_dir():
            one.rmdir()
        one.write_text("first")
        other.write_text("second")
        change(one, [one, other], random.Random(seed))
        states.add("none" if not one.exists() else "folder" if one.is_dir() else one.read_bytes())
    assert {"none", "folder", b"second"} <= states and len(states) > 30

# SPDX-License-Identifier: Apache-2.0
"""Errors shared by processes: each measured once, a lost process costs only its own."""

import json
import math
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from bort_jax.arch import Arch
from bort_jax.stages.extract.shared_errors import SharedErrors, read_records

ARCHS = [Arch(depth, 1, 8, 8) for depth in range(1, 7)]
ERRORS = [1 / arch.depth for arch in ARCHS]
WORKER = """
import sys, time
from pathlib import Path
from bort_jax.arch import Arch
from bort_jax.stages.extract.shared_errors import SharedErrors
folder, pause = Path(sys.argv[1]), float(sys.argv[2])
def error_fn(archs):
    with (folder / "measured").open("a") as out:
        out.write("".join(f"{arch}\\n" for arch in archs))
    time.sleep(pause * len(archs))
    return [1 / arch.depth for arch in archs]
archs = [Arch(depth, 1, 8, 8) for depth in range(1, 7)]
print(SharedErrors(error_fn, folder, poll=0.05)(archs))
"""


def start(folder, pause):
    command = [sys.executable, "-c", WORKER, str(folder), str(pause)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def counting(asked):
    """An error function that says what it was asked for."""

    def error_fn(archs):
        asked.extend(archs)
        return [1 / arch.depth for arch in archs]

    return error_fn


@pytest.mark.slow
def test_shared_errors_measures_each_once_in_two_processes(tmp_path):
    workers = [start(tmp_path, 0.3) for _ in range(2)]
    results = [json.loads(worker.communicate(timeout=60)[0]) for worker in workers]
    assert results[0] == results[1] == ERRORS
    measured = (tmp_path / "measured").read_text().split()
    assert sorted(measured) == sorted(map(str, ARCHS))
    assert len(list(tmp_path.glob("errors.*.jsonl"))) == 2


def test_shared_errors_takes_over_from_a_killed_process_and_from_no_other(tmp_path):
    other, asked = start(tmp_path, 60), []
    wait_for((tmp_path / "measured").exists)
    with ThreadPoolExecutor() as pool:
        found = pool.submit(SharedErrors(counting(asked), tmp_path, poll=0.02), ARCHS)
        wait_for(lambda: asked == ARCHS[1:] or found.done())
        assert asked == ARCHS[1:] and not found.done()  # the first is the other's
        other.kill()
        other.communicate()
        assert found.result(timeout=30) == ERRORS
    assert asked == ARCHS[1:] + ARCHS[:1]


def test_shared_errors_trains_once_what_two_threads_want(tmp_path):
    """Also where the claim looks old, as one that a lost process has left."""
    begun, go, asked = threading.Event(), threading.Event(), []

    def slow(archs):
        begun.set()
        assert go.wait(30)
        return counting(asked)(archs)

    with ThreadPoolExecutor() as pool:
        first = pool.submit(SharedErrors(slow, tmp_path), ARCHS[:1])
        assert begun.wait(30)
        os.utime(tmp_path / "claims" / str(ARCHS[0]), (0, 0))
        second = pool.submit(SharedErrors(counting(asked), tmp_path, poll=0.01), ARCHS[:1])
        time.sleep(0.2)
        assert asked == [] and not second.done()
        go.set()
        assert first.result(30) == second.result(30) == ERRORS[:1]
    assert asked == ARCHS[:1]


def test_shared_errors_looks_again_once_it_holds_the_lock(tmp_path):
    """Another measures between the look and the claim."""
    asked = []
    other = SharedErrors(counting(asked), tmp_path)
    other(ARCHS[:1])
    mine = SharedErrors(counting(asked), tmp_path, on_result=lambda *_: other(ARCHS[1:2]))
    assert mine(ARCHS[:2]) == ERRORS[:2] and asked == ARCHS[:2]


def test_shared_errors_measures_nothing_again_and_announces_each_once(tmp_path):
    announced, asked = [], []

    def error_fn(archs):
        asked.append(list(archs))
        return [0.25] * len(archs)

    announce = lambda *result: announced.append(result)
    lookup = SharedErrors(error_fn, tmp_path, chunk=4, on_result=announce)
    assert lookup(ARCHS + ARCHS[:1]) == [0.25] * 7
    assert [len(archs) for archs in asked] == [4, 2]
    again = SharedErrors(error_fn, tmp_path, on_result=announce)
    assert again(ARCHS[::-1]) == [0.25] * 6 and len(asked) == 2
    assert announced == [(arch, 0.25) for arch in ARCHS + ARCHS[::-1]]
    assert set(read_records(tmp_path)) == set(map(str, ARCHS))


def test_read_records_of_failed_trainings_and_torn_lines(tmp_path):
    SharedErrors(lambda archs: [math.nan], tmp_path)(ARCHS[:1])
    (tmp_path / "errors.old.jsonl").write_text('{"arch": "D2-A1-H8-I8", "error": 0.5}\n{"arch": "D')
    records = read_records(tmp_path)
    assert math.isnan(records[str(ARCHS[0])]["error"])
    assert records["D2-A1-H8-I8"]["error"] == 0.5 and len(records) == 2


def test_shared_errors_gives_its_claim_back_where_the_error_function_raises(tmp_path):
    def fails(archs):
        raise RuntimeError("no memory left")

    with pytest.raises(RuntimeError, match="no memory"):
        SharedErrors(fails, tmp_path)(ARCHS)
    assert SharedErrors(lambda archs: [0.5], tmp_path)(ARCHS) == [0.5] * 6

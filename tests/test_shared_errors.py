# SPDX-License-Identifier: Apache-2.0
"""Errors shared by processes: each measured once, a lost process costs only its own."""

import json
import math
import os
import signal
import subprocess
import sys
import time

import pytest

from bort_jax.arch import Arch
from bort_jax.stages.extract.shared_errors import read_records, recorded_seconds, remembered

ARCHS = [Arch(depth, 1, 8, 8) for depth in range(1, 7)]
WORKER = """
import sys, time
from pathlib import Path
from bort_jax.arch import Arch
from bort_jax.stages.extract.shared_errors import remembered
folder, pause = Path(sys.argv[1]), float(sys.argv[2])
def error_fn(archs):
    with (folder / "measured").open("a") as out:
        out.write("".join(f"{arch}\\n" for arch in archs))
    time.sleep(pause * len(archs))
    return [1 / arch.depth for arch in archs]
archs = [Arch(depth, 1, 8, 8) for depth in range(1, 7)]
print(remembered(error_fn, folder, stale=1.0, poll=0.05)(archs))
"""


def start(folder, pause):
    command = [sys.executable, "-c", WORKER, str(folder), str(pause)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def answers(worker):
    return json.loads(worker.communicate(timeout=60)[0])


def measured(folder):
    return (folder / "measured").read_text().split()


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def test_processes_share_the_work_and_measure_each_once(tmp_path):
    workers = [start(tmp_path, 0.3) for _ in range(2)]
    results = [answers(worker) for worker in workers]
    assert results[0] == results[1] == [1 / arch.depth for arch in ARCHS]
    assert sorted(measured(tmp_path)) == sorted(map(str, ARCHS))
    assert len(list(tmp_path.glob("errors.*.jsonl"))) == 2


def test_a_killed_process_costs_only_its_own_candidate(tmp_path):
    lost = start(tmp_path, 60)
    wait_for((tmp_path / "measured").exists)
    os.kill(lost.pid, signal.SIGKILL)
    lost.communicate()
    assert answers(start(tmp_path, 0.01)) == [1 / arch.depth for arch in ARCHS]
    found = measured(tmp_path)
    assert found.count(str(ARCHS[0])) == 2 and len(found) == len(ARCHS) + 1


def test_a_claim_that_is_kept_fresh_is_not_taken_over(tmp_path):
    slow = start(tmp_path, 2.5)  # longer than a claim stays fresh by itself
    wait_for((tmp_path / "measured").exists)
    error_fn = lambda archs: [0.5 for _ in archs]
    quick = remembered(error_fn, tmp_path, stale=1.0, poll=0.05)
    assert quick(ARCHS)[0] == 1.0  # the slow one's
    assert answers(slow) == quick(ARCHS)


def test_what_is_known_is_not_measured_again_and_results_are_told_once(tmp_path):
    told, asked = [], []

    def error_fn(archs):
        asked.append(list(archs))
        return [0.25] * len(archs)

    lookup = remembered(error_fn, tmp_path, chunk=4, on_result=lambda *result: told.append(result))
    assert lookup(ARCHS + ARCHS[:1]) == [0.25] * 7
    assert [len(archs) for archs in asked] == [4, 2]
    again = remembered(error_fn, tmp_path, on_result=lambda *result: told.append(result))
    assert again(ARCHS[::-1]) == [0.25] * 6 and len(asked) == 2
    assert told == [(arch, 0.25) for arch in ARCHS + ARCHS[::-1]]
    assert set(recorded_seconds(tmp_path)) == set(map(str, ARCHS))


def test_failed_trainings_and_torn_lines(tmp_path):
    remembered(lambda archs: [math.nan], tmp_path)(ARCHS[:1])
    (tmp_path / "errors.old.jsonl").write_text('{"arch": "D2-A1-H8-I8", "error": 0.5}\n{"arch": "D')
    records = read_records(tmp_path)
    assert math.isnan(records[str(ARCHS[0])]["error"])
    assert records["D2-A1-H8-I8"]["error"] == 0.5 and len(records) == 2


def test_an_error_function_that_raises_gives_its_claim_back(tmp_path):
    def fails(archs):
        raise RuntimeError("no memory left")

    with pytest.raises(RuntimeError, match="no memory"):
        remembered(fails, tmp_path)(ARCHS)
    assert list((tmp_path / "claims").iterdir()) == []
    assert remembered(lambda archs: [0.5], tmp_path)(ARCHS) == [0.5] * 6

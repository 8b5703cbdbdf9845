# SPDX-License-Identifier: Apache-2.0
"""Processes that meet before jax joins them, and peers that never come."""

import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from bort_jax.engine.rendezvous import PeerMissing, meet


def free_address() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def test_meet_returns_once_all_are_there():
    where = free_address()
    with ThreadPoolExecutor() as pool:
        done = [pool.submit(meet, where, 3, k, seconds=20) for k in (2, 0, 1)]
        assert [each.result(timeout=20) for each in done] == [None] * 3
    with socket.create_server(("", int(where.rpartition(":")[2]))):
        pass  # the port is free again at once


@pytest.mark.parametrize("process, missing", [(0, "process 1, 2 of 3"), (2, "process 0 of 3")])
def test_meet_names_who_never_came(process, missing, capsys):
    where = free_address()
    with pytest.raises(PeerMissing, match=f"{missing} did not come to {where} within 1 s"):
        meet(where, 3, process, seconds=1)
    assert f"waiting for {missing} at {where}" in capsys.readouterr().err
    assert PeerMissing.exit_code == 75


def test_meet_wants_an_address():
    with pytest.raises(ValueError, match="HOST:PORT; got 'here'"):
        meet("here", 2, 0)


@pytest.mark.slow
def test_distributed_on_a_plain_machine_says_what_was_looked_for(tmp_path):
    """In a process of its own: jax here may have found its devices already."""
    argv = ["finetune", "--data", str(tmp_path), "--model", "m", "--distributed"]
    ended = subprocess.run(
        [sys.executable, "-m", "bort_jax.cli", *argv],
        capture_output=True,
        text=True,
        env=os.environ,
    )
    assert ended.returncode == 1 and len(ended.stderr.splitlines()) == 1, ended.stderr
    assert "no SLURM, Open MPI, GKE or TPU pod found" in ended.stderr
    assert "--coordinator" in ended.stderr


@pytest.mark.slow
def test_a_peer_that_never_comes_ends_in_one_line_and_code_75(tmp_path):
    script = (
        "import sys; from bort_jax import cli; from bort_jax.engine import rendezvous as r;"
        "r.meet.__kwdefaults__['seconds'] = 2.0; cli.main(sys.argv[1:])"
    )
    words = f"finetune --data {tmp_path} --model m --coordinator {free_address()}"
    argv = [*words.split(), "--processes", "2", "--process", "0"]
    ended = subprocess.run(
        [sys.executable, "-c", script, *argv], capture_output=True, text=True, env=os.environ
    )
    waiting, end = ended.stderr.splitlines()
    assert ended.returncode == 75 and waiting.startswith("waiting for process 1 of 2 at")
    assert "process 1 of 2 did not come" in end

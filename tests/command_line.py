# SPDX-License-Identifier: Apache-2.0
"""The command line, called as a user calls it."""

import os
import socket
import subprocess
import sys

from bort_jax import cli


def one_device() -> dict[str, str]:
    """The environment of a process with one device, whose programs are compiled as the tests'."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=1"
    return os.environ | {"XLA_FLAGS": flags}


def run(capsys, *argv):
    """Exit code, standard output, standard error."""
    code = 0
    try:
        cli.main([str(word) for word in argv])
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def refused(capsys, *argv):
    """The one line of a refusal."""
    code, _, err = run(capsys, *argv)
    lines = [line for line in err.splitlines() if line.startswith("bort-jax:")]
    assert code not in (0, None) and len(lines) == 1, err
    return lines[0]


def together(argv, *, processes, seconds=240):
    """What processes of one device each, which run a command together, printed: all lines but those
    of jax's network."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [*map(str, argv), "--coordinator", f"127.0.0.1:{port}", "--processes", str(processes)]
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "bort_jax.cli", *words, "--process", str(k)],
            env=one_device(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for k in range(processes)
    ]
    try:
        ended = [process.communicate(timeout=seconds) for process in started]
    finally:
        for process in started:
            process.kill()
    for process, (_, err) in zip(started, ended, strict=True):
        assert process.returncode == 0, err
    own = lambda out: [line for line in out.splitlines() if not line.startswith("[Gloo]")]
    return ["\n".join(own(out)) for out, _ in ended]

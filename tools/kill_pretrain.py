# SPDX-License-Identifier: Apache-2.0
"""Kills a pretraining with SIGKILL at random moments, again and again, and lets the last one end.

Before each restart the newest checkpoint must be whole; at the end every parameter must equal,
bit for bit, that of the same run undisturbed. Prints a table; exits with 1 if anything was lost.

  python tools/kill_pretrain.py --data corpus --out OUT [--kills 20] [-- option of pretrain …]
"""

import argparse
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from bort_jax.engine.checkpoint import newest_verified
from bort_jax.engine.loop import read_metrics
from bort_jax.interop import load

SMALL = (
    "--arch D1-A2-H64-I128 --steps 400 --batch-size 16 --seq-len 64 --positions 64 "
    "--save-every 10 --eval-every 50 --log-every 1 --eval-rows 64"
).split()


class Kill(NamedTuple):
    """One run that was killed.

    Attributes:
      seconds: how long it ran.
      saving: whether a save was under way: orbax's unfinished folder was there.
      done: the last step that it logged.
      whole: the newest step that verifies, None without one.
    """

    seconds: float
    saving: bool
    done: int
    whole: int | None


def command(data: Path, out: Path, options: list[str]) -> list[str]:
    said = ["--data", str(data), "--out", str(out), *options]
    return [sys.executable, "-m", "bort_jax.cli", "pretrain", *said]


def run_to_the_end(data: Path, out: Path, options: list[str]) -> float:
    """Seconds that it took."""
    start = time.monotonic()
    subprocess.run(command(data, out, options), check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - start


def undisturbed(data: Path, out: Path, options: list[str]) -> tuple[float, float]:
    """Seconds until the first step was logged, and until the end."""
    start, begin = time.monotonic(), 0.0
    process = subprocess.Popen(command(data, out, options), stdout=subprocess.DEVNULL)
    while process.poll() is None and not begin:
        time.sleep(0.1)
        begin = time.monotonic() - start if read_metrics(out) else 0.0
    if process.wait():
        raise SystemExit(f"the undisturbed run ended with exit code {process.returncode}")
    return begin, time.monotonic() - start


def moments(draw: random.Random, number: int, *, begin: float, end: float) -> list[float]:
    """After how many seconds to kill: so that `number` kills come about before a run has ended,
    at any moment of it, its start included."""
    latest = begin + 2 * (end - begin) / number
    return [draw.uniform(begin / 2, latest) for _ in range(number)]


def kills(data: Path, out: Path, options: list[str], delays: list[float]) -> Iterator[Kill]:
    """Runs that are killed after so many seconds each, unless they end before."""
    for delay in delays:
        start = time.monotonic()
        process = subprocess.Popen(
            command(data, out, options), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            process.wait(delay)
            return
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        yield after(out, seconds=time.monotonic() - start)


def after(out: Path, *, seconds: float) -> Kill:
    """What a kill left.

    Raises:
      ValueError: no checkpoint there is whole.
    """
    folder = out / "checkpoints"
    done = [record["step"] for record in read_metrics(out)]
    saving = any(folder.glob("*.orbax-checkpoint-tmp*"))
    return Kill(seconds, saving, max(done, default=0), newest_verified(folder))


def different(one: Path, two: Path) -> list[str]:
    """The parameters of two runs' models that are not the same bit for bit."""
    trees = [load(folder / "model").params for folder in (one, two)]
    leaves = [jax.tree_util.tree_leaves_with_path(tree) for tree in trees]
    return [
        jax.tree_util.keystr(path)
        for (path, a), (_, b) in zip(*leaves, strict=True)
        if np.asarray(a).tobytes() != np.asarray(b).tobytes()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="corpus, or text")
    parser.add_argument("--out", type=Path, required=True, help="new folder")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("options", nargs="*", default=SMALL, help="of pretrain, after --")
    chosen = parser.parse_args()
    straight, killed = chosen.out / "straight", chosen.out / "killed"
    begin, end = undisturbed(chosen.data, straight, chosen.options)
    print(f"undisturbed: {end:.1f} s, the first step after {begin:.1f} s")
    delays = moments(random.Random(chosen.seed), chosen.kills, begin=begin, end=end)
    print("| kill | after, s | during a save | last step logged | newest whole step |")
    print("|---|---|---|---|---|")
    for number, kill in enumerate(kills(chosen.data, killed, chosen.options, delays), 1):
        saving = "yes" if kill.saving else "no"
        print(f"| {number} | {kill.seconds:.1f} | {saving} | {kill.done} | {kill.whole or '–'} |")
    run_to_the_end(chosen.data, killed, chosen.options)
    lost = different(straight, killed)
    print(f"parameters that differ from the undisturbed run's: {len(lost)}", *lost)
    raise SystemExit(bool(lost))


if __name__ == "__main__":
    main()

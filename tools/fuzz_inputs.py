# SPDX-License-Identifier: Apache-2.0
"""Mutates valid inputs of every reader and gives them to the command line's own door.

    python tools/fuzz_inputs.py OUT [--inputs 20000] [--seconds 3000] [--seed 0] [--workers 2]

Inputs are answered in forked children with a bound on time and memory: a crash, a hang or a
traceback is caught and kept under OUT/faults with what was given. An input is well treated where it
is answered (exit code 0) or refused in one line of standard error that names it (exit code 1 or 2).
Figures are written to OUT/fuzzing.json.
"""

import argparse
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from importlib import import_module
from pathlib import Path

from fuzz_mutations import change
from fuzz_readers import Reader, make_shared, readers

SECONDS = 20  # of processor time that an input may take, and half of those that it may wait
TICK = 0.05  # seconds
BATCH = 1000  # inputs that a child tries
VERBS = ("agora", "convert", "cost", "data", "extract", "finetune", "predict", "pretrain", "submit")
MEMORY = 3 << 30  # bytes of address space beyond what the parent has
LONGEST_LINE = 1000
SHARED = "shared"  # what several inputs are made from


def fault_of(code: int, err: str, seconds: float) -> str:
    """What is wrong with an ending, or nothing."""
    lines = [line for line in err.splitlines() if line.startswith("bort-jax:")]
    if seconds >= SECONDS:
        return "took too long"
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    if "Traceback (most recent call last)" in err or "panicked at" in err:
        return "a traceback"
    if code == 0:
        return "a refusal with exit code 0" if lines else ""
    if code not in (1, 2):
        return f"exit code {code}"
    if len(lines) != 1:
        return f"{len(lines)} lines of refusal"
    if len(lines[0]) > LONGEST_LINE:
        return f"a line of {len(lines[0])} characters"
    if lines[0].startswith("bort-jax: unexpected "):
        return "an error that nobody expected"
    return "more than the one line" if len(err.splitlines()) > 1 else ""


def attempt(argv: list[str], errors: Path) -> tuple[int, str, float]:
    """Exit code, standard error and processor seconds of a command, through the door, in this
    process."""
    from bort_jax import cli
    from bort_jax.commands.convert import read_source

    began, code = time.process_time(), 0
    with open(errors, "wb") as file:
        os.dup2(file.fileno(), 2)
    try:
        if argv[0] == "read":
            with cli.door({}):
                read_source(Path(argv[1]), heads=2)
        else:
            cli.main(argv)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
        code = 3
    sys.stderr.flush()
    return code, errors.read_text("utf-8", "replace"), time.process_time() - began


def try_one(reader: Reader, valid: Path, scratch: Path, seed: int) -> tuple[str, str, bool]:
    """Mutates a file of a valid input; returns what is wrong, standard error, and if answered."""
    generator = random.Random(seed)
    at, out = scratch / "in", scratch / "out"
    for folder in (at, out):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(valid, at)
    files = sorted({f for pattern in reader.files for f in at.glob(pattern) if f.is_file()})
    change(generator.choice(files), files, generator)
    argv = reader.argv.format(at=at, out=out, shared=valid.parent / SHARED).split()
    code, err, seconds = attempt(argv, scratch / "stderr")
    return fault_of(code, err, seconds), err, code == 0


def some_inputs(args, kinds: list[Reader], numbers: list[int], scratch: Path) -> None:
    """Tries inputs one after the other, in a child, and writes a line for each."""
    silence()
    with (scratch / "lines").open("a", buffering=1) as lines:
        for k in numbers:
            reader, seed = kinds[k % len(kinds)], args.seed * 10**9 + k
            limit_memory()
            fault, err, answered = try_one(reader, args.valid / reader.name, scratch, seed)
            if fault:
                keep(args.out / "faults", scratch, reader, seed, fault, err)
            what = f"fault: {fault}" if fault else "answered" if answered else "refused"
            lines.write(f"{k}\t{reader.name}\t{what}\n")


def silence() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def limit_memory() -> None:
    """Allows `MEMORY` beyond what is in use: programs of earlier inputs stay compiled."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))


def watch(child: int, lines: Path) -> str:
    """Waits for a child; returns why it ended early, or nothing. No new line for long: a hang.

    Ticks are counted: this process may have been stopped as well."""
    size, idle = -1, 0
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return f"killed by {signal.Signals(-code).name}" if code < 0 else f"{code}" * bool(code)
        now = lines.stat().st_size if lines.exists() else 0
        size, idle = now, (idle + 1 if now == size else 0)
        if idle * TICK > 2 * SECONDS:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "took too long"
        time.sleep(TICK)


def keep(folder: Path, scratch: Path, reader: Reader, seed: int, fault: str, err: str) -> None:
    """Leaves a fault to be looked at, the first of each kind."""
    place = folder / f"{reader.name} {fault}"
    if place.exists():
        return
    shutil.copytree(scratch / "in", place / "in")
    (place / "stderr").write_text(err[:100_000])
    (place / "command").write_text(f"seed {seed}\n{reader.argv}\n")


def check_valid(kinds: list[Reader], valid: Path) -> None:
    """Raises SystemExit where an input that nothing was done to is not answered."""
    kept = os.dup(2)
    with tempfile.TemporaryDirectory() as folder:
        for reader in kinds:
            places = {"at": Path(folder, "in", reader.name), "out": f"{folder}/{reader.name}"}
            shutil.copytree(valid / reader.name, places["at"])
            argv = reader.argv.format(**places, shared=valid / SHARED).split()
            code, err, _ = attempt(argv, Path(folder, "stderr"))
            os.dup2(kept, 2)
            if code:
                raise SystemExit(f"{reader.name} is not answered: {err}")


def worker(number: int, args: argparse.Namespace, ending: float) -> None:
    """Every n-th input, BATCH of them in a child; a line for each goes to a file."""
    kinds = [
        kind
        for kind in readers(args.valid / SHARED)
        for _ in range(kind.turns)
        if kind.name in (args.only or kind.name)
    ]
    for verb in VERBS:  # once, and not in every child; no device is touched by it
        import_module(f"bort_jax.commands.{verb}")
    numbers = list(range(number, args.inputs, args.workers))
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        while numbers and time.monotonic() < ending:
            (scratch / "lines").unlink(missing_ok=True)
            child = os.fork()
            if child == 0:
                some_inputs(args, kinds, numbers[:BATCH], scratch)
                os._exit(0)
            why = watch(child, scratch / "lines")
            done = (scratch / "lines").read_text().splitlines()
            if why and len(done) < BATCH:
                k = numbers[len(done)]
                reader = kinds[k % len(kinds)]
                said = (scratch / "stderr").read_text("utf-8", "replace")
                keep(args.out / "faults", scratch, reader, args.seed * 10**9 + k, why, said)
                done.append(f"{k}\t{reader.name}\tfault: {why}")
            with (args.out / f"lines{number}").open("a") as lines:
                lines.write("".join(line + "\n" for line in done))
            numbers = numbers[len(done) :]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", nargs="*", help="kinds of inputs; all without it")
    args = parser.parse_args()
    (args.out / "faults").mkdir(parents=True, exist_ok=True)
    os.environ |= {
        "JAX_COMPILATION_CACHE_DIR": str(args.out.absolute() / "xla"),
        "BORT_JAX_UNCOMPARED": "1",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    args.valid = args.out.absolute() / "valid"
    prepare(args.valid)
    began = time.monotonic()
    ending = began + args.seconds
    children = []
    for number in range(args.workers):
        child = os.fork()
        if child == 0:
            worker(number, args, ending)
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    report(args.out, time.monotonic() - began)


def prepare(valid: Path) -> None:
    """The valid inputs, written in a child: they compile, and start threads."""
    child = os.fork()
    if child == 0:
        every = readers(valid / SHARED)
        for reader in [Reader(SHARED, make_shared, (), ""), *every]:
            if not (valid / reader.name).is_dir():
                (valid / reader.name).mkdir(parents=True)
                reader.make(valid / reader.name)
        check_valid(every, valid)
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        raise SystemExit("the valid inputs could not be written")


def report(out: Path, seconds: float) -> None:
    """Adds the workers' counts up, and prints a table."""
    total: Counter = Counter()
    for file in out.glob("lines*"):
        total.update(line.partition("\t")[2] for line in file.read_text().splitlines())
    inputs, faults = sum(total.values()), {k: n for k, n in total.items() if "fault" in k}
    record = {"inputs": inputs, "seconds": round(seconds), "counts": dict(sorted(total.items()))}
    (out / "fuzzing.json").write_text(json.dumps(record, indent=1))
    kinds = sorted({key.split("\t")[0] for key in total})
    print(f"{inputs:,} inputs in {seconds:,.0f} s, {sum(faults.values())} faults")
    for kind in kinds:
        good = [total[f"{kind}\t{what}"] for what in ("answered", "refused")]
        wrong = {k.split("fault: ")[1]: n for k, n in faults.items() if k.startswith(kind + "\t")}
        print(f"{kind:15} {good[0]:6} answered {good[1]:6} refused  {wrong or ''}")


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Nothing is lost: checkpoints, damage, kills, signals."""

import errno
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import jax
import kill_pretrain
import numpy as np
import pytest
from command_line import one_device
from helpers import TINY_RUN, options_of, pretrain_config, trees_equal

from bort_jax.engine.checkpoint import (
    Checkpoints,
    OtherRun,
    best_verified,
    newest_verified,
    read_step,
    steps,
)
from bort_jax.engine.loop import read_metrics
from bort_jax.engine.signals import Interrupted, stop_signals
from bort_jax.interop import load, save
from bort_jax.stages.pretrain.run import pretrain
from bort_jax.storage.run_folder import (
    RunMismatch,
    claim,
    claim_inputs,
    explain_full_disk,
    read_claim,
)
from bort_jax.storage.seal import faults, is_sealed, seal

TREE = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.int32(4)}
WHO = {"architecture": "D1-A1-H8-I8", "tokenizer": "ab", "data manifest": "cd"}


def files_of(folder):
    return [file for file in folder.rglob("*") if file.is_file()]


def tree_of(step):
    return TREE | {"n": np.int32(step)}


def saved(folder, *these, **options):
    """A folder in which these steps are finished."""
    checkpoints = Checkpoints(folder, identity=WHO, **options)
    for step in these:
        checkpoints.save(step, tree_of(step))
    checkpoints.close()
    return folder


def newest(folder, like=TREE):
    step = newest_verified(folder)
    return step and read_step(folder / str(step), like, identity=WHO)["n"]


def test_saving_returns_before_it_is_finished_and_keeps_what_it_was_given(tmp_path, monkeypatch):
    """The arrays change, and the step is not sealed, while it is being written."""
    begun = threading.Event()
    slowly = lambda folder: begun.wait(30) and seal(folder)
    monkeypatch.setattr("bort_jax.engine.checkpoint.seal", slowly)
    checkpoints, tree = Checkpoints(tmp_path, identity=WHO), tree_of(1)
    tree["a"] = tree["a"].copy()
    checkpoints.save(1, tree)
    tree["a"][:] = -1
    assert newest(tmp_path) is None
    begun.set()
    checkpoints.close()
    assert trees_equal(read_step(tmp_path / "1", TREE, identity=WHO), tree_of(1))


def test_a_donated_state_is_saved_as_it_was(tmp_path):
    """On CPU a host's view of an array shares its memory, which the next step may take."""
    add = jax.jit(lambda x: x + 1, donate_argnums=0)
    checkpoints, x = Checkpoints(tmp_path), jax.numpy.zeros((64, 64))
    for step in range(1, 6):
        x = add(x)
        checkpoints.save(step, {"x": x})
        x = add(add(x))
    checkpoints.close()
    kept = Checkpoints(tmp_path).restore({"x": np.zeros((64, 64), np.float32)})
    assert (kept["x"] == 13).all()


def test_the_last_and_the_best_stay(tmp_path):
    losses = {1: 3.0, 2: 1.0, 3: 2.0, 4: None, 5: float("nan"), 6: 2.5}
    checkpoints = Checkpoints(tmp_path, keep=2, keep_best=2)
    for step, loss in losses.items():
        checkpoints.save(step, tree_of(step), heldout_loss=loss)
    checkpoints.close()
    assert steps(tmp_path) == [2, 3, 5, 6] and best_verified(tmp_path) == 2
    (tmp_path / "2" / "state" / "_METADATA").unlink()
    assert best_verified(tmp_path) == 3
    assert steps(saved(tmp_path / "last", 1, 2, 3, keep=1)) == [3]


def test_older_steps_go_only_after_the_new_one_is_sealed(tmp_path, monkeypatch):
    def killed(folder):
        raise OSError("killed")

    saved(tmp_path, 1, keep=1)
    monkeypatch.setattr("bort_jax.engine.checkpoint.seal", killed)
    with pytest.raises(OSError, match="could not save step 2 to .*: killed; earlier steps stay"):
        saved(tmp_path, 2, keep=1)
    assert newest(tmp_path) == 1


def test_one_flipped_byte_in_any_file_falls_back_a_step_and_names_it(tmp_path, caplog):
    saved(tmp_path, 1, 2)
    whole = {file: file.read_bytes() for file in files_of(tmp_path / "2")}
    assert len(whole) > 8
    for file, content in whole.items():
        at = random.Random(str(file)).randrange(len(content))
        flipped = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
        file.write_bytes(flipped)
        assert newest(tmp_path) == 1, file
        named = [file.name in wrong for wrong in faults(tmp_path / "2")]
        assert any(named) or file.name == "sha256.json"
        file.write_bytes(content)
    assert newest(tmp_path) == 2
    assert "has another checksum); trying the one before" in caplog.text


@pytest.mark.parametrize("damage", ["missing", "truncated", "added"])
def test_other_damage_is_found(tmp_path, damage):
    saved(tmp_path, 1, 2)
    file = next(file for file in files_of(tmp_path / "2") if file.name == "_METADATA")
    {
        "missing": file.unlink,
        "truncated": lambda: file.write_bytes(file.read_bytes()[:-1]),
        "added": lambda: (file.parent / "more").write_text("x"),
    }[damage]()
    assert newest(tmp_path) == 1


def test_steps_fall_back_one_by_one_and_the_damaged_are_set_aside(tmp_path, caplog):
    saved(tmp_path, 1, 2, 3, 4, keep=4)
    for step in (3, 4):
        next((tmp_path / str(step) / "state" / "d").iterdir()).write_bytes(b"")
    (tmp_path / "5").mkdir()  # orbax would take it for the newest
    checkpoints = Checkpoints(tmp_path, identity=WHO, keep=4)
    assert checkpoints.restore(TREE)["n"] == 2
    assert f"{tmp_path / '5'} is unfinished" in caplog.text and "4 is damaged" in caplog.text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2", "3.damaged", "4.damaged"]
    checkpoints.save(3, tree_of(3))
    checkpoints.close()
    assert newest(tmp_path) == 3


def test_nothing_is_begun_anew_over_damaged_checkpoints(tmp_path):
    saved(tmp_path, 1)
    (tmp_path / "1" / "state" / "_METADATA").unlink()
    with pytest.raises(ValueError, match="every checkpoint in .*_METADATA is missing.*put a copy"):
        Checkpoints(tmp_path, identity=WHO).restore(TREE)


def test_nothing_to_restore_is_none(tmp_path):
    assert Checkpoints(tmp_path / "new").restore(TREE) is None


@pytest.mark.parametrize(
    "wrong, said",
    [
        (TREE["a"][:1], r"a: 'float32\[2, 3\]' there, 'float32\[1, 3\]'"),
        (TREE["a"].astype(np.float16), r"'float32\[2, 3\]' there, 'float16\[2, 3\]' asked for"),
    ],
)
def test_another_shape_or_type_is_refused(tmp_path, wrong, said):
    with pytest.raises(OtherRun, match=said):
        newest(saved(tmp_path, 1), TREE | {"a": wrong})


@pytest.mark.parametrize("name", WHO)
def test_another_identity_is_refused_naming_both(tmp_path, name):
    saved(tmp_path, 1)
    with pytest.raises(OtherRun, match=f"{name}: '{WHO[name]}' there, 'other' asked for"):
        Checkpoints(tmp_path, identity=WHO | {name: "other"}).restore(TREE)
    assert newest(tmp_path) == 1


def test_a_run_whose_text_has_changed_is_refused(corpus, text_file, tmp_path):
    """The configuration is the same; the corpus in its folder is not."""
    text = tmp_path / "text.txt"
    text.write_text(text_file.read_text())
    wanted = pretrain_config(corpus, tmp_path / "out", data=str(text), vocab_size=300, steps=2)
    with pytest.raises(KeyboardInterrupt):
        pretrain(wanted, hooks=[StopAt(1)])
    text.write_text(text_file.read_text().replace("cat", "dog"))
    shutil.rmtree(tmp_path / "out" / "data")
    with pytest.raises(RunMismatch, match="corpus: '[0-9a-f]{12}…' there, '[0-9a-f]{12}…' asked"):
        pretrain(wanted)


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from bort_jax.engine.checkpoint import Checkpoints

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
big = {"a": np.random.default_rng(0).normal(size=(400, 400)), "n": np.int32(2)}
checkpoints = Checkpoints(Path(sys.argv[1]))
try:
    checkpoints.save(2, big)
    checkpoints.close()
except OSError as error:
    print(error)
"""


@pytest.mark.slow
def test_a_full_disk_keeps_the_last_checkpoint(tmp_path):
    """A limit on files stands for the disk, in a process of its own: orbax's threads outlive it."""
    saved(tmp_path, 1)
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert f"could not save step 2 to {tmp_path}" in done.stdout and "make room" in done.stdout
    assert newest(tmp_path) == 1


def test_a_full_disk_is_named_wherever_it_is_met(tmp_path):
    with pytest.raises(OSError, match="no room left for lines: what was finished is kept"):
        with explain_full_disk(tmp_path):
            raise OSError(errno.ENOSPC, "No space left on device", "lines")


def test_a_folder_of_another_configuration_is_refused_naming_it(corpus, tmp_path):
    claim(tmp_path, pretrain_config(corpus, tmp_path))
    (tmp_path / "data").mkdir()  # it has begun
    claim(tmp_path, pretrain_config(corpus, tmp_path))  # the same: fine
    with pytest.raises(RunMismatch, match="clip: 1.0 there, 2.0 asked for; steps: 6 there, 7"):
        claim(tmp_path, pretrain_config(corpus, tmp_path, steps=7, clip=2.0))


def test_a_folder_whose_run_was_refused_before_it_began_is_free(corpus, tmp_path):
    claim(tmp_path, pretrain_config(corpus, tmp_path))
    claim_inputs(tmp_path, {"rows": "a"})
    (tmp_path / "predictions.jsonl").touch()
    claim(tmp_path, wanted := pretrain_config(corpus, tmp_path, steps=7))
    claim_inputs(tmp_path, {"rows": "b"})
    assert read_claim(tmp_path)["steps"] == wanted.steps
    assert json.loads((tmp_path / "inputs.json").read_text()) == {"rows": "b"}


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"config": 3}', b"\xff\xfe{}"])
def test_a_damaged_run_file_is_named_with_what_to_do(corpus, tmp_path, content):
    (tmp_path / "run.json").write_bytes(content)
    (tmp_path / "data").mkdir()
    with pytest.raises(ValueError, match=r"run.json .*delete this file and it resumes"):
        claim(tmp_path, pretrain_config(corpus, tmp_path))


def test_a_seal_is_all_or_nothing(tmp_path):
    (tmp_path / "file").write_text("x")
    assert not is_sealed(tmp_path)
    seal(tmp_path)
    assert is_sealed(tmp_path) and not faults(tmp_path)
    assert list(json.loads((tmp_path / "sha256.json").read_text())) == ["file"]


class StopAt:
    """A hook that behaves as a kill after a step: nothing is saved."""

    def __init__(self, step):
        self.step = step

    def __call__(self, step, state, metrics):
        if step == self.step:
            raise KeyboardInterrupt


def resumed_is_straight(corpus, straight, out):
    """With dropout and accumulation: the same parameters and losses, bit for bit."""
    pretrain(pretrain_config(corpus, out, **TINY_RUN))
    assert trees_equal(*[load(folder / "model").params for folder in (straight, out)])
    losses = [[record["loss"] for record in read_metrics(folder)] for folder in (straight, out)]
    assert losses[0] == losses[1] and len(losses[0]) == 6


@pytest.mark.parametrize(
    "k", [pytest.param(1, marks=pytest.mark.slow), 4, pytest.param(5, marks=pytest.mark.slow)]
)
def test_resuming_is_the_straight_run_bit_for_bit(corpus, tiny_run, tmp_path, k):
    """Stopped before a checkpoint, right after one, after that."""
    with pytest.raises(KeyboardInterrupt):
        pretrain(pretrain_config(corpus, tmp_path, **TINY_RUN), hooks=[StopAt(k)])
    resumed_is_straight(corpus, tiny_run, tmp_path)


SIGNALLED = """
import os, sys
from helpers import PretrainConfig
from bort_jax.engine.signals import Interrupted
from bort_jax.stages.pretrain.run import pretrain

config, signum = eval(sys.argv[1]), int(sys.argv[2])
try:
    pretrain(config, hooks=[lambda step, *_: step == 3 and os.kill(os.getpid(), signum)])
except Interrupted as stop:
    sys.exit(stop.exit_code)
"""


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_ended_by_a_signal_resumes_to_the_straight_run(
    corpus, tiny_run, tmp_path, signum
):
    """SIGTERM saves the step that it interrupts; SIGKILL leaves the last save."""
    wanted = pretrain_config(corpus, tmp_path / "out", **TINY_RUN)
    command = [sys.executable, "-c", SIGNALLED, repr(wanted), str(int(signum))]
    path = f"{Path(__file__).parent}:{os.environ.get('PYTHONPATH', '')}"
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, check=False)
    saved = newest_verified(tmp_path / "out" / "checkpoints")
    if signum == signal.SIGKILL:
        assert done.returncode == -signum and saved in (None, 2)
    else:
        assert done.returncode == 128 + signum and saved in (3, 4)
    resumed_is_straight(corpus, tiny_run, tmp_path / "out")


def test_sigint_in_the_process_saves_the_step(corpus, tmp_path):
    signum = signal.SIGINT
    wanted = pretrain_config(corpus, tmp_path / "out", steps=400, save_every=1000)

    def interrupt_soon():
        while len(read_metrics(tmp_path / "out")) < 3:
            pass
        os.kill(os.getpid(), signum)

    killer = threading.Thread(target=interrupt_soon)
    killer.start()
    with pytest.raises(Interrupted) as stop:
        pretrain(wanted)
    killer.join()
    assert stop.value.exit_code == 128 + signum
    (step,) = steps(tmp_path / "out/checkpoints")
    assert 3 <= step < 400 and not faults(tmp_path / "out/checkpoints" / str(step))
    assert f"after step {step};" in str(stop.value)


def test_signals_are_as_before_afterwards():
    before = signal.getsignal(signal.SIGTERM)
    with stop_signals() as stop:
        assert stop.poll() == 0
        os.kill(os.getpid(), signal.SIGTERM)
        until(lambda: stop.poll() == signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before and signal.set_wakeup_fd(-1) == -1


def until(holds, seconds=60):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


SECOND_SIGNAL = """
import signal, sys
import jax
from bort_jax.engine.signals import stop_signals

# Tracing and compiling take minutes.
slow = jax.jit(lambda x: sum(jax.numpy.sin(x * k) @ x for k in range(20000)))
with stop_signals():
    print("compiling", flush=True)
    lowered = slow.lower(jax.numpy.ones((2, 2))).compile()
"""


@pytest.mark.slow
def test_a_second_signal_ends_even_a_compilation_at_once():
    command = [sys.executable, "-c", SECOND_SIGNAL]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.readline()
    time.sleep(2)
    process.send_signal(signal.SIGTERM)
    assert "SIGTERM: stops after this step" in process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 143 and "SIGTERM again: stopped at once" in errors


PHASES = """
import sys, time
from bort_jax.cli import main
from bort_jax.stages.pretrain import training as stage

phase, argv = sys.argv[1], sys.argv[2:]
batches, heldout_score, once = stage.batches, stage.heldout_score, []


def say():
    if not once:
        once.append(print(phase, flush=True))


def said_batches(*arguments, **options):
    for index, batch in enumerate(batches(*arguments, **options)):
        if index == {"compiling": 0, "training": 3}.get(phase):
            say()
        if phase == "training":
            time.sleep(0.02)
        yield batch


def said_score(setup, *, rows, between):
    def slowly():
        if phase == "evaluating":
            say()
            time.sleep(1)
        between()

    return heldout_score(setup, rows=rows, between=slowly)


stage.batches, stage.heldout_score = said_batches, said_score
main(argv)
"""


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["compiling", "training", "evaluating"])
def test_sigterm_in_every_phase_leaves_the_last_good_step(corpus, tmp_path, phase):
    out = tmp_path / "out"
    wanted = pretrain_config(corpus, out, steps=100_000, save_every=100_000, eval_every=2)
    command = [sys.executable, "-c", PHASES, phase, "pretrain", *options_of(wanted)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline().strip() == phase
    process.terminate()
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGTERM, errors
    (step,) = steps(out / "checkpoints")
    assert f"stopped after step {step}; the same command resumes" in errors
    assert not faults(out / "checkpoints" / str(step))
    records = read_metrics(out)
    assert records[-1]["step"] == step == {"compiling": 1, "evaluating": 2}.get(phase, step)
    if phase == "evaluating":  # what was being measured is left, not waited for
        assert "heldout_loss" not in records[-1]


@pytest.mark.slow
def test_kills_at_random_moments_lose_nothing(corpus, tmp_path):
    """The tool's own run, with fewer kills; the last may come when the run has ended."""
    wanted = pretrain_config(corpus, "", steps=300, save_every=3, eval_every=50)
    options = options_of(wanted, without=("data", "out"))
    data = corpus.train.folder.parent
    seconds = kill_pretrain.run_to_the_end(data, tmp_path / "straight", options)
    delays = [random.uniform(0.4, 0.95) * seconds for _ in range(3)]
    for kill in kill_pretrain.kills(data, tmp_path / "killed", options, delays):
        assert kill.whole is None or kill.done - 6 <= kill.whole
    kill_pretrain.run_to_the_end(data, tmp_path / "killed", options)
    assert kill_pretrain.different(tmp_path / "straight", tmp_path / "killed") == []


def test_the_tool_sees_a_parameter_that_differs(tiny, tmp_path):
    other = jax.tree.map(np.copy, tiny.params)
    other["encoder"]["embeddings"]["word"]["embedding"][0, 0] += 1e-7
    save(tiny, tmp_path / "one" / "model")
    save(replace(tiny, params=other), tmp_path / "two" / "model")
    assert len(kill_pretrain.different(tmp_path / "one", tmp_path / "two")) == 1


FAULTS = """
import os, sys, time
from bort_jax.cli import main
from bort_jax.stages.pretrain import training as stage

fault, argv = sys.argv[1], sys.argv[2:]
batches = stage.batches
actions = {
    "none": lambda: None,
    "killed": lambda: os.kill(os.getpid(), 9),
    "raising": lambda: 1 / 0,
    "stuck": lambda: time.sleep(1000),
}


def faulty(*arguments, **options):
    for index, batch in enumerate(batches(*arguments, **options)):
        if index == 5:
            actions[fault]()
        yield batch


stage.batches = faulty
main(argv)
"""


def two_processes(wanted, *faults, stall="9"):
    """Two processes with one device each over loopback, each with its fault."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = one_device() | {"BORT_JAX_STALL_SECONDS": stall}
    place = ["--coordinator", f"127.0.0.1:{port}", "--processes", "2", "--process"]
    return [
        subprocess.Popen(
            [sys.executable, "-c", FAULTS, fault, "pretrain", *options_of(wanted), *place, str(k)],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for k, fault in enumerate(faults)
    ]


def ended(processes, seconds):
    """[(exit code, what it said), …], all within so many seconds."""
    deadline = time.monotonic() + seconds
    try:
        said = [
            process.communicate(timeout=deadline - time.monotonic())[1] for process in processes
        ]
    finally:
        for process in processes:
            process.kill()
    return [(p.returncode, text) for p, text in zip(processes, said, strict=True)]


@pytest.fixture(scope="module")
def straight_of_two(corpus, tmp_path_factory):
    """The folder of a run of two processes that nothing disturbed, without dropout."""
    folder = tmp_path_factory.mktemp("two")
    wanted = pretrain_config(corpus, folder)
    for code, said in ended(two_processes(wanted, "none", "none"), 240):
        assert code == 0, said
    return folder


@pytest.mark.slow
def test_four_devices_continue_what_two_processes_began(corpus, straight_of_two, tmp_path):
    shutil.copytree(straight_of_two, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "checkpoints" / "6")
    (tmp_path / "scores.json").unlink()
    pretrain(pretrain_config(corpus, tmp_path))
    two, four = (load(folder / "model").params for folder in (straight_of_two, tmp_path))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), two, four)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault, code, reason",
    [
        ("killed", -signal.SIGKILL, "rank 1 failed: no sign of life for"),
        ("raising", 1, "rank 1 failed: ZeroDivisionError: division by zero"),
        ("stuck", 75, "rank 1 failed: stuck for .* since it began step 5; the others wait for it"),
    ],
)
def test_one_process_gone_ends_the_other_with_rank_and_reason(
    corpus, straight_of_two, tmp_path, fault, code, reason
):
    """Within a minute of the fault; then a restart continues, and ends as if nothing had been."""
    wanted = pretrain_config(corpus, tmp_path)
    processes = two_processes(wanted, "none", fault)
    until(lambda: read_metrics(tmp_path)[4:], seconds=300)
    (zero, said), (one, _) = ended(processes, 60)
    assert (zero, one) == (75, code), said
    assert re.search("rank 0 of 2 in step 6: " + reason, said), said
    if fault == "killed":
        for code, said in ended(two_processes(wanted, "none", "none"), 240):
            assert code == 0, said
        folders = (straight_of_two, tmp_path)
        assert trees_equal(*[load(folder / "model").params for folder in folders])


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_after_the_same_step(corpus, tmp_path):
    wanted = pretrain_config(
        corpus, tmp_path, steps=100_000, save_every=100_000, eval_every=100_000
    )
    processes = two_processes(wanted, "none", "none")
    until(lambda: len(read_metrics(tmp_path)) > 2, seconds=300)
    processes[1].terminate()
    results = ended(processes, 60)
    (step,) = steps(tmp_path / "checkpoints")
    for code, said in results:
        assert code == 128 + signal.SIGTERM and f"stopped after step {step};" in said, said

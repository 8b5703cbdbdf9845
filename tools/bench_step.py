# SPDX-License-Identifier: Apache-2.0
"""Training step of a masked LM: this model and torch, in turns, with the peak memory of each.

    python tools/bench_step.py --archs bort --batches 8 32

Rows of 128 tokens, 19 masked positions gathered before the vocabulary, AdamW, clipping. Each
contestant is a process of its own that waits for its turn; medians over the repeats. torch, where
it is installed, runs as it comes and, on CPUs, as `torch-huge`, with a malloc that asks for huge
pages, as ours does; on GPUs, with `--compiled`, also through torch.compile. `--remat none dots
full` races policies of activation checkpointing, `--stock dot_general Dropout` parts of
model/cpu.py against what flax has in their place. Parameters are float32; with `--dtype bfloat16`
activations are not (torch: autocast). Memory is the process's, or the GPU's. Where other programs
run, `--clock cpu` counts the seconds that the process computed, on all cores together.
"""

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NamedTuple, cast

import numpy as np

LENGTH, MASKED, VOCAB = 128, 19, 50265
WARM_UP, STEADY = 2, 4
TIMED = 20  # steps in a row on an accelerator, where none waits for the one before
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}  # as `bort-jax pretrain --huge-pages`
SHARED = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # one GPU has room for all


def main() -> None:
    parser = argparse.ArgumentParser(description="Training step: this model and torch, in turns")
    parser.add_argument("--archs", nargs="+", default=["bort"])
    parser.add_argument("--batches", nargs="+", type=int, default=[8, 32])
    parser.add_argument("--dropout", nargs="+", type=float, default=[0.0, 0.1])
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--remat", nargs="+", default=["none"], choices=("none", "dots", "full"))
    parser.add_argument("--stock", nargs="+", default=[], choices=("dot_general", "Dropout"))
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--without-torch", action="store_true")
    parser.add_argument("--compiled", action="store_true", help="also torch.compile, on GPUs")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--turn", nargs=6, help=argparse.SUPPRESS)  # a contestant's own process
    given = parser.parse_args()
    if given.turn:
        name, clock, arch, batch, dropout, dtype = given.turn
        make = torch_step if name.startswith("torch") else our_step
        step = make(name, arch, batch_of(int(batch)), float(dropout), dtype)
        take_turns(step, CLOCKS[clock])
    else:
        race(given)


def race(given: argparse.Namespace) -> None:
    names = given.remat + [f"stock {part}" for part in given.stock]
    names += [] if given.without_torch else in_torch(given)
    print(f"{given.dtype}; {given.clock} s a step, median (min to max)")
    for arch in given.archs:
        for batch in given.batches:
            for dropout in given.dropout:
                setting = (arch, str(batch), str(dropout), given.dtype)
                compare(names, setting, clock=given.clock, repeats=given.repeats)


def in_torch(given: argparse.Namespace) -> list[str]:
    if not (find_spec("torch") and find_spec("transformers")):
        return []
    import torch

    if torch.cuda.is_available():
        return ["torch", "torch-compile"] if given.compiled else ["torch"]
    return ["torch", "torch-huge"]


def compare(names: list[str], setting: tuple[str, ...], *, clock: str, repeats: int) -> None:
    racers = {name: Racer(name, clock, setting) for name in names}
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(repeats):
        for name, racer in racers.items():
            times[name].append(racer.turn())
    first = np.median(times[names[0]])
    for name, racer in racers.items():
        taken = times[name]
        spread = f"{np.median(taken):7.4f} ({min(taken):.4f} to {max(taken):.4f})"
        print(
            f"{setting[0]} {setting[1]} x {LENGTH}, dropout {setting[2]}  {name:17} {spread:24} "
            f"{names[0]} / it {first / np.median(taken):.2f}, first call {racer.first_call:.1f} s, "
            f"peak {racer.end():,.0f} MB",
            flush=True,
        )


class Racer:
    """A contestant in a process of its own."""

    def __init__(self, name: str, clock: str, setting: tuple[str, ...]):
        self.command = [sys.executable, __file__, "--turn", name, clock, *setting]
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | SHARED | ({} if name == "torch" else HUGE_PAGES),
        )
        self.first_call = float(self._read())

    def _read(self) -> str:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{' '.join(self.command)} failed")
        return line

    def turn(self) -> float:
        assert self.process.stdin
        print("turn", file=self.process.stdin, flush=True)
        return float(self._read())

    def end(self) -> float:
        """Peak resident memory, MB."""
        assert self.process.stdin
        print("end", file=self.process.stdin, flush=True)
        return float(self._read())


def take_turns(step: "Step", clock: Callable[[], float]) -> None:
    """Answers each line of stdin: seconds of a step, and at the end the peak memory."""
    print(seconds(step, 1, clock), flush=True)
    for _ in range(WARM_UP):
        step()
    for line in sys.stdin:
        if line.strip() == "end":
            break
        for _ in range(STEADY):  # a virtual machine takes back what is free while others have turns
            step()
        print(seconds(step, step.in_a_row, clock), flush=True)
    print(step.peak() / 1e6, flush=True)


class Step(NamedTuple):
    """A training step that goes on from the one before.

    Attributes:
      start: begins it, and says what will be there at its end.
      wait: until that is there.
      peak: most bytes of memory until now.
      in_a_row: so many are timed together.
    """

    start: Callable[[], Any]
    wait: Callable[[Any], Any]
    peak: Callable[[], float]
    in_a_row: int

    def __call__(self) -> None:
        self.wait(self.start())


def seconds(step: Step, steps: int, clock: Callable[[], float]) -> float:
    """Of one of so many in a row."""
    start = clock()
    for _ in range(steps - 1):
        step.start()
    step()
    return (clock() - start) / steps


def resident() -> float:
    return 1e3 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def batch_of(rows: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    chosen = [generator.permutation(LENGTH)[:MASKED] for _ in range(rows)]
    return {
        "ids": generator.integers(5, VOCAB, (rows, LENGTH)).astype(np.int32),
        "mask": np.ones((rows, LENGTH), bool),
        "positions": np.array(chosen).astype(np.int32),
        "labels": generator.integers(5, VOCAB, (rows, MASKED)).astype(np.int32),
        "weights": np.ones((rows, MASKED), np.float32),
    }


def our_step(name: str, arch: str, batch: dict, dropout: float, dtype: str) -> Step:
    """A step of the pretraining, as `bort-jax pretrain` runs it."""
    import jax

    from bort_jax.arch import Arch
    from bort_jax.engine.optimizer import Hyper
    from bort_jax.engine.parallel import parallel_step
    from bort_jax.engine.step import new_state
    from bort_jax.model import BertConfig, MaskedLM, random_params
    from bort_jax.stages.pretrain.objectives import masked_lm_loss

    config = BertConfig(Arch.parse(arch), VOCAB, dropout=dropout, dtype=dtype)
    if name.startswith("stock"):
        use_stock(name.split()[1])
        name = "none"
    model = MaskedLM(config, cast(Any, name))
    hyper = Hyper.of(learning_rate=1e-4, weight_decay=0.01, warmup_ratio=0.01, total_steps=1000)
    run = parallel_step(masked_lm_loss(model), optimizer="adamw", clip=1.0)
    held = [new_state(random_params(model, seed=0), hyper, optimizer="adamw")]

    def start():
        held[0], metrics = run(held[0], (), batch, jax.random.key(0))
        return held[0], metrics

    if jax.default_backend() == "cpu":
        return Step(start, jax.block_until_ready, resident, 1)
    peak = lambda: (jax.local_devices()[0].memory_stats() or {})["peak_bytes_in_use"]
    return Step(start, jax.block_until_ready, peak, TIMED)


def use_stock(part: str) -> None:
    """Puts flax's own in the place of a part of model/cpu.py."""
    import flax.linen as nn
    import jax

    from bort_jax.model import cpu

    general = lambda *args, matmul, **rest: jax.lax.dot_general(*args, **rest)
    setattr(cpu, part, {"dot_general": general, "Dropout": nn.Dropout}[part])


def torch_step(name: str, arch: str, batch: dict, dropout: float, dtype: str) -> Step:
    """The same in stock torch: transformers' encoder, gathered positions, tied decoder."""
    import torch
    import transformers

    from bort_jax.arch import Arch

    torch.set_float32_matmul_precision("high")  # TF32 where there is one, as jax's own default
    sizes = Arch.parse(arch)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = transformers.BertConfig(
        vocab_size=VOCAB,
        hidden_size=sizes.hidden,
        num_hidden_layers=sizes.depth,
        num_attention_heads=sizes.heads,
        intermediate_size=sizes.intermediate,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    model: Any = transformers.BertForMaskedLM(config)
    model = model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, weight_decay=0.01, fused=True)
    given = {key: torch.from_numpy(value).to(device) for key, value in batch.items()}
    rows = torch.arange(len(given["ids"]), device=device)[:, None]

    def loss_of() -> torch.Tensor:
        states = model.bert(given["ids"].long(), attention_mask=given["mask"].long())[0]
        logits = model.cls(states[rows, given["positions"].long()])
        return torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), given["labels"].flatten().long()
        )

    if name == "torch-compile":
        loss_of = torch.compile(loss_of)
    narrow = torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16")

    def start():
        optimizer.zero_grad(set_to_none=True)
        with narrow:
            loss = loss_of()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.detach()

    if device == "cpu":
        return Step(start, float, resident, 1)
    return Step(start, float, torch.cuda.max_memory_allocated, TIMED)


if __name__ == "__main__":
    main()

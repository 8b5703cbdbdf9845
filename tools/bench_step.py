# SPDX-License-Identifier: Apache-2.0
"""Training step of a masked LM: this model and torch, in turns, with the peak memory of each.

    python tools/bench_step.py --archs bort --batches 8 32

Rows of 128 tokens, 19 masked positions gathered before the vocabulary, AdamW, clipping. Each
contestant is a process of its own that waits for its turn; medians over the repeats. torch, where
it is installed, runs as it comes and, as `torch-huge`, with a malloc that asks for huge pages, as
ours does. `--executions loop-none scan-none scan-full` races ways of running the layers.
"""

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any, cast

import numpy as np

LENGTH, MASKED, VOCAB = 128, 19, 50265
WARM_UP, STEADY = 2, 4
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}  # as `bort-jax pretrain` starts itself


def main() -> None:
    parser = argparse.ArgumentParser(description="Training step: this model and torch, in turns")
    parser.add_argument("--archs", nargs="+", default=["bort"])
    parser.add_argument("--batches", nargs="+", type=int, default=[8, 32])
    parser.add_argument("--dropout", nargs="+", type=float, default=[0.0, 0.1])
    parser.add_argument("--executions", nargs="+", default=["loop-none"], help="such as scan-dots")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--turn", nargs=4, help=argparse.SUPPRESS)  # a contestant's own process
    given = parser.parse_args()
    if given.turn:
        name, arch, batch, dropout = given.turn
        take_turns(name, arch, int(batch), float(dropout))
    else:
        race(given)


def race(given: argparse.Namespace) -> None:
    torch = ["torch", "torch-huge"] if find_spec("torch") and find_spec("transformers") else []
    names = given.executions + torch
    print("s a step, median (min to max)")
    for arch in given.archs:
        for batch in given.batches:
            for dropout in given.dropout:
                compare(names, (arch, str(batch), str(dropout)), repeats=given.repeats)


def compare(names: list[str], setting: tuple[str, ...], *, repeats: int) -> None:
    racers = {name: Racer(name, setting) for name in names}
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(repeats):
        for name, racer in racers.items():
            times[name].append(racer.turn())
    first = np.median(times[names[0]])
    for name, racer in racers.items():
        taken = times[name]
        spread = f"{np.median(taken):6.3f} ({min(taken):.3f} to {max(taken):.3f})"
        print(
            f"{setting[0]} {setting[1]} x {LENGTH}, dropout {setting[2]}  {name:10} {spread:24} "
            f"{names[0]} / it {first / np.median(taken):.2f}, first call {racer.first_call:.1f} s, "
            f"peak {racer.end():,.0f} MB",
            flush=True,
        )


class Racer:
    """A contestant in a process of its own."""

    def __init__(self, name: str, setting: tuple[str, ...]):
        self.command = [sys.executable, __file__, "--turn", name, *setting]
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | ({} if name == "torch" else HUGE_PAGES),
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


def take_turns(name: str, arch: str, batch: int, dropout: float) -> None:
    """Answers each line of stdin: seconds of a step, and at the end the peak memory."""
    make = torch_step if name.startswith("torch") else partial(our_step, name)
    step = make(arch, batch_of(batch), dropout)
    print(seconds(step), flush=True)
    for _ in range(WARM_UP):
        step()
    for line in sys.stdin:
        if line.strip() == "end":
            break
        for _ in range(STEADY):  # a virtual machine takes back what is free while others have turns
            step()
        print(seconds(step), flush=True)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, flush=True)


def seconds(step: Callable) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


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


def our_step(name: str, arch: str, batch: dict, dropout: float) -> Callable:
    """A step of the pretraining, as `bort-jax pretrain` runs it."""
    import jax

    from bort_jax.arch import Arch
    from bort_jax.model import BertConfig, Execution, MaskedLM, drawn_params
    from bort_jax.train.objectives import plain_loss
    from bort_jax.train.optimizer import Hyper
    from bort_jax.train.parallel import new_state, parallel_step

    layers, remat = cast(Any, name.split("-"))
    model = MaskedLM(
        BertConfig(Arch.parse(arch), VOCAB, dropout=dropout),
        Execution(layers, remat),
    )
    hyper = Hyper.of(learning_rate=1e-4, weight_decay=0.01, warmup_ratio=0.01, total_steps=1000)
    run = parallel_step(plain_loss(model), optimizer="adamw", clip=1.0)
    held = [new_state(drawn_params(model, seed=0), hyper, optimizer="adamw")]

    def step():
        held[0], metrics = run(held[0], (), batch, jax.random.key(0))
        jax.block_until_ready((held[0], metrics))

    return step


def torch_step(arch: str, batch: dict, dropout: float) -> Callable:
    """The same in stock torch: transformers' encoder, gathered positions, tied decoder."""
    import torch
    import transformers

    from bort_jax.arch import Arch

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

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        float(loss.detach())

    return step


if __name__ == "__main__":
    main()

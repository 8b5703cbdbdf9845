# SPDX-License-Identifier: Apache-2.0
"""Forward pass of an encoder: this model, torch and ONNX Runtime, in turns, as ratios.

    python tools/bench_inference.py --archs bort bert-base bert-large
    python tools/bench_inference.py --archs bort --dtype bfloat16 --compiled

Whole hidden states, which stay on the device, no padding; weights and activations of one type;
medians over the repeats. Products of float32 run in TF32 on GPUs that have it, in torch too. Peers
that are not installed, or do not run on this device, are left out (`torch` and `transformers`; also
`onnxruntime` and `onnx`, on CPUs and in float32).
"""

import argparse
import functools
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import jax
import numpy as np

from bort_jax.arch import Arch
from bort_jax.interop import Checkpoint, save
from bort_jax.interop.onnx.folder import MODEL, save_onnx
from bort_jax.interop.onnx.session import run_rows
from bort_jax.model import BertConfig, Headless, forward, random_params

SHAPES = ((1, 128), (1, 512), (16, 128))
ON_CPU = jax.default_backend() == "cpu"
PAUSE = 0.3 if ON_CPU else 0.0  # seconds: threads of the runtime before are still spinning
VOCAB = 50265


def main() -> None:
    parser = argparse.ArgumentParser(description="Forward pass: this model and its peers, in turns")
    parser.add_argument("--archs", nargs="+", default=["bort"])
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--compiled", action="store_true", help="also torch.compile, minutes")
    parser.add_argument("--repeats", type=int, default=15 if ON_CPU else 101)
    given = parser.parse_args()
    print(
        f"{jax.devices()[0].device_kind}, jax {jax.__version__}, {given.dtype}; ms, median, range"
    )
    for name in given.archs:
        with TemporaryDirectory() as folder:
            compare(name, Path(folder), given)


def compare(name: str, folder: Path, given: argparse.Namespace) -> None:
    config = BertConfig(Arch.parse(name), VOCAB, dtype=given.dtype)
    params = random_params(Headless(config), seed=0)
    runs = {"ours": ours(config, params)}
    runs |= peers(config, params, folder, compiled=given.compiled)
    for batch, length in SHAPES:
        ids = np.random.default_rng(0).integers(5, VOCAB, (batch, length)).astype(np.int32)
        check_equal(runs, ids, within=1e-5 if ON_CPU and given.dtype == "float32" else 3e-2)
        times = interleaved(runs, ids, repeats=given.repeats)
        for peer, ms in times.items():
            ratio = np.median(times["ours"]) / np.median(ms)
            spread = f"{np.median(ms):7.2f} ({min(ms):.2f} to {max(ms):.2f})"
            line = f"{name:10} {batch:2} x {length:3}  {peer:14} {spread:26} ours / it {ratio:.2f}"
            print(line, flush=True)


def ours(config: BertConfig, params) -> Callable:
    model = Headless(config)
    params = jax.device_put(jax.tree.map(lambda x: x.astype(config.dtype), params))
    run = jax.jit(lambda params, ids, mask: forward(model, params, ids, mask))
    # Only the tokens come from the host: torch needs no mask where nothing is padding.
    mask = functools.cache(lambda shape: jax.device_put(np.ones(shape, bool)))
    return lambda ids: jax.block_until_ready(run(params, ids, mask(ids.shape)))


def peers(config: BertConfig, params, folder: Path, *, compiled: bool) -> dict[str, Callable]:
    if not (find_spec("torch") and find_spec("transformers")):
        return {}
    import torch
    import transformers

    torch.set_grad_enabled(False)
    torch.set_float32_matmul_precision("high")  # as jax's own default
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if (device == "cpu") != ON_CPU:
        return {}
    checkpoint = Checkpoint(config, params, headless=True)
    save(checkpoint, folder / "model")
    model = transformers.BertModel.from_pretrained(folder / "model", add_pooling_layer=False).eval()
    model = model.to(device=device, dtype=getattr(torch, config.dtype))  # pyright: ignore
    runs = {"torch": in_torch(model, device)}
    if compiled:
        # With CUDA graphs: at batch 1 the launches are most of the time otherwise.
        mode = "default" if ON_CPU else "reduce-overhead"
        runs["torch.compile"] = in_torch(torch.compile(model, mode=mode, dynamic=False), device)
    if find_spec("onnxruntime") and find_spec("onnx") and ON_CPU and config.dtype == "float32":
        runs["onnx runtime"] = onnx_runtime(checkpoint, folder / "onnx")
    return runs


def in_torch(model, device: str) -> Callable:
    import torch

    def run(ids: np.ndarray):
        states = model(torch.from_numpy(ids).to(device).long()).last_hidden_state
        if device == "cuda":
            torch.cuda.synchronize()
        return states

    return run


def onnx_runtime(checkpoint: Checkpoint, folder: Path) -> Callable:
    save_onnx(checkpoint, folder, source=folder)
    program = run_rows(checkpoint, folder / MODEL)
    return lambda ids: program(ids, np.ones(ids.shape, bool))


def check_equal(runs: dict[str, Callable], ids: np.ndarray, *, within: float) -> None:
    """A race is only one when all compute the same; also the warm-up."""
    expected = on_host(runs["ours"](ids))
    for peer, run in runs.items():
        difference = np.linalg.norm(on_host(run(ids)) - expected) / np.linalg.norm(expected)
        if not difference <= within:
            raise SystemExit(f"{peer} differs by {difference:.1e}: not the same computation")


def on_host(states) -> np.ndarray:
    return np.asarray(states.float().cpu() if hasattr(states, "cpu") else states, np.float32)


def interleaved(
    runs: dict[str, Callable], ids: np.ndarray, *, repeats: int
) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {peer: [] for peer in runs}
    for _ in range(repeats):
        for peer, run in runs.items():
            time.sleep(PAUSE)
            run(ids)  # its weights and memory are back where they are when it runs alone
            start = time.perf_counter()
            run(ids)
            times[peer].append(1e3 * (time.perf_counter() - start))
    return times


if __name__ == "__main__":
    main()

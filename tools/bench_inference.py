# SPDX-License-Identifier: Apache-2.0
"""Forward pass of an encoder: this model, torch and ONNX Runtime, in turns, as ratios.

    python tools/bench_inference.py --archs bort bert-base bert-large

float32, whole hidden states, no padding; medians over the repeats. Peers that are not installed
are left out (`torch` and `transformers`; also `onnxruntime` and `onnxscript`).
"""

import argparse
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import jax
import numpy as np

from bort_jax.arch import Arch
from bort_jax.interop import Checkpoint, save
from bort_jax.model import BertConfig, Headless, drawn_params, forward

SHAPES = ((1, 128), (1, 512), (16, 128))
PAUSE = 0.3  # seconds: threads of the runtime before are still spinning
VOCAB = 50265


def main() -> None:
    parser = argparse.ArgumentParser(description="Forward pass: this model and its peers, in turns")
    parser.add_argument("--archs", nargs="+", default=["bort"])
    parser.add_argument("--repeats", type=int, default=15)
    given = parser.parse_args()
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}; ms, median (min to max)")
    for name in given.archs:
        with TemporaryDirectory() as folder:
            compare(name, Path(folder), repeats=given.repeats)


def compare(name: str, folder: Path, *, repeats: int) -> None:
    config = BertConfig(Arch.parse(name), VOCAB)
    params = drawn_params(Headless(config), seed=0)
    runs = {"ours": ours(config, params)} | peers(config, params, folder)
    for batch, length in SHAPES:
        ids = np.random.default_rng(0).integers(5, VOCAB, (batch, length)).astype(np.int32)
        check_equal(runs, ids)
        times = interleaved(runs, ids, repeats=repeats)
        for peer, ms in times.items():
            ratio = np.median(times["ours"]) / np.median(ms)
            spread = f"{np.median(ms):7.1f} ({min(ms):.1f} to {max(ms):.1f})"
            print(f"{name:10} {batch:2} x {length:3}  {peer:14} {spread:26} ours / it {ratio:.2f}")


def ours(config: BertConfig, params) -> Callable:
    model, params = Headless(config), jax.device_put(params)
    run = jax.jit(lambda params, ids, mask: forward(model, params, ids, mask))
    return lambda ids: jax.block_until_ready(run(params, ids, np.ones(ids.shape, bool)))


def peers(config: BertConfig, params, folder: Path) -> dict[str, Callable]:
    if not (find_spec("torch") and find_spec("transformers")):
        return {}
    import torch
    import transformers

    torch.set_grad_enabled(False)
    save(Checkpoint(config, params, headless=True), folder / "model")
    model = transformers.BertModel.from_pretrained(folder / "model", add_pooling_layer=False).eval()
    eager = lambda ids: model(torch.from_numpy(ids).long()).last_hidden_state.numpy()
    if not (find_spec("onnxruntime") and find_spec("onnxscript")):
        return {"torch": eager}
    return {"torch": eager, "onnx runtime": onnx_runtime(model, folder / "model.onnx")}


def onnx_runtime(model, file: Path) -> Callable:
    import onnxruntime
    import torch

    class States(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, ids, mask):
            return self.model(input_ids=ids, attention_mask=mask).last_hidden_state

    free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}
    example = torch.ones((2, 16), dtype=torch.long)
    torch.onnx.export(
        States(),
        (example, example.clone()),  # one tensor twice would be exported as one input
        str(file),
        input_names=["ids", "mask"],
        dynamo=True,
        dynamic_shapes={"ids": free, "mask": free},
        verbose=False,
    )
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return lambda ids: session.run(
        None, {"ids": ids.astype(np.int64), "mask": np.ones(ids.shape, np.int64)}
    )[0]


def check_equal(runs: dict[str, Callable], ids: np.ndarray) -> None:
    """A race is only one when all compute the same; also the warm-up."""
    expected = np.asarray(runs["ours"](ids))
    for peer, run in runs.items():
        difference = np.abs(np.asarray(run(ids)) - expected).max()
        if difference > 1e-4:
            raise SystemExit(f"{peer} differs by {difference:.1e}: not the same computation")


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

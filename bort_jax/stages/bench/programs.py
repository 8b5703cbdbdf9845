# SPDX-License-Identifier: Apache-2.0
"""A checkpoint in every form that this machine can run: functions of tokens and mask."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from bort_jax.interop import Checkpoint, hf_class, save
from bort_jax.interop.onnx.bert import input_names
from bort_jax.interop.onnx.folder import MODEL, save_onnx
from bort_jax.interop.onnx.quantise import quantise, size_of
from bort_jax.interop.onnx.session import run_rows, stock_inputs
from bort_jax.interop.stablehlo import load_program, save_stablehlo
from bort_jax.model import forward
from bort_jax.stages.bench.accuracy import Program


class Form(NamedTuple):
    """A program by name, and the bytes that it takes on disk."""

    name: str
    run: Program
    bytes: int


def forms(checkpoint: Checkpoint, folder: Path, *, compiled: bool) -> Iterator[Form]:
    """Ours, StableHLO, ONNX in float32 and int8, torch; those whose packages are there.

    Args:
      compiled: torch.compile too, which takes minutes.
    """
    save_stablehlo(checkpoint, folder / "stablehlo")
    weights = (folder / "stablehlo" / "weights.safetensors").stat().st_size
    yield Form("this package", our_program(checkpoint), weights)
    program = load_program(folder / "stablehlo")
    everywhere = _everywhere(checkpoint)
    run = lambda ids, mask: np.asarray(program(ids, mask, *everywhere(ids)))
    yield Form("StableHLO", run, weights)
    if find_spec("onnxruntime") and find_spec("onnx"):
        save_onnx(checkpoint, folder / "onnx", source=folder)
        for name, file in (("ONNX float32", folder / "onnx" / MODEL), ("ONNX int8", None)):
            file = file or quantise(folder / "onnx")
            yield Form(name, run_rows(checkpoint, file), size_of(file))
    if find_spec("torch") and checkpoint.head != "choice":
        yield from _torch(checkpoint, folder / "hf", weights, compiled=compiled)


def our_program(checkpoint: Checkpoint) -> Program:
    params, everywhere = jax.device_put(checkpoint.params), _everywhere(checkpoint)
    run = jax.jit(lambda params, *inputs: forward(checkpoint.model, params, *inputs))
    return lambda ids, mask: np.asarray(run(params, ids, mask, *everywhere(ids)))


def _everywhere(checkpoint: Checkpoint):
    """Of a masked LM, all positions."""
    masked = checkpoint.head == "masked_lm"
    positions = lambda ids: np.tile(np.arange(ids.shape[1], dtype=np.int32), (len(ids), 1))
    return lambda ids: [positions(ids)] * masked


def _torch(checkpoint: Checkpoint, folder: Path, size: int, *, compiled: bool) -> Iterator[Form]:
    import torch
    import transformers

    save(checkpoint, folder)
    transformers.utils.logging.disable_progress_bar()
    plain = {"add_pooling_layer": False} if checkpoint.headless else {}
    inputs, taken = stock_inputs(checkpoint), len(input_names(checkpoint))
    model = getattr(transformers, hf_class(checkpoint)).from_pretrained(folder, **plain).eval()

    def runner(model) -> Program:
        def run(ids, mask):
            with torch.inference_mode():
                outputs = model(*map(torch.from_numpy, inputs(ids, mask)[:taken]))
            return (outputs.last_hidden_state if checkpoint.headless else outputs.logits).numpy()

        return run

    yield Form("torch", runner(model), size)
    if compiled:
        torch.compiler.reset()  # it counts the shapes of all models, and gives up after eight
        yield Form("torch.compile", runner(torch.compile(model, dynamic=False)), size)

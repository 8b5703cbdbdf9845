# SPDX-License-Identifier: Apache-2.0
"""The forward pass as portable StableHLO, for programs that have jax and nothing of ours.

    exported = jax.export.deserialize(bytearray(open("model.stablehlo", "rb").read()))
    weights = safetensors.numpy.load_file("weights.safetensors")
    logits = jax.jit(exported.call)(weights, ids, mask)  # masked LM: and positions int32[b, m]

`ids` is int32[b, s], `mask` bool[b, s]; b, s and m are free, s up to the learned positions.
"""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.export  # not imported by jax itself
import numpy as np
from flax import traverse_util

from bort_jax.interop.bounds import check_depth
from bort_jax.interop.checkpoint import Checkpoint
from bort_jax.interop.description import (
    attach_params,
    check_fits,
    load_description,
    save_description,
)
from bort_jax.interop.tensor_files import read_safetensors
from bort_jax.model import flat_shapes, forward
from bort_jax.storage.files import check_pointer, whole_file
from bort_jax.storage.native import native_errors

PROGRAM, WEIGHTS = "model.stablehlo", "weights.safetensors"
PLATFORMS = ("cpu", "cuda", "tpu")


def save_stablehlo(checkpoint: Checkpoint, folder: str | Path) -> Path:
    """Writes the program, its weights under our own dotted names, description and tokenizer."""
    from safetensors.numpy import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    flat = traverse_util.flatten_dict(checkpoint.params, sep=".")
    weights = {name: np.ascontiguousarray(array, np.float32) for name, array in flat.items()}
    with whole_file(folder / WEIGHTS) as partial:
        save_file(weights, str(partial))
    with whole_file(folder / PROGRAM) as partial:
        partial.write_bytes(export_forward(checkpoint).serialize())
    save_description(checkpoint, folder)
    return folder


def load_stablehlo(folder: str | Path) -> Checkpoint:
    """The checkpoint of an exported folder, from its weights and its description.

    Raises:
      FileNotFoundError, ValueError: something is missing, or names or shapes are others.
    """
    folder = Path(folder)
    empty = load_description(folder)
    weights = read_safetensors(folder / WEIGHTS)
    check_depth(empty.config.arch.depth, len(weights), str(folder / WEIGHTS))
    expected = {name: (shape, "float32") for name, shape in flat_shapes(empty.model).items()}
    found = {name: (array.shape, array.dtype.name) for name, array in weights.items()}
    check_fits(found, expected, folder / WEIGHTS)
    return attach_params(empty, traverse_util.unflatten_dict(weights, sep="."), folder)


def load_program(folder: str | Path) -> Callable:
    """The exported forward pass with its weights: `(ids, mask[, positions]) -> logits`.

    Raises:
      ValueError: the program is damaged, here or at the first call.
    """
    folder = Path(folder)
    file = folder / PROGRAM
    check_pointer(file)
    with native_errors(f"{file} is no program that can be read"):
        program = jax.export.deserialize(bytearray(file.read_bytes()))
    weights, call = jax.device_put(read_safetensors(folder / WEIGHTS)), jax.jit(program.call)

    def run(*inputs):
        with native_errors(f"{file} is no program that can be run"):
            return jax.block_until_ready(call(weights, *inputs))

    return run


def export_forward(checkpoint: Checkpoint) -> jax.export.Exported:
    """The forward pass for PLATFORMS, with symbolic batch, length and masked positions."""
    limit = checkpoint.config.positions
    b, s, m = jax.export.symbolic_shape("b, s, m", constraints=[f"s <= {limit}"])
    ids = jax.ShapeDtypeStruct((b, s), np.int32)
    mask = jax.ShapeDtypeStruct((b, s), np.bool_)
    where = (jax.ShapeDtypeStruct((b, m), np.int32),) * (checkpoint.head == "masked_lm")
    weights = {
        name: jax.ShapeDtypeStruct(shape, np.float32)
        for name, shape in flat_shapes(checkpoint.model).items()
    }

    def program(weights, ids, mask, *positions):
        params = traverse_util.unflatten_dict(weights, sep=".")
        return forward(checkpoint.model, params, ids, mask, *positions)

    return jax.export.export(jax.jit(program), platforms=PLATFORMS)(weights, ids, mask, *where)

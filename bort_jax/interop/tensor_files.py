# SPDX-License-Identifier: Apache-2.0
"""Tensors of a Hugging Face folder: safetensors or a torch file, whole or in shards."""

from collections.abc import Callable
from pathlib import Path

import ml_dtypes  # noqa: F401  numpy then knows the name bfloat16
import numpy as np

from bort_jax.interop.bounds import check_texts
from bort_jax.storage.files import check_pointer, read_json

WEIGHTS = "model.safetensors"
TORCH_WEIGHTS = "pytorch_model.bin"
INDEX = ".index.json"
Tensors = dict[str, np.ndarray]


def read_tensors(folder: Path) -> Tensors:
    """All tensors; those of bfloat16, which numpy has not, in float32.

    Raises:
      FileNotFoundError: there are no weights, or a shard is missing.
      ValueError: it holds ONNX; a file is damaged; an index points outside the folder or to
        tensors that are not there; or there is only a torch file and torch is not installed.
    """
    for name, read in ((WEIGHTS, read_safetensors), (TORCH_WEIGHTS, _read_torch)):
        if (folder / name).is_file():
            return _widen_bfloat16(read(folder / name))
        if (folder / (name + INDEX)).is_file():
            return _widen_bfloat16(_read_shards(folder / (name + INDEX), read))
    if [*folder.glob("*.onnx"), *folder.glob("onnx/*.onnx")]:
        raise ValueError(
            f"{folder} holds ONNX, which is written and not read; read are folders of stock "
            "transformers, orbax and StableHLO, and bort.params"
        )
    names = [name + ending for name in (WEIGHTS, TORCH_WEIGHTS) for ending in ("", INDEX)]
    raise FileNotFoundError(f"none of {', '.join(names)} in {folder}: not a checkpoint folder")


def read_safetensors(file: Path) -> Tensors:
    """The tensors of a file; raises ValueError where it is damaged."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    check_pointer(file)
    try:
        return load_file(str(file))
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is damaged, or of an unknown element type: {error}") from error


def _widen_bfloat16(tensors: Tensors) -> Tensors:
    narrow = {name: array for name, array in tensors.items() if array.dtype.name == "bfloat16"}
    return tensors | {name: array.astype(np.float32) for name, array in narrow.items()}


def _read_shards(index: Path, read: Callable[[Path], Tensors]) -> Tensors:
    files = check_texts(read_json(index).get("weight_map"), "weight_map", str(index))
    tensors: Tensors = {}
    for shard in sorted(set(files.values())):
        if Path(shard).name != shard or shard == ".." or "\0" in shard:
            raise ValueError(f"{index} points to {shard!r}, outside its folder")
        if not (index.parent / shard).is_file():
            raise FileNotFoundError(f"{index} names {shard}, which is missing")
        found = read(index.parent / shard)
        wrong = sorted(name for name in found if files.get(name) != shard)
        if wrong:
            raise ValueError(f"{index} does not say that {shard} holds {wrong}")
        tensors |= found
    if tensors.keys() != files.keys():
        raise ValueError(
            f"{index} names tensors that no shard has: {sorted(files - tensors.keys())}"
        )
    return tensors


def _read_torch(file: Path) -> Tensors:
    check_pointer(file)
    try:
        import torch
    except ImportError as error:
        raise ValueError(
            f"{file} needs torch to be read: pip install 'bort-jax[parity]', or convert the "
            f"folder to {WEIGHTS} first"
        ) from error
    try:
        # weights_only: a pickle from a stranger must not run code.
        loaded = torch.load(file, map_location="cpu", weights_only=True)
        widened = {
            name: tensor.float() if tensor.dtype == torch.bfloat16 else tensor
            for name, tensor in loaded.items()
        }
        return {name: tensor.numpy() for name, tensor in widened.items()}
    except Exception as error:  # torch raises whatever a damaged file makes it meet
        raise ValueError(f"{file} is damaged, or holds more than tensors: {error}") from error

# SPDX-License-Identifier: Apache-2.0
"""Tensors of a Hugging Face folder: safetensors, whole or in shards, or a torch file."""

import json
from pathlib import Path

import numpy as np

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
TORCH_WEIGHTS = "pytorch_model.bin"


def read_tensors(folder: Path) -> dict[str, np.ndarray]:
    """All floating-point tensors in float32, whichever of the three forms is there.

    Raises:
      FileNotFoundError: none of them is there, or a shard is missing.
      ValueError: a file is damaged, an index points outside the folder or to tensors that are
        not there, or there is only a torch file and torch is not installed.
    """
    if (folder / WEIGHTS).is_file():
        tensors = _read_safetensors(folder / WEIGHTS)
    elif (folder / INDEX).is_file():
        tensors = _read_shards(folder)
    elif (folder / TORCH_WEIGHTS).is_file():
        tensors = _read_torch(folder / TORCH_WEIGHTS)
    else:
        raise FileNotFoundError(
            f"none of {WEIGHTS}, {INDEX}, {TORCH_WEIGHTS} in {folder}: not a checkpoint folder"
        )
    return {name: np.asarray(array, np.float32) for name, array in tensors.items()}


def _read_safetensors(file: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(str(file))
    except (SafetensorError, ValueError, KeyError) as error:
        raise ValueError(f"{file} is damaged, or of an unknown element type: {error}") from error


def _read_shards(folder: Path) -> dict[str, np.ndarray]:
    files = json.loads((folder / INDEX).read_text()).get("weight_map", {})
    tensors = {}
    for shard in sorted(set(files.values())):
        if Path(shard).name != shard:
            raise ValueError(f"{folder / INDEX} points to {shard!r}, outside its folder")
        if not (folder / shard).is_file():
            raise FileNotFoundError(f"{folder / INDEX} names {shard}, which is missing")
        tensors |= _read_safetensors(folder / shard)
    if tensors.keys() != files.keys():
        different = sorted(tensors.keys() ^ files.keys())
        raise ValueError(f"{folder / INDEX} and its shards differ in {different}")
    return tensors


def _read_torch(file: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise ValueError(
            f"{file} needs torch to be read: pip install 'bort-jax[parity]', or convert the "
            f"folder to {WEIGHTS} first"
        ) from error
    # weights_only: a pickle from a stranger must not run code.
    loaded = torch.load(file, map_location="cpu", weights_only=True)
    return {name: tensor.float().numpy() for name, tensor in loaded.items()}

# SPDX-License-Identifier: Apache-2.0
"""The Gram matrices of a parent in a run folder: weights of other networks without a pass."""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from bort_jax.interop import Checkpoint
from bort_jax.interop.description import digest
from bort_jax.interop.tensor_files import Tensors, read_safetensors
from bort_jax.model.inherit import Inheritance
from bort_jax.model.inherit.layer import permute, projection
from bort_jax.model.inherit.network import Measure, Network
from bort_jax.model.inherit.part import Part
from bort_jax.model.inherit.refit import Projection
from bort_jax.storage.checks import explain_damage
from bort_jax.storage.files import whole_file

FILE = "gram.safetensors"
HEADER = 1 << 20  # bytes, of names and shapes


def save_grams(
    inheritance: Inheritance[Checkpoint], kept: Sequence[tuple[int, ...]], folder: Path
) -> None:
    """Writes them whole or not at all; with the digest of the parent that they belong to.

    Args:
      kept: sets of layers whose cross moments are written too.
    """
    from safetensors.numpy import save_file

    depth = len(inheritance.parts)
    needed = {pair for layers in kept for pair in _healed_pairs(layers, depth)}
    tensors = {
        f"cross.{n}.{until}": inheritance.crossed[n, until].astype(np.float32)
        for n, until in sorted(needed)
    }
    for n, part in enumerate(inheritance.parts):
        tensors |= {f"heads.{n}": part.heads.gram, f"units.{n}": part.units.gram}
        tensors |= {f"columns.{n}": part.columns, f"rows.{n}": part.rows}
        tensors[f"ridges.{n}"] = np.array([part.heads.ridge, part.units.ridge])
    plain = {name: np.ascontiguousarray(x) for name, x in tensors.items()}
    with whole_file(folder / FILE) as partial:
        save_file(plain, partial, metadata={"parent": digest(inheritance.parent.params)})


def _healed_pairs(kept: tuple[int, ...], depth: int) -> list[tuple[int, int]]:
    """Layers that stand in for skipped ones after them, with the last of these."""
    ends = [*(n - 1 for n in kept[1:]), depth - 1]
    return [(n, end) for n, end in zip(kept, ends, strict=True) if end > n]


def load_inheritance(parent: Checkpoint, folder: Path, *, base: float) -> Inheritance[Checkpoint]:
    """What gives weights to every network whose kept layers were measured; it measures nothing.

    Raises:
      ValueError: the file is missing or damaged, too large, or of another parent.
    """
    file = folder / FILE
    _check(parent, file)
    tensors = read_safetensors(file)
    network = Network.of(parent, map_fn=jax.jit)
    with explain_damage(file):
        parts = [_part(network, n, tensors) for n in range(len(network.layers))]
        crossed = {
            (int(name.split(".")[1]), int(name.split(".")[2])): x
            for name, x in tensors.items()
            if name.startswith("cross.")
        }
    measure = Measure(network, [], [], 1.0, base)
    return Inheritance(parent, network, tuple(parts), [], measure, crossed)


def _check(parent: Checkpoint, file: Path) -> None:
    from safetensors import safe_open

    if not file.is_file():
        raise ValueError(f"no {FILE} in {file.parent}: extract again for weights")
    if file.stat().st_size > largest_bytes(parent):
        raise ValueError(f"{file} is larger than the Gram matrices of its parent can be")
    with explain_damage(file), safe_open(file, "numpy") as opened:
        owner = (opened.metadata() or {}).get("parent")
    if owner != digest(parent.params):
        raise ValueError(f"{file} is of another parent: its folder has changed since")


def largest_bytes(parent: Checkpoint) -> int:
    """Of the file: Gram matrices, orders, and cross moments of every pair of layers."""
    arch = parent.config.arch
    total = HEADER
    for heads, units in arch.sizes():
        sides = (1 + heads * arch.head_size, 1 + units)
        total += sum(4 * n * n + 8 * n for n in sides)
        total += 4 * arch.depth * (1 + units) * arch.hidden + 16
    return total


def _part(network: Network, n: int, tensors: Tensors) -> Part:
    layer = jax.tree.map(np.asarray, network.layers[n])
    (heads, units), k = network.sizes[n], network.config.arch.head_size
    columns, rows = tensors[f"columns.{n}"], tensors[f"rows.{n}"]
    sides = []
    for name, order, size in (("heads", columns, heads * k), ("units", rows, units)):
        gram, wanted = tensors[f"{name}.{n}"], np.arange(1 + size)
        if gram.shape != (1 + size, 1 + size) or not np.array_equal(np.sort(order), wanted):
            raise ValueError(f"{name}.{n} is not of {size} features")
        grain = k if name == "heads" else 1
        ridge = float(tensors[f"ridges.{n}"][len(sides)])
        sides.append(Projection(gram, projection(layer, name)[order], grain, ridge))
    ordered = permute(layer, (columns[1::k] - 1) // k, rows[1:] - 1)
    return Part((heads, units), layer, ordered, sides[0], sides[1], rows, columns)

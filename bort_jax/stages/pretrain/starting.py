# SPDX-License-Identifier: Apache-2.0
"""The first weights of a pretraining: fresh weights, another model, or some of its layers."""

from dataclasses import replace
from typing import Any

from bort_jax.arch import Arch, LayerwiseArch
from bort_jax.interop import Checkpoint, read
from bort_jax.model import MaskedLM, init_params


def load_start(folder: str, arch: Arch | LayerwiseArch | None, *, positions: int) -> Checkpoint:
    """The checkpoint in a folder, with as many of its layers as `arch` has; None: with all.

    Raises:
      ValueError: it is a classifier, has too few layers, or another architecture or number of
        positions.
    """
    start = read(folder)
    if start.labels:
        raise ValueError(f"{folder} is a classifier; start from an encoder or a masked LM")
    arch = arch or start.config.arch
    if not _fits(start, arch, positions=positions):
        raise ValueError(
            f"{folder} is {start.config.arch} with {start.config.positions} positions; "
            f"asked for {arch} with {positions}: only the depth may be less"
        )
    return with_depth(start, arch) if isinstance(arch, Arch) else start


def with_depth(start: Checkpoint, arch: Arch) -> Checkpoint:
    """The checkpoint with D of its N layers: layer k is its layer ⌊k·N/D⌋.

    Every other one of a network twice as deep, as DistilBERT takes them (arXiv 1910.01108, section
    3); for other ratios the even spacing is our reading.
    """
    encoder = start.params["encoder"]
    taken = spaced_layers(len(start.config.arch.sizes()), arch.depth)
    others = {name: tree for name, tree in encoder.items() if not name.startswith("layer_")}
    layers = {f"layer_{k}": encoder[f"layer_{n}"] for k, n in enumerate(taken)}
    params = start.params | {"encoder": others | layers}
    return replace(start, params=params, config=replace(start.config, arch=arch))


def spaced_layers(depth: int, wanted: int) -> list[int]:
    """The ones of `depth` layers that a network of `wanted` layers starts from."""
    return [k * depth // wanted for k in range(wanted)]


def initial_params(model: MaskedLM, start: Checkpoint | None, *, seed: int) -> Any:
    """Fresh parameters; those that `start` has are taken from it."""
    fresh = init_params(model, seed=seed)
    return fresh | start.params if start else fresh


def _fits(start: Checkpoint, wanted: Arch | LayerwiseArch, *, positions: int) -> bool:
    found = start.config.arch
    deeper = (
        isinstance(found, Arch)
        and isinstance(wanted, Arch)
        and found.depth >= wanted.depth
        and found[1:] == wanted[1:]
    )
    return (found == wanted or deeper) and start.config.positions == positions

# SPDX-License-Identifier: Apache-2.0
"""What a pretraining starts from: fresh weights, another model, or some of its layers."""

from dataclasses import replace
from typing import Any

from bort_jax.arch import Arch
from bort_jax.interop import Checkpoint, load
from bort_jax.model import MaskedLM, init_params
from bort_jax.stages.pretrain.config import PretrainConfig


def starting_point(config: PretrainConfig) -> Checkpoint | None:
    """The checkpoint of `init_from`, with as many of its layers as the run's architecture has.

    Raises:
      ValueError: it is a classifier, has too few layers, or another architecture or number of
        positions.
    """
    if config.init_from is None:
        return None
    start, asked = load(config.init_from), Arch.parse(config.arch)
    if start.labels:
        raise ValueError(
            f"{config.init_from} is a classifier; start from an encoder or a masked LM"
        )
    if not _fits(start, asked, positions=config.positions):
        raise ValueError(
            f"{config.init_from} is {start.config.arch} with {start.config.positions} positions; "
            f"asked for {asked} with {config.positions}: only the depth may be less"
        )
    return with_depth(start, asked)


def with_depth(start: Checkpoint, arch: Arch) -> Checkpoint:
    """The checkpoint with D of its N layers: layer k is its layer ⌊k·N/D⌋.

    Every other one of a network twice as deep, as DistilBERT takes them (arXiv 1910.01108, section
    3); for other ratios the even spacing is our reading.
    """
    encoder, taken = (
        start.params["encoder"],
        kept_layers(len(start.config.arch.sizes()), arch.depth),
    )
    others = {name: tree for name, tree in encoder.items() if not name.startswith("layer_")}
    layers = {f"layer_{k}": encoder[f"layer_{n}"] for k, n in enumerate(taken)}
    params = start.params | {"encoder": others | layers}
    return replace(start, params=params, config=replace(start.config, arch=arch))


def kept_layers(depth: int, wanted: int) -> list[int]:
    """Which of `depth` layers a network of `wanted` layers starts from."""
    return [k * depth // wanted for k in range(wanted)]


def initial_params(model: MaskedLM, start: Checkpoint | None, *, seed: int) -> Any:
    """Fresh parameters; those that `start` has are taken from it."""
    fresh = init_params(model, seed=seed)
    return fresh | start.params if start else fresh


def _fits(start: Checkpoint, asked: Arch, *, positions: int) -> bool:
    found = start.config.arch
    return (
        isinstance(found, Arch)
        and found.depth >= asked.depth
        and found[1:] == asked[1:]
        and start.config.positions == positions
    )

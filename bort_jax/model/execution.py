# SPDX-License-Identifier: Apache-2.0
"""How a stack of layers is run: one by one or scanned, and what is kept for the backward pass.

None of this changes parameters, values or gradients (but for the order of sums); it trades the
time to compile, the time to run and memory.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

LayerRun = Literal["loop", "scan"]
Remat = Literal["none", "dots", "full"]
POLICIES = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


@dataclass(frozen=True)
class Execution:
    """How the layers are run.

    Attributes:
      layers: `loop` compiles every layer; `scan` one for each run of equal layers, whose
        parameters are stacked inside the program, at the price of a copy of them.
      remat: what the backward pass computes again: `none`; `dots`: all but the products with
        weights; `full`: whole layers, of which only the inputs are kept.
    """

    layers: LayerRun = "loop"
    remat: Remat = "none"

    def __post_init__(self):
        for name, choices in (("layers", get_args(LayerRun)), ("remat", get_args(Remat))):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} must be one of {', '.join(choices)}; got {getattr(self, name)!r}"
                )


def run_layers(
    x, layers: Sequence[tuple[Any, Any]], *, apply: Callable, keys, execution: Execution
):
    """x after all layers; `apply(sizes, params, x, key)` is one of them.

    Args:
      layers: (sizes, params) of each; sizes are static, and layers of equal sizes have parameter
        trees of equal shapes.
      keys: one for each layer, or None.
    """
    keys = [None] * len(layers) if keys is None else keys
    numbered = list(zip(layers, keys, strict=True))
    for sizes, run in groupby(numbered, key=lambda entry: entry[0][0]):
        step = lambda x, inputs, sizes=sizes: apply(sizes, inputs[0], x, inputs[1])
        step = _remembering(step, execution)
        inputs = [(params, key) for (_, params), key in run]
        if execution.layers == "scan":
            stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *inputs)
            x, _ = jax.lax.scan(lambda x, one, step=step: (step(x, one), None), x, stacked)
        else:
            for one in inputs:
                x = step(x, one)
    return x


def _remembering(step: Callable, execution: Execution) -> Callable:
    if execution.remat == "none":
        return step
    # Inside a scan nothing can be merged with the forward pass, so nothing need prevent it.
    prevent = execution.layers != "scan"
    return jax.checkpoint(step, policy=POLICIES[execution.remat], prevent_cse=prevent)

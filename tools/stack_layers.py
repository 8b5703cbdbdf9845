# SPDX-License-Identifier: Apache-2.0
"""A parent of twice the depth: all layers, and above them the same layers once more.

    python tools/stack_layers.py --model all-minilm-l6-v2/ --out runs/stacked
    bort-jax finetune --model runs/stacked --data ROWS …

Gong et al. 2019, "Efficient Training of BERT by Progressively Stacking", start deeper models so. It
is no language model until it is trained. This is for machines that have no deeper weights.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from bort_jax.arch import Arch
from bort_jax.interop import Checkpoint, load, save
from bort_jax.report.terminal import say


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True, help="an encoder of one size in all layers")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    made = stacked(load(options.model))
    save(made, options.out)
    say(f"{options.out}: {made.config.arch}, each layer twice; next: train it")


def stacked(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with its layers 0 … D − 1 once more as D … 2 D − 1.

    Raises:
      ValueError: its layers have sizes of their own.
    """
    arch = checkpoint.config.arch
    if not isinstance(arch, Arch):
        raise ValueError(f"{arch}: only layers of one size are stacked")
    encoder = dict(checkpoint.params["encoder"])
    encoder |= {f"layer_{arch.depth + n}": encoder[f"layer_{n}"] for n in range(arch.depth)}
    config = replace(checkpoint.config, arch=arch._replace(depth=2 * arch.depth))
    made = replace(checkpoint, config=config, facts={"layers": "each of a smaller model twice"})
    return made.with_params({**checkpoint.params, "encoder": encoder})


if __name__ == "__main__":
    main()

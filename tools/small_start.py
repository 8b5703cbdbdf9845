# SPDX-License-Identifier: Apache-2.0
"""A start for a small model's pretraining: fresh layers on a larger model's words.

    python tools/small_start.py --larger all-minilm-l6-v2/ --arch D2-A4-H128-I512 --out runs/start
    bort-jax pretrain --init-from runs/start --arch D2-A4-H128-I512 --positions 128 …

The word embeddings are the larger model's, projected on their H principal axes; all else is drawn.
A small model learns few words by itself in the hours of one core; these it has.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float

from bort_jax import Arch
from bort_jax.interop import Checkpoint, load, save
from bort_jax.model.params import SIGMA, random_params
from bort_jax.report.terminal import say


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--larger", required=True, help="a BERT, whose tokenizer it will have")
    parser.add_argument("--arch", type=Arch.parse, required=True)
    parser.add_argument("--positions", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    larger = load(options.larger)
    made = small_start(larger, options.arch, positions=options.positions, seed=options.seed)
    save(made, options.out)
    table = word_table(larger)
    kept = (
        np.var(project_on_axes(table, options.arch.hidden), axis=0).sum()
        / np.var(table, axis=0).sum()
    )
    say(f"{options.out}: {options.arch}, {kept:.1%} of the variance of {len(table):,} words kept")


def small_start(larger: Checkpoint, arch: Arch, *, positions: int, seed: int) -> Checkpoint:
    """A masked LM of this architecture with the larger model's words.

    Raises:
      ValueError: its hidden size is above the larger model's: there are no more axes.
    """
    if arch.hidden > larger.config.arch.hidden:
        raise ValueError(f"{arch} is wider than {larger.config.arch}")
    config = replace(larger.config, arch=arch, positions=positions)
    facts = {"words": f"principal axes of those of a {larger.config.arch}"}
    made = Checkpoint(config, None, tokenizer=larger.required_tokenizer, facts=facts)
    params = random_params(made.model, seed=seed)
    words = project_on_axes(word_table(larger), arch.hidden)
    # Twice the other embeddings' σ: a word should say more of a token than its place does.
    words *= 2 * SIGMA / words.std()
    params["encoder"]["embeddings"]["word"]["embedding"] = words.astype(np.float32)
    return made.with_params(params)


def word_table(checkpoint: Checkpoint) -> Float[np.ndarray, "v h"]:
    return np.asarray(checkpoint.params["encoder"]["embeddings"]["word"]["embedding"])


def project_on_axes(table: Float[np.ndarray, "v h"], width: int) -> Float[np.ndarray, "v w"]:
    """Rows on the table's first principal axes."""
    centred = table - table.mean(axis=0)
    _, axes = np.linalg.eigh(centred.T @ centred)  # the largest last
    return centred @ axes[:, : -width - 1 : -1]


if __name__ == "__main__":
    main()

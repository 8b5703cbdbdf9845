# SPDX-License-Identifier: Apache-2.0
"""Which of the formats a path holds."""

from pathlib import Path

from bort_jax.interop.checkpoint import Checkpoint
from bort_jax.interop.description import DESCRIPTION
from bort_jax.interop.gluonnlp import load_params
from bort_jax.interop.huggingface import load
from bort_jax.interop.orbax_folder import load_orbax
from bort_jax.interop.stablehlo import PROGRAM, load_stablehlo


def read(source: str | Path, *, heads: int = 8) -> Checkpoint:
    """The checkpoint at a path: a folder of stock transformers, orbax or StableHLO, or a
    `bort.params` file.

    Args:
      heads: of a `.params` file, which does not say them.

    Raises:
      FileNotFoundError, ValueError: it is nothing of the kind, or damaged.
    """
    source = Path(source)
    if source.is_file():
        return load_params(source, heads=heads)
    if (source / PROGRAM).is_file():
        return load_stablehlo(source)
    return load_orbax(source) if (source / DESCRIPTION).is_file() else load(source)

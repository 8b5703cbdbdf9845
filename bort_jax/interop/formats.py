# SPDX-License-Identifier: Apache-2.0
"""From what a user names, a path or a model of the hub, to a checkpoint: the one door."""

from pathlib import Path

from bort_jax.interop.checkpoint import Checkpoint
from bort_jax.interop.description import DESCRIPTION
from bort_jax.interop.gluonnlp import load_params
from bort_jax.interop.hf_config import from_hf_config
from bort_jax.interop.huggingface import CONFIG
from bort_jax.interop.huggingface import load as load_folder
from bort_jax.interop.orbax_folder import load_orbax
from bort_jax.interop.stablehlo import PROGRAM, load_stablehlo
from bort_jax.interop.tensor_files import INDEX, WEIGHTS
from bort_jax.storage.hub import TOKENIZER, fetched, hub_name

# All that is fetched of a model, and pushed.
FILES = (CONFIG, WEIGHTS, WEIGHTS + INDEX, "model-*-of-*.safetensors", *TOKENIZER)


def read(source: str | Path, *, revision: str | None = None, heads: int = 8) -> Checkpoint:
    """The checkpoint at a path: a folder of stock transformers, orbax or StableHLO, or a
    `bort.params` file; or a model of the hub, `org/name` or `org/name@revision`.

    Args:
      revision: of the hub: a branch, a tag or a commit.
      heads: of a `.params` file, which does not say them.

    Raises:
      FileNotFoundError, ValueError: it is nothing of the kind, or damaged.
    """
    source = checkpoint_folder(source, revision=revision)
    if source.is_file():
        return load_params(source, heads=heads)
    if (source / PROGRAM).is_file():
        return load_stablehlo(source)
    return load_orbax(source) if (source / DESCRIPTION).is_file() else load_folder(source)


def load(source: str | Path, *, revision: str | None = None) -> Checkpoint:
    """As `read`, of what stock `transformers` loads alone.

    Raises:
      FileNotFoundError, ValueError: as `huggingface.load` and `checkpoint_folder`.
    """
    return load_folder(checkpoint_folder(source, revision=revision))


def checkpoint_folder(source: str | Path, *, revision: str | None = None) -> Path:
    """The path itself; of a model of the hub the folder in the hub's cache.

    Configuration, safetensors and tokenizer are fetched, and nothing else.

    Raises:
      FileNotFoundError: the hub has no such model or revision, does not give it, or is out of
        reach; or the model has no safetensors.
      ValueError: it is no model that we can be, which is found before weights are fetched.
    """
    name = hub_name(source, revision=revision)
    if name is None:
        return Path(source)
    name = name.pinned()
    folder = fetched(name, [CONFIG])
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"{name} has no {CONFIG}: not a model of transformers")
    try:
        from_hf_config(folder / CONFIG)
    except ValueError as error:
        raise ValueError(str(error).replace(str(folder), str(name))) from error
    folder = fetched(name, FILES)
    if not any((folder / file).is_file() for file in (WEIGHTS, WEIGHTS + INDEX)):
        raise FileNotFoundError(
            f"{name} has no {WEIGHTS}: of the hub nothing else is read, for pickles can run code"
        )
    return folder

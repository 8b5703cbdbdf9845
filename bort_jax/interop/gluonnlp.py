# SPDX-License-Identifier: Apache-2.0
"""The released Bort: GluonNLP's `bort.params`, read without MXNet."""

from pathlib import Path

import numpy as np

from bort_jax.arch import Arch
from bort_jax.data.tokenizer_files import NO_TOKENIZER
from bort_jax.interop.checkpoint import Checkpoint
from bort_jax.interop.layout import Layout, from_tensors
from bort_jax.interop.ndarray_list import read_ndarray_list
from bort_jax.model import BertConfig

CELL = "encoder.transformer_cells.{n}."
OURS = "encoder.layer_{n}."
GLUONNLP = Layout(
    title="GluonNLP's Bort",
    names={
        "encoder.embeddings.word.embedding": "word_embed.0.weight",
        "encoder.embeddings.position.embedding": "encoder.position_weight",
        "encoder.embeddings.norm": "encoder.layer_norm",
        OURS + "attention.query": CELL + "attention_cell.proj_query",
        OURS + "attention.key": CELL + "attention_cell.proj_key",
        OURS + "attention.value": CELL + "attention_cell.proj_value",
        OURS + "attention.out": CELL + "proj",
        OURS + "attention_norm": CELL + "layer_norm",
        OURS + "feed_forward.up": CELL + "ffn.ffn_1",
        OURS + "feed_forward.down": CELL + "ffn.ffn_2",
        OURS + "feed_forward_norm": CELL + "ffn.layer_norm",
        "head.transform": "decoder.0",
        "head.norm": "decoder.2",
        "head.bias": "decoder.3.bias",
    },
    leaves={"kernel": "weight", "bias": "bias", "scale": "gamma", "norm.bias": "beta"},
    copies={"decoder.3.weight": "word_embed.0.weight"},
)
ENCODER_EPS, DECODER_EPS = 1e-5, 1e-12  # GluonNLP leaves the decoder's at its default


def load_params(file: str | Path, *, heads: int = 8) -> Checkpoint:
    """Reads the masked LM in a `bort.params` file of GluonNLP 0.9 or 0.10.

    The file does not say how many heads there are: Bort has 8, its smaller sister 16.

    Raises:
      ValueError: the file is damaged, its tensors are not those of a Bort, or `heads` does not
        divide its hidden size.
    """
    arrays = read_ndarray_list(file)
    tensors = {name.removeprefix("arg:"): array for name, array in arrays.items()}
    if len(tensors) < len(arrays):
        raise ValueError(f"{file} holds some names twice, with arg: and without")
    config = BertConfig(
        arch=_arch(tensors, heads=heads, source=str(file)),
        vocab_size=len(tensors["word_embed.0.weight"]),
        positions=len(tensors["encoder.position_weight"]),
        layer_norm_eps=ENCODER_EPS,
        head_norm_eps=DECODER_EPS,
    )
    empty = Checkpoint(config, params=None)
    params, notes = from_tensors(tensors, empty, GLUONNLP, source=str(file))
    facts = {"source": f"{Path(file).name}, written by GluonNLP"}
    notes += (f"{heads} attention heads were assumed: the file does not say how many", NO_TOKENIZER)
    return Checkpoint(config, params, notes=notes, facts=facts)


def _arch(tensors: dict[str, np.ndarray], *, heads: int, source: str) -> Arch:
    needed = ("word_embed.0.weight", "encoder.position_weight", _up(0))
    for name in needed:
        if name not in tensors or tensors[name].ndim != 2:
            raise ValueError(f"{source} has no matrix {name}: not a Bort of GluonNLP")
    depth = next(n for n in range(1, len(tensors) + 1) if _up(n) not in tensors)
    intermediate, hidden = tensors[_up(0)].shape
    return Arch(depth, heads, hidden, intermediate).validate()


def _up(n: int) -> str:
    return CELL.format(n=n) + "ffn.ffn_1.weight"

# SPDX-License-Identifier: Apache-2.0
"""Folders that stock `transformers` loads, and back.

This is the main exchange format: what pretraining and fine-tuning write is at once what
`BertForMaskedLM`, `BertForSequenceClassification` and `BertForMultipleChoice` load.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from bort_jax.data.tokenizer_files import NO_TOKENIZER, load_tokenizer
from bort_jax.interop.bounds import check_depth
from bort_jax.interop.checkpoint import Checkpoint
from bort_jax.interop.description import save_tokenizer
from bort_jax.interop.hf_config import (
    check_padding_id,
    first_position,
    from_hf_config,
    hf_class,
    to_hf_config,
)
from bort_jax.interop.layout import Layout, from_tensors, to_tensors
from bort_jax.interop.model_card import model_card
from bort_jax.interop.padding import cut, in_hull, pad
from bort_jax.interop.tensor_files import WEIGHTS, read_tensors
from bort_jax.storage.files import read_json, whole_file, write_json, write_text

CONFIG, CARD = "config.json", "README.md"

OURS, THEIRS = "encoder.layer_{n}.", ".encoder.layer.{n}."
ENCODER = {
    "encoder.embeddings.word.embedding": ".embeddings.word_embeddings.weight",
    "encoder.embeddings.position.embedding": ".embeddings.position_embeddings.weight",
    "encoder.embeddings.token_type.embedding": ".embeddings.token_type_embeddings.weight",
    "encoder.embeddings.norm": ".embeddings.LayerNorm",
    OURS + "attention.query": THEIRS + "attention.self.query",
    OURS + "attention.key": THEIRS + "attention.self.key",
    OURS + "attention.value": THEIRS + "attention.self.value",
    OURS + "attention.out": THEIRS + "attention.output.dense",
    OURS + "attention_norm": THEIRS + "attention.output.LayerNorm",
    OURS + "feed_forward.up": THEIRS + "intermediate.dense",
    OURS + "feed_forward.down": THEIRS + "output.dense",
    OURS + "feed_forward_norm": THEIRS + "output.LayerNorm",
}
HEAD_NAMES = {
    ("bert", "masked_lm"): {
        "head.transform": "cls.predictions.transform.dense",
        "head.norm": "cls.predictions.transform.LayerNorm",
        "head.bias": "cls.predictions.bias",
    },
    ("bert", "classifier"): {"pooler": "bert.pooler.dense", "output": "classifier"},
    ("bert", "choice"): {"pooler": "bert.pooler.dense", "output": "classifier"},
    ("bert", "none"): {},
    ("roberta", "masked_lm"): {
        "head.transform": "lm_head.dense",
        "head.norm": "lm_head.layer_norm",
        "head.bias": "lm_head.bias",
    },
    ("roberta", "classifier"): {"pooler": "classifier.dense", "output": "classifier.out_proj"},
    ("roberta", "choice"): {"pooler": "roberta.pooler.dense", "output": "classifier"},
    ("roberta", "none"): {},
}
# Copies of shared tensors that a file may carry.
COPIES = {
    ("bert", "masked_lm"): {
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    ("roberta", "masked_lm"): {
        "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
        "lm_head.decoder.bias": "lm_head.bias",
    },
}
WRAPPERS = ("_orig_mod.", "module.")  # of torch.compile, and of training on several devices
# Beside the embedding table, what has a row for each token.
VOCABULARY_TENSORS = (
    "cls.predictions.bias",
    "cls.predictions.decoder.weight",
    "cls.predictions.decoder.bias",
    "lm_head.bias",
    "lm_head.decoder.weight",
    "lm_head.decoder.bias",
)
BARE = ("embeddings.", "encoder.", "pooler.")  # how `BertModel` writes what others put in `bert.`


def save(checkpoint: Checkpoint, folder: str | Path) -> Path:
    """Writes `config.json`, the tokenizer, a model card and, last, `model.safetensors`.

    Stock BERT has token types, which Bort has not: one row of zeros is written for them. Layers of
    different sizes are filled up with zeros (`padding.hull`), which `load` cuts off again.

    Raises:
      ValueError: layers that stock classes cannot hold padded either, or a tokenizer of another
        size than the embedding table.
    """
    from safetensors.numpy import save_file

    folder = Path(folder)
    config = to_hf_config(checkpoint)
    folder.mkdir(parents=True, exist_ok=True)
    save_tokenizer(checkpoint, folder)
    write_json(folder / CONFIG, config)
    write_text(folder / CARD, model_card(checkpoint, hf_class(checkpoint)))
    with whole_file(folder / WEIGHTS) as partial:
        save_file(to_hf(checkpoint), str(partial), metadata={"format": "pt"})
    return folder


def load(folder: str | Path) -> Checkpoint:
    """Reads a folder that `save` or stock `transformers` wrote for a class in CLASSES.

    Weights are `model.safetensors`, its shards, or, where torch is installed,
    `pytorch_model.bin`. What the model has no place for is told in the checkpoint's `notes`.

    Raises:
      FileNotFoundError: `config.json` or the weights are missing.
      ValueError: another model type, tensors too many, too few or of another shape (all are
        named), or a tokenizer of another size than the embedding table.
    """
    folder = Path(folder)
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"no {CONFIG} in {folder}: not a checkpoint folder")
    read_json(folder / CONFIG)  # whatever is wrong with it is said before gigabytes are read
    tensors = _plain_names(read_tensors(folder))
    empty = from_hf_config(folder / CONFIG, names=tensors)
    check_depth(empty.config.arch.depth, len(tensors), str(folder))
    tokenizer = load_tokenizer(folder)
    notes = empty.notes + (tokenizer.notes if tokenizer else (NO_TOKENIZER,))
    empty = replace(empty, notes=notes)
    if tokenizer:
        check_padding_id(folder / CONFIG, empty, tokenizer)
        tensors, empty = _cut_surplus(tensors, empty, tokenizer.vocab_size)
    return from_hf(tensors, empty.with_tokenizer(tokenizer, source=str(folder)), source=str(folder))


def _plain_names(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Without what wrappers of torch put before every name."""
    for prefix in WRAPPERS * 2:
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): array for name, array in tensors.items()}
    return tensors


def _cut_surplus(
    tensors: dict[str, np.ndarray], empty: Checkpoint, tokens: int
) -> tuple[dict[str, np.ndarray], Checkpoint]:
    """Without the rows of an embedding table that no token has: they are never predicted."""
    rows = empty.config.vocab_size
    if rows <= tokens:
        return tensors, empty
    ends = ("embeddings.word_embeddings.weight", *VOCABULARY_TENSORS)
    cut = lambda name, x: x[:tokens] if name.endswith(ends) and len(x) == rows else x
    notes = (*empty.notes, f"rows {tokens} to {rows - 1} of the embedding table: no token has them")
    config = replace(empty.config, vocab_size=tokens)
    cut_tensors = {name: cut(name, array) for name, array in tensors.items()}
    return cut_tensors, replace(empty, config=config, notes=notes)


def to_hf(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    """Parameters under Hugging Face's names, in torch's layout, contiguous."""
    tensors = to_tensors(pad(checkpoint), _layout(checkpoint))
    family, hidden = checkpoint.family, checkpoint.config.arch.hidden
    table = family + ENCODER["encoder.embeddings.position.embedding"]
    unread = np.zeros((first_position(checkpoint), hidden), np.float32)
    tensors[table] = np.concatenate([unread, tensors[table]])
    no_types = {_types(family): np.zeros((1, hidden), np.float32)}
    return no_types | tensors


def from_hf(
    tensors: dict[str, np.ndarray], like: Checkpoint, *, source: str = "tensors"
) -> Checkpoint:
    """`like` with parameters from Hugging Face's names; strict in both directions.

    Raises:
      ValueError: as `from_tensors`, or numbers beyond the true sizes of layers that differ.
    """
    tensors = _rename_legacy(tensors, like.family, source)
    notes = like.notes + _fold_padding(tensors, like) + _drop_unread_positions(tensors, like)
    if not like.config.token_types:
        notes += _fold_token_types(tensors, like, source)
    wide = in_hull(like)
    params, aside = from_tensors(tensors, wide, _layout(like), source=source)
    wide = replace(wide, params=params, notes=notes + aside)
    return cut(wide, like.config.arch, source=source)


def _layout(checkpoint: Checkpoint) -> Layout:
    kind, family = (checkpoint.family, checkpoint.head), checkpoint.family
    aside = {f"{family}.embeddings.position_ids": "constants"}
    if HEAD_NAMES[kind].get("pooler") != f"{family}.pooler.dense":
        aside |= {f"{family}.pooler.": "a pooler, which this model does not use"}
    heads = {
        "masked_lm": {"cls.seq_relationship.": "a next-sentence head, not in our masked LM"},
        "none": {"cls.": "a head, which was not asked for", "lm_head.": "a head, not asked for"},
    }
    return Layout(
        title=hf_class(checkpoint),
        names={ours: family + theirs for ours, theirs in ENCODER.items()} | HEAD_NAMES[kind],
        copies=COPIES.get(kind, {}),
        aside=aside | heads.get(checkpoint.head, {}),
    )


def _types(family: str) -> str:
    return family + ENCODER["encoder.embeddings.token_type.embedding"]


def _rename_legacy(
    tensors: dict[str, np.ndarray], family: str, source: str
) -> dict[str, np.ndarray]:
    """The tensors under the names of today; raises ValueError where two would have the same."""
    named = {}
    for name, array in tensors.items():
        today = name.replace("LayerNorm.gamma", "LayerNorm.weight")
        today = today.replace("LayerNorm.beta", "LayerNorm.bias")
        today = f"{family}.{today}" if today.startswith(BARE) else today
        if today in named:
            raise ValueError(f"{source} holds {today} twice, once as {name}")
        named[today] = array
    return named


def _drop_unread_positions(tensors: dict, like: Checkpoint) -> tuple[str, ...]:
    table = like.family + ENCODER["encoder.embeddings.position.embedding"]
    first = first_position(like)
    if not first or table not in tensors:
        return ()
    tensors[table] = tensors[table][first:]
    return (f"the first {first} rows of {table}, which only padding reads",)


def _fold_padding(tensors: dict, like: Checkpoint) -> tuple[str, ...]:
    """Adds to the padding token's embedding that of its position and its only type: it has no other
    place for them. A masked LM's is its decoder too, and stays."""
    pad, first = like.config.padding, first_position(like)
    table = like.family + ENCODER["encoder.embeddings.position.embedding"]
    word = like.family + ENCODER["encoder.embeddings.word.embedding"]
    if pad is None or not {table, word} <= tensors.keys():
        return ()
    own = tensors[table][first - 1 : first].sum(axis=0, dtype=np.float32)
    types = tensors.get(_types(like.family))
    if not like.config.token_types and types is not None and len(types) == 1:
        own = own + types[0].astype(np.float32)
    if not own.any() or pad >= len(tensors[word]) or own.shape != tensors[word].shape[1:]:
        return ()
    if like.head == "masked_lm":
        return (f"the position of padding, row {first - 1} of {table}: a text that says it",)
    tensors[word] = tensors[word].astype(np.float32)
    tensors[word][pad] += own
    return (f"row {first - 1} of {table}: it was added to the token of padding",)


def _fold_token_types(tensors: dict, like: Checkpoint, source: str) -> tuple[str, ...]:
    """Adds the only token type to every position."""
    name, hidden = _types(like.family), like.config.arch.hidden
    types = tensors.pop(name, None)
    table = like.family + ENCODER["encoder.embeddings.position.embedding"]
    if types is None:
        return ()
    if types.shape != (1, hidden):
        raise ValueError(f"{source}: {name} has shape {types.shape}, expected {(1, hidden)}")
    if not types.any() or table not in tensors:
        return ()
    tensors[table] = tensors[table].astype(np.float32) + types[0].astype(np.float32)
    return (f"{name}, a single row: it was added to every position",)

# SPDX-License-Identifier: Apache-2.0
"""Folders that stock `transformers` loads, and back.

This is the main exchange format: what pretraining and fine-tuning write is at once what
`BertForMaskedLM`, `BertForSequenceClassification` and `BertForMultipleChoice` load.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from bort_jax.arch import Arch
from bort_jax.data.tokenizer import load_tokenizer
from bort_jax.interop.checkpoint import Checkpoint
from bort_jax.interop.description import save_tokenizer
from bort_jax.interop.layout import Layout, from_tensors, to_tensors
from bort_jax.interop.model_card import model_card
from bort_jax.interop.tensor_files import WEIGHTS, read_tensors
from bort_jax.model import BertConfig

CONFIG, CARD = "config.json", "README.md"

# The stock class of a family and a head; the first of each is the one we write.
CLASSES = {
    "BertForMaskedLM": ("bert", "masked_lm"),
    "BertForPreTraining": ("bert", "masked_lm"),
    "BertForSequenceClassification": ("bert", "classifier"),
    "BertForMultipleChoice": ("bert", "choice"),
    "BertModel": ("bert", "none"),
    "RobertaForMaskedLM": ("roberta", "masked_lm"),
    "RobertaForSequenceClassification": ("roberta", "classifier"),
    "RobertaForMultipleChoice": ("roberta", "choice"),
    "RobertaModel": ("roberta", "none"),
}
FAMILIES = ("bert", "roberta")
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
BARE = ("embeddings.", "encoder.", "pooler.")  # how `BertModel` writes what others put in `bert.`


def hf_class(checkpoint: Checkpoint) -> str:
    """The stock class that a checkpoint is written for."""
    wanted = (checkpoint.family, checkpoint.head)
    return next(name for name, kind in CLASSES.items() if kind == wanted)


def save(checkpoint: Checkpoint, folder: str | Path) -> Path:
    """Writes `config.json`, the tokenizer, a model card and, last, `model.safetensors`.

    Stock BERT has token types, which Bort has not: one row of zeros is written for them.

    Raises:
      ValueError: layers of different sizes, which stock classes cannot express, or a tokenizer
        of another size than the embedding table.
    """
    from safetensors.numpy import save_file

    folder = Path(folder)
    config = _hf_config(checkpoint)
    folder.mkdir(parents=True, exist_ok=True)
    save_tokenizer(checkpoint, folder)
    (folder / CONFIG).write_text(json.dumps(config, indent=2))
    (folder / CARD).write_text(model_card(checkpoint, hf_class(checkpoint)))
    partial = folder / (WEIGHTS + ".partial")
    save_file(to_hf(checkpoint), str(partial), metadata={"format": "pt"})
    partial.replace(folder / WEIGHTS)
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
    hf = json.loads((folder / CONFIG).read_text())
    if not isinstance(hf, dict):
        raise ValueError(f"{folder / CONFIG} holds no object")
    tensors = read_tensors(folder)
    empty = _from_hf_config(hf, str(folder))
    if empty.config.arch.depth > len(tensors):
        raise ValueError(f"{folder}: {empty.config.arch} with only {len(tensors)} tensors")
    empty = empty.with_tokenizer(load_tokenizer(folder), source=str(folder))
    return from_hf(tensors, empty, source=str(folder))


def to_hf(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    """Parameters under Hugging Face's names, in torch's layout, contiguous."""
    tensors = to_tensors(checkpoint, _layout(checkpoint))
    family, hidden = checkpoint.family, checkpoint.config.arch.hidden
    table = family + ENCODER["encoder.embeddings.position.embedding"]
    unread = np.zeros((_first_position(checkpoint), hidden), np.float32)
    tensors[table] = np.concatenate([unread, tensors[table]])
    no_types = {_types(family): np.zeros((1, hidden), np.float32)}
    return no_types | tensors


def from_hf(
    tensors: dict[str, np.ndarray], like: Checkpoint, *, source: str = "tensors"
) -> Checkpoint:
    """`like` with parameters from Hugging Face's names; strict in both directions.

    Raises:
      ValueError: as `from_tensors`.
    """
    tensors = {_modern(name, like.family): array for name, array in tensors.items()}
    notes = _without_unread_positions(tensors, like)
    if not like.config.token_types:
        _fold_token_types(tensors, like.family)
    params, aside = from_tensors(tensors, like, _layout(like), source=source)
    return replace(like, params=params, notes=notes + aside)


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


def _modern(name: str, family: str) -> str:
    name = name.replace("LayerNorm.gamma", "LayerNorm.weight")
    name = name.replace("LayerNorm.beta", "LayerNorm.bias")
    return f"{family}.{name}" if name.startswith(BARE) else name


def _first_position(checkpoint: Checkpoint) -> int:
    """RoBERTa counts positions from the padding id on; ours, like BERT's, count from 0."""
    if checkpoint.family == "bert":
        return 0
    return 1 + (checkpoint.tokenizer.special.pad if checkpoint.tokenizer else 1)


def _without_unread_positions(tensors: dict, like: Checkpoint) -> tuple[str, ...]:
    table = like.family + ENCODER["encoder.embeddings.position.embedding"]
    first = _first_position(like)
    if not first or table not in tensors:
        return ()
    tensors[table] = tensors[table][first:]
    return (f"the first {first} rows of {table}, which only padding reads",)


def _fold_token_types(tensors: dict[str, np.ndarray], family: str) -> None:
    """Adds the only token type to every position."""
    types = tensors.pop(_types(family), None)
    table = family + ENCODER["encoder.embeddings.position.embedding"]
    if types is not None and table in tensors:
        tensors[table] = tensors[table] + types[0]


def _hf_config(checkpoint: Checkpoint) -> dict:
    config, arch = checkpoint.config, checkpoint.config.arch
    if not isinstance(arch, Arch):
        raise ValueError(
            f"stock classes cannot express {arch}, whose layers differ in size; "
            "--to orbax and --to stablehlo can"
        )
    special = checkpoint.tokenizer.special if checkpoint.tokenizer else None
    ids = {"pad_token_id": 1} if checkpoint.family == "roberta" else {}
    if special:
        ids = {"pad_token_id": special.pad, "bos_token_id": special.bos}
        ids |= {"eos_token_id": special.eos}
    labels = dict(enumerate(checkpoint.labels))
    named = {"id2label": labels, "label2id": {name: n for n, name in labels.items()}}
    return {
        "architectures": [hf_class(checkpoint)],
        "model_type": checkpoint.family,
        "num_hidden_layers": arch.depth,
        "num_attention_heads": arch.heads,
        "hidden_size": arch.hidden,
        "intermediate_size": arch.intermediate,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.positions + _first_position(checkpoint),
        "type_vocab_size": max(config.token_types, 1),
        "hidden_act": "gelu",
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.dropout,
        "layer_norm_eps": config.layer_norm_eps,
        "tie_word_embeddings": True,
        "dtype": "float32",
        **({"problem_type": "regression"} if checkpoint.problem == "regression" else {}),
        "bort_jax": {"head_norm_eps": config.head_norm_eps, "facts": dict(checkpoint.facts)},
        **(named if labels else {}),
        **ids,
    }


EXPECTED = {
    "hidden_act": "gelu",
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}
SIZES = (
    "num_hidden_layers",
    "num_attention_heads",
    "hidden_size",
    "intermediate_size",
    "vocab_size",
    "max_position_embeddings",
)


def _from_hf_config(hf: dict, source: str) -> Checkpoint:
    """A checkpoint without parameters."""
    family, name = hf.get("model_type"), str((hf.get("architectures") or [None])[0])
    if family not in FAMILIES:
        raise ValueError(f"{source}: expected model_type bert or roberta; got {family!r}")
    if CLASSES.get(name, ("", ""))[0] != family:
        known = [name for name, (of, _) in CLASSES.items() if of == family]
        raise ValueError(f"{source}: expected one of {', '.join(known)}; got {name!r}")
    for key, expected in EXPECTED.items():
        if hf.get(key, expected) != expected:
            raise ValueError(f"{source}: expected {key} {expected!r}; got {hf[key]!r}")
    depth, heads, hidden, intermediate, vocab_size, positions = _sizes(hf, source)
    types, own = hf.get("type_vocab_size", 2), hf.get("bort_jax")
    own = own if isinstance(own, dict) else {}
    config = BertConfig(
        arch=Arch(depth, heads, hidden, intermediate).checked(),
        vocab_size=vocab_size,
        positions=positions - (1 + hf.get("pad_token_id", 1) if family == "roberta" else 0),
        dropout=hf.get("hidden_dropout_prob", 0.1),
        layer_norm_eps=hf.get("layer_norm_eps", 1e-12),
        head_norm_eps=own.get("head_norm_eps"),
        token_types=types if types > 1 else 0,
    )
    head, facts = CLASSES[name][1], own.get("facts", {})
    ids = hf.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
    labels = tuple(ids[key] for key in sorted(ids, key=int)) if head == "classifier" else ()
    if head == "choice":
        labels, problem = ("choice",), "choice"
    else:  # as stock classes do, a head with one output is taken for a number
        problem = "regression" if len(labels) == 1 else "classification"
    return Checkpoint(
        config,
        None,
        labels,
        headless=head == "none",
        family=family,
        problem=problem,
        facts=facts,
    )


def _sizes(hf: dict, source: str) -> list[int]:
    for name in SIZES:
        if type(hf.get(name)) is not int or not 1 <= hf[name] < 2**31:
            raise ValueError(f"{source}: {name} must be in [1, 2³¹); got {hf.get(name)!r}")
    return [hf[name] for name in SIZES]

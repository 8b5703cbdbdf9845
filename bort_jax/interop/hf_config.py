# SPDX-License-Identifier: Apache-2.0
"""`config.json` of a Hugging Face folder: what our models can be is read, all else is refused."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from bort_jax.arch import Arch, LayerwiseArch
from bort_jax.data.tokenizer import Tokenizer
from bort_jax.interop.bounds import check_texts, fraction_of, int_of
from bort_jax.interop.checkpoint import Checkpoint
from bort_jax.interop.padding import hull
from bort_jax.model import BertConfig
from bort_jax.storage.files import read_json

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
# Bort's own model type, until transformers dropped it; its classes were BERT's.
MODEL_TYPES = {"bert": "bert", "roberta": "roberta", "bort": "bert"}
EXPECTED = {
    "hidden_act": ("gelu", "gelu_python"),  # one function
    "position_embedding_type": ("absolute",),
    "is_decoder": (False,),
    "add_cross_attention": (False,),
    "quantization_config": (None,),
    "problem_type": (None, "single_label_classification", "regression"),
}
MOST_LABELS = 1 << 16
# Beginnings of tensors' names, and the head that they are of.
HEAD_TENSORS = {
    "cls.predictions.": "masked_lm",
    "lm_head.": "masked_lm",
    "classifier.": "classifier",
}


def hf_class(checkpoint: Checkpoint) -> str:
    """The stock class that a checkpoint is written for."""
    wanted = (checkpoint.family, checkpoint.head)
    return next(name for name, kind in CLASSES.items() if kind == wanted)


def first_position(checkpoint: Checkpoint) -> int:
    """RoBERTa counts positions from the padding id on; ours, like BERT's, count from 0."""
    if checkpoint.family == "bert":
        return 0
    return 1 + (checkpoint.tokenizer.special.pad if checkpoint.tokenizer else 1)


def to_hf_config(checkpoint: Checkpoint, *, arch: Arch | None = None) -> dict[str, Any]:
    """The sizes of layers that differ stand under a key of ours, beside those of their hull, or
    beside `arch` for tools that do not compute with them.

    Raises:
      ValueError: as `hull`.
    """
    config, arch = checkpoint.config, arch or hull(checkpoint.config.arch)
    layers = {} if arch == config.arch else {"arch": str(config.arch)}
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
        "max_position_embeddings": config.positions + first_position(checkpoint),
        "type_vocab_size": max(config.token_types, 1),
        "hidden_act": "gelu",
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.dropout,
        "layer_norm_eps": config.layer_norm_eps,
        "tie_word_embeddings": True,
        "dtype": "float32",
        **({"problem_type": "regression"} if checkpoint.problem == "regression" else {}),
        "bort_jax": {
            "head_norm_eps": config.head_norm_eps,
            "facts": dict(checkpoint.facts),
            **layers,
        },
        **(named if labels else {}),
        **ids,
    }


def from_hf_config(file: Path, *, names: Collection[str] = ()) -> Checkpoint:
    """A checkpoint without parameters.

    Args:
      names: of the tensors; they say the family and the head where `config.json` does not.

    Raises:
      ValueError: it is not the configuration of a BERT, RoBERTa or Bort that ours can be.
    """
    hf, source = read_json(file), str(file.parent)
    family, head = _kind(_complete(hf, names), source)
    own = hf.get("bort_jax")
    own = own if isinstance(own, dict) else {}
    types = int_of(hf, "type_vocab_size", source, least=0, default=2)
    config = BertConfig(
        arch=_arch(hf, own, source),
        vocab_size=int_of(hf, "vocab_size", source),
        positions=_positions(hf, family, source),
        dropout=fraction_of(hf, "hidden_dropout_prob", source, default=0.1),
        layer_norm_eps=fraction_of(hf, "layer_norm_eps", source, default=1e-12),
        head_norm_eps=_own_eps(own, source),
        token_types=types if types > 1 else 0,
    )
    labels, problem = _labels(hf, head, source)
    facts = check_texts(own.get("facts", {}), "facts", source)
    notes = _dropout_notes(hf, config.dropout, source)
    empty = Checkpoint(config, None, labels, headless=head == "none", family=family)
    return replace(empty, problem=problem, facts=facts, notes=notes)


def _complete(hf: dict, names: Collection[str]) -> dict:
    """With the model type and the class that the tensors' names tell, where none is given."""
    of = lambda start: any(name.startswith(start) for name in names)
    family = MODEL_TYPES.get(str(hf.get("model_type")))
    listed = hf.get("architectures")
    if listed and not hf.get("model_type"):
        named = CLASSES.get(str(listed[0]) if isinstance(listed, list) else "")
        family = named and named[0]
    if not listed and not hf.get("model_type"):
        family = next((family for family in FAMILIES if of(f"{family}.")), None)
    hf = hf if hf.get("model_type") or not family else hf | {"model_type": family}
    if listed or not names or not family:
        return hf
    head = next((head for start, head in HEAD_TENSORS.items() if of(start)), "none")
    return hf | {"architectures": [n for n, kind in CLASSES.items() if kind == (family, head)][:1]}


def _kind(hf: dict, source: str) -> tuple[str, str]:
    family, names = MODEL_TYPES.get(str(hf.get("model_type"))), hf.get("architectures")
    if family is None:
        raise ValueError(
            f"{source}: expected model_type bert or roberta (or bort); got {hf.get('model_type')!r}"
        )
    name = str(names[0]) if isinstance(names, list) and names else str(names)
    if CLASSES.get(name, ("", ""))[0] != family:
        known = [name for name, (of, _) in CLASSES.items() if of == family]
        raise ValueError(
            f"{source}: expected one of {', '.join(known)} under architectures in config.json; "
            f"got {name!r}"
        )
    head = CLASSES[name][1]
    tied = {"tie_word_embeddings": (True,)} if head == "masked_lm" else {}
    for key, allowed in (EXPECTED | tied).items():
        if hf.get(key, allowed[0]) not in allowed:
            raise ValueError(f"{source}: expected {key} {allowed[0]!r}; got {hf[key]!r}")
    return family, head


def _arch(hf: dict, own: dict, source: str) -> Arch | LayerwiseArch:
    fields = ("num_hidden_layers", "num_attention_heads", "hidden_size", "intermediate_size")
    stock = Arch(*(int_of(hf, name, source) for name in fields)).validate()
    if "arch" not in own:
        return stock
    arch = LayerwiseArch.parse(str(own["arch"]))
    if hull(arch) != stock:
        raise ValueError(f"{source}: {arch} is padded to {hull(arch)}, but the folder has {stock}")
    return arch


def _positions(hf: dict, family: str, source: str) -> int:
    table = int_of(hf, "max_position_embeddings", source)
    first = 0
    if family == "roberta":
        first = 1 + int_of(hf, "pad_token_id", source, least=0, default=1)
    if table <= first:
        raise ValueError(f"{source}: {table} positions, of which padding takes {first}")
    return table - first


def check_padding_id(file: Path, empty: Checkpoint, tokenizer: Tokenizer) -> None:
    """Raises ValueError where RoBERTa's positions would be counted from another token's id."""
    stated = int_of(read_json(file), "pad_token_id", str(file), least=0, default=1)
    pad = tokenizer.special.pad
    if empty.family == "roberta" and stated != pad:
        raise ValueError(
            f"{file}: pad_token_id is {stated}, but the tokenizer's {tokenizer.names[1]} has the "
            f"id {pad}; RoBERTa counts positions from it, so both must be the same"
        )


def _own_eps(own: dict, source: str) -> float | None:
    if own.get("head_norm_eps") is None:
        return None
    return fraction_of(own, "head_norm_eps", source, default=0.0)


def _dropout_notes(hf: dict, dropout: float, source: str) -> tuple[str, ...]:
    rates = {
        name: fraction_of(hf, name, source, default=dropout)
        for name in ("attention_probs_dropout_prob", "classifier_dropout")
        if hf.get(name) is not None
    }
    return tuple(
        f"{name} {rate:g}: our models have one dropout, hidden_dropout_prob {dropout:g}"
        for name, rate in rates.items()
        if rate != dropout
    )


def _labels(hf: dict, head: str, source: str) -> tuple[tuple[str, ...], str]:
    """A head's labels, and what it answers: as in stock classes, one output is a number."""
    if head != "classifier":
        return (("choice",), "choice") if head == "choice" else ((), "classification")
    ids = hf.get("id2label")
    if ids is None:
        count = int_of(hf, "num_labels", source, default=2)
        ids = {str(n): f"LABEL_{n}" for n in range(min(count, MOST_LABELS))}
    ids = check_texts(ids, "id2label", source)
    labels = tuple(ids.get(str(n), "") for n in range(len(ids)))
    if not labels or "" in labels or len(set(labels)) < len(labels):
        raise ValueError(f"{source}: id2label must name the classes 0 to n - 1; got {ids}")
    problem = "regression" if len(labels) == 1 else "classification"
    if hf.get("problem_type") == "regression" != problem:
        raise ValueError(f"{source}: problem_type regression of {len(labels)} numbers, not of one")
    return labels, problem

# SPDX-License-Identifier: Apache-2.0
"""Folders that stock `transformers` loads, and back: one table of names over safetensors.

This is the only exchange format: what pretraining and fine-tuning write is at once what
`BertForMaskedLM` and `BertForSequenceClassification` load.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from bort_jax.arch import Arch
from bort_jax.data.tokenizer import Tokenizer
from bort_jax.model import BertConfig, Classifier, MaskedLM, flat_shapes

WEIGHTS, CONFIG = "model.safetensors", "config.json"
MASKED_LM, CLASSIFIER = "BertForMaskedLM", "BertForSequenceClassification"

# Ours, below a prefix; theirs, below a prefix. `kernel` is transposed to torch's [out, in].
OUTER = {
    "encoder.embeddings.word.embedding": "bert.embeddings.word_embeddings.weight",
    "encoder.embeddings.position.embedding": "bert.embeddings.position_embeddings.weight",
    "encoder.embeddings.norm": "bert.embeddings.LayerNorm",
}
LAYER = {
    "attention.query": "attention.self.query",
    "attention.key": "attention.self.key",
    "attention.value": "attention.self.value",
    "attention.out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "feed_forward.up": "intermediate.dense",
    "feed_forward.down": "output.dense",
    "feed_forward_norm": "output.LayerNorm",
}
HEADS = {
    MASKED_LM: {
        "head.transform": "cls.predictions.transform.dense",
        "head.norm": "cls.predictions.transform.LayerNorm",
        "head.bias": "cls.predictions.bias",
    },
    CLASSIFIER: {"pooler": "bert.pooler.dense", "output": "classifier"},
}
TOKEN_TYPES = "bert.embeddings.token_type_embeddings.weight"
# Copies that older files carry of tied or constant tensors.
TIED = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}
CONSTANT = {"bert.embeddings.position_ids"}


@dataclass(frozen=True)
class Checkpoint:
    """A model with its parameters.

    Attributes:
      config: shapes and arithmetic.
      params: tree of float32 numpy arrays.
      labels: class names of a classifier; empty for a masked LM.
      tokenizer: what the ids mean; None where the folder has none.
    """

    config: BertConfig
    params: Any
    labels: tuple[str, ...] = ()
    tokenizer: Tokenizer | None = None

    @property
    def model(self) -> Any:
        """The Linen module: a `Classifier` with labels, else a `MaskedLM`."""
        if self.labels:
            return Classifier(self.config, len(self.labels))
        return MaskedLM(self.config)

    @property
    def required_tokenizer(self) -> Tokenizer:
        """The tokenizer; raises ValueError where the folder has none."""
        if self.tokenizer is None:
            raise ValueError("the checkpoint has no tokenizer.json: its ids cannot be read")
        return self.tokenizer

    @property
    def hf_class(self) -> str:
        return CLASSIFIER if self.labels else MASKED_LM


def save(checkpoint: Checkpoint, folder: str | Path) -> Path:
    """Writes `model.safetensors`, `config.json` and the tokenizer; the weights last.

    Stock BERT has token types, which Bort has not: one row of zeros is written for them.
    """
    from safetensors.numpy import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if checkpoint.tokenizer:
        _same_vocabulary(checkpoint.tokenizer, checkpoint.config, folder)
        checkpoint.tokenizer.save(folder)
    (folder / CONFIG).write_text(json.dumps(_hf_config(checkpoint), indent=2))
    partial = folder / (WEIGHTS + ".partial")
    save_file(to_hf(checkpoint), str(partial), metadata={"format": "pt"})
    partial.replace(folder / WEIGHTS)
    return folder


def load(folder: str | Path) -> Checkpoint:
    """Reads a folder that `save` or stock `transformers` wrote for one of the two classes.

    Raises:
      FileNotFoundError: `config.json` or `model.safetensors` is missing.
      ValueError: another model type, tensors too many, too few or of another shape (all are
        named), or a tokenizer of another size than the embedding table.
    """
    from safetensors.numpy import load_file

    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"no {name} in {folder}: not a checkpoint folder")
    config, labels = _from_hf_config(json.loads((folder / CONFIG).read_text()), folder)
    empty = Checkpoint(config, params=None, labels=labels)
    params = from_hf(load_file(str(folder / WEIGHTS)), empty, source=str(folder))
    tokenizer = Tokenizer.load(folder) if (folder / "tokenizer.json").is_file() else None
    if tokenizer:
        _same_vocabulary(tokenizer, config, folder)
    return Checkpoint(config, params, labels, tokenizer)


def to_hf(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    """Parameters under Hugging Face's names, in torch's layout, contiguous."""
    ours = traverse_util.flatten_dict(checkpoint.params, sep=".")
    tensors = {
        theirs: np.ascontiguousarray(_to_torch(name, np.asarray(ours[name], np.float32)))
        for name, theirs in _names(checkpoint).items()
    }
    return tensors | {TOKEN_TYPES: np.zeros((1, checkpoint.config.arch.hidden), np.float32)}


def from_hf(tensors: dict[str, np.ndarray], like: Checkpoint, *, source: str = "tensors"):
    """The parameter tree of `like` from Hugging Face's names; strict in both directions."""
    tensors = {_modern(name): array for name, array in tensors.items()}
    _fold_token_types(tensors)
    names, shapes = _names(like), _shapes(like)
    extra = tensors.keys() - set(names.values()) - TIED.keys() - CONSTANT
    missing = set(names.values()) - tensors.keys()
    if extra or missing:
        raise ValueError(
            f"{source} does not fit {like.hf_class} {like.config.arch}: "
            f"only in the file: {sorted(extra) or 'nothing'}; "
            f"only in the model: {sorted(missing) or 'nothing'}"
        )
    flat = {}
    for name, theirs in names.items():
        array = np.asarray(tensors[theirs], np.float32)
        expected = _to_torch(name, np.empty(shapes[name], bool)).shape
        if array.shape != expected:
            raise ValueError(f"{source}: {theirs} has shape {array.shape}, expected {expected}")
        flat[name] = _from_torch(name, array, shapes[name])
    return traverse_util.unflatten_dict(flat, sep=".")


def _names(checkpoint: Checkpoint) -> dict[str, str]:
    """Our full parameter names to theirs."""
    table = dict(OUTER) | HEADS[checkpoint.hf_class]
    for n in range(checkpoint.config.arch.depth):
        table |= {f"encoder.layer_{n}.{k}": f"bert.encoder.layer.{n}.{v}" for k, v in LAYER.items()}
    leaf = {"kernel": "weight", "scale": "weight", "bias": "bias"}
    names = {}
    for name in _shapes(checkpoint):
        module, _, last = name.rpartition(".")
        names[name] = table[name] if name in table else f"{table[module]}.{leaf[last]}"
    return names


def _shapes(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    return flat_shapes(checkpoint.model)


def _to_torch(name: str, array: np.ndarray) -> np.ndarray:
    """[h, a, k] or [a, k, h] to [out, in]; a bias [a, k] to [out]."""
    if name.endswith(".kernel"):
        inputs = array.shape[0] * (array.shape[1] if name.endswith("out.kernel") else 1)
        return array.reshape(inputs, -1).T
    return array.reshape(-1) if name.endswith(".bias") else array


def _from_torch(name: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return np.ascontiguousarray((array.T if name.endswith(".kernel") else array).reshape(shape))


def _modern(name: str) -> str:
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace(
        "LayerNorm.beta", "LayerNorm.bias"
    )


def _fold_token_types(tensors: dict[str, np.ndarray]) -> None:
    """Adds the first token type to every position: what a stock model does with no types given."""
    types, table = tensors.pop(TOKEN_TYPES, None), OUTER["encoder.embeddings.position.embedding"]
    if types is not None and table in tensors:
        tensors[table] = tensors[table] + types[0]


def _hf_config(checkpoint: Checkpoint) -> dict:
    config, arch = checkpoint.config, checkpoint.config.arch
    special = checkpoint.tokenizer.special if checkpoint.tokenizer else None
    labels = dict(enumerate(checkpoint.labels))
    return {
        "architectures": [checkpoint.hf_class],
        "model_type": "bert",
        "num_hidden_layers": arch.depth,
        "num_attention_heads": arch.heads,
        "hidden_size": arch.hidden,
        "intermediate_size": arch.intermediate,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.positions,
        "type_vocab_size": 1,
        "hidden_act": "gelu",
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.dropout,
        "layer_norm_eps": config.layer_norm_eps,
        "tie_word_embeddings": True,
        "dtype": "float32",
        **(
            {"id2label": labels, "label2id": {name: n for n, name in labels.items()}}
            if labels
            else {}
        ),
        **(
            {
                "pad_token_id": special.pad,
                "bos_token_id": special.bos,
                "eos_token_id": special.eos,
            }
            if special
            else {}
        ),
    }


def _from_hf_config(hf: dict, folder: Path) -> tuple[BertConfig, tuple[str, ...]]:
    if hf.get("model_type") != "bert" or hf.get("hidden_act", "gelu") != "gelu":
        raise ValueError(
            f"{folder}: expected model_type bert with hidden_act gelu; got "
            f"{hf.get('model_type')!r} with {hf.get('hidden_act')!r}"
        )
    name = (hf.get("architectures") or [None])[0]
    if name not in HEADS:
        raise ValueError(f"{folder}: expected one of {', '.join(HEADS)}; got {name!r}")
    config = BertConfig(
        arch=Arch(
            depth=hf["num_hidden_layers"],
            heads=hf["num_attention_heads"],
            hidden=hf["hidden_size"],
            intermediate=hf["intermediate_size"],
        ).checked(),
        vocab_size=hf["vocab_size"],
        positions=hf["max_position_embeddings"],
        dropout=hf.get("hidden_dropout_prob", 0.1),
        layer_norm_eps=hf.get("layer_norm_eps", 1e-12),
    )
    ids = hf.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
    labels = tuple(ids[key] for key in sorted(ids, key=int)) if name == CLASSIFIER else ()
    return config, labels


def _same_vocabulary(tokenizer: Tokenizer, config: BertConfig, folder: Path) -> None:
    if tokenizer.vocab_size != config.vocab_size:
        raise ValueError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} tokens, the model "
            f"{config.vocab_size}; they must be of one size"
        )

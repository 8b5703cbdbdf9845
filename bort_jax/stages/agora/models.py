# SPDX-License-Identifier: Apache-2.0
"""The models behind Agora's callables: the student, the teacher and a masked LM."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Float
from scipy.special import softmax

from bort_jax.agora import OneVsRest, Thresholds, one_hot
from bort_jax.data.row_text import row_texts
from bort_jax.interop import Checkpoint, read
from bort_jax.stages.agora.material import Material
from bort_jax.stages.predict.forward import class_logits
from bort_jax.stages.predict.outputs import check_length
from bort_jax.tasks import align_outputs


class Models(NamedTuple):
    """Timaeus, the student; Socrates, the teacher, where he is a checkpoint; the masked LM that τ
    `mlm` resamples with."""

    timaeus: Checkpoint
    socrates: Checkpoint | None
    masked_lm: Checkpoint | None


def load_models(model: str, socrates: str | None, masked_lm: str | None, *, seq_len: int) -> Models:
    """Reads the checkpoints and checks that they fit together.

    Args:
      socrates: None where he is no checkpoint.
      masked_lm: None where no τ needs one.

    Raises:
      ValueError: Socrates has no classes, the masked LM is none or has another tokenizer, or a row
        is longer than a model reads.
    """
    timaeus, teacher = read(model), None if socrates is None else read(socrates)
    check_length(seq_len, timaeus)
    if teacher and not teacher.labels:
        raise ValueError("socrates must be a classifier, not a masked LM")
    if masked_lm is None:
        return Models(timaeus, teacher, None)
    resampling = read(masked_lm)
    check_length(seq_len, resampling)
    if resampling.head != "masked_lm":
        raise ValueError("masked_lm must be a masked LM, not a classifier")
    if resampling.required_tokenizer.sha256 != timaeus.required_tokenizer.sha256:
        raise ValueError("model and masked_lm must have one and the same tokenizer")
    return Models(timaeus, teacher, resampling)


def labeller(socrates: Checkpoint, material: Material) -> Callable:
    """Socrates as `label_fn`: points of Timaeus's tokens to probabilities [n, c].

    Where his tokenizer is another, rows are decoded and tokenized for him, with room for twice as
    many tokens.

    Raises:
      ValueError: his head is not one for the task, or rows are longer than he reads.
    """
    align_outputs(np.zeros((0, len(socrates.labels))), material.task, labels=socrates.labels)
    own, theirs = socrates.required_tokenizer, material.tokenizer
    same, seq_len = own.sha256 == theirs.sha256, material.seq_len
    if same:
        check_length(seq_len, socrates)
    else:
        seq_len = min(2 * seq_len, socrates.config.positions)
    run = class_logits(socrates.model, pad=own.special.pad)

    def label(x: np.ndarray):
        rows = x
        if not same:
            columns = list(zip(*row_texts(x.reshape(-1, x.shape[-1]), theirs), strict=True))
            rows = own.encode(columns, seq_len=seq_len).ids
        outputs = align_outputs(run(socrates.params, rows), material.task, labels=socrates.labels)
        return cast_outputs(outputs.reshape(len(x), -1), material)

    return label


def cast_outputs(outputs: Float[np.ndarray, "n k"], material: Material) -> Float[np.ndarray, "n c"]:
    """Probabilities of the cast classes. Of a score (our reading) they are between about even, at
    a threshold, and certain, at the scale's length from the nearest one."""
    cast = material.cast
    if isinstance(cast, Thresholds):
        low, high = map(float, material.task.labels)
        away = np.abs(outputs - np.array(cast.cuts)).min(axis=1, keepdims=True)
        sure = np.clip(away / (high - low), 1e-3, 1).astype(np.float32)
        classes = len(cast.labels)
        return sure * one_hot(cast(outputs[:, 0]), classes) + (1 - sure) / classes
    chances = softmax(outputs.astype(np.float32), axis=1)
    if isinstance(cast, OneVsRest):
        positive = chances[:, cast.classes.index(cast.positive)]
        return np.stack([1 - positive, positive], axis=1)
    return chances


def flatten_params(params) -> dict[str, np.ndarray]:
    """Named arrays of a model, or of the models of a cross-validation, each under its number."""
    nested = dict(enumerate(params)) if isinstance(params, tuple) else params
    named = lambda path: ".".join(map(str, path))
    return {named(path): np.asarray(a) for path, a in flatten_dict(nested).items()}


def unflatten_params(arrays: dict[str, np.ndarray]):
    """The reverse of `flatten_params`."""
    nested = unflatten_dict(arrays, sep=".")
    return tuple(nested[str(k)] for k in range(len(nested))) if "0" in nested else nested

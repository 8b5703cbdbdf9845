# SPDX-License-Identifier: Apache-2.0
"""The models behind Agora's callables: the student, the teacher and a masked LM."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Float, Int
from scipy.special import softmax

from bort_jax.agora import OneVsRest, Thresholds
from bort_jax.data.row_text import row_texts
from bort_jax.interop import Checkpoint, read
from bort_jax.stages.agora.material import Material
from bort_jax.stages.predict.forward import class_logits
from bort_jax.stages.predict.outputs import check_length
from bort_jax.tasks import align_outputs


class Models(NamedTuple):
    """Timaeus, the student; Socrates, the teacher; the masked LM that τ `mlm` resamples with."""

    timaeus: Checkpoint
    socrates: Checkpoint
    masked_lm: Checkpoint | None


def load_models(model: str, socrates: str, masked_lm: str | None, *, seq_len: int) -> Models:
    """Reads the checkpoints and checks that they fit together.

    Args:
      masked_lm: None where no τ needs one.

    Raises:
      ValueError: Socrates has no classes, the masked LM is none or has another tokenizer, or a row
        is longer than a model reads.
    """
    timaeus, teacher = read(model), read(socrates)
    check_length(seq_len, timaeus)
    if not teacher.labels:
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
    """Socrates as `label_fn`: points of Timaeus's tokens to pseudo-labels and confidences.

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


def cast_outputs(
    outputs: Float[np.ndarray, "n k"], material: Material
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Cast labels and their confidences: the probability of the cast label; of a score its distance
    from the nearest threshold, as a fraction of the scale."""
    cast = material.cast
    if isinstance(cast, Thresholds):
        low, high = map(float, material.task.labels)
        away = np.abs(outputs - np.array(cast.cuts)).min(axis=1)
        return cast(outputs[:, 0]), np.clip(away / (high - low), 0, 1)
    chances = softmax(outputs, axis=1)
    predicted = chances.argmax(axis=1)
    if isinstance(cast, OneVsRest):
        positive = chances[:, cast.classes.index(cast.positive)]
        return cast(predicted), np.where(cast(predicted) == 1, positive, 1 - positive)
    return cast(predicted), chances.max(axis=1)


def flatten_params(params) -> dict[str, np.ndarray]:
    return {name: np.asarray(a) for name, a in flatten_dict(params, sep=".").items()}


def unflatten_params(arrays: dict[str, np.ndarray]):
    return unflatten_dict(arrays, sep=".")

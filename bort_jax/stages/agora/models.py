# SPDX-License-Identifier: Apache-2.0
"""The models behind Agora's callables: Timaeus, Socrates, and what τ needs of either."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Float, Int
from scipy.special import softmax

from bort_jax.agora import (
    OneVsRest,
    Parents,
    Tau,
    Thresholds,
    changed_fraction,
    mix_tau,
    mlm_tau,
    neighbour_tau,
)
from bort_jax.data.row_text import row_texts
from bort_jax.interop import Checkpoint, load
from bort_jax.stages.agora.material import Material
from bort_jax.stages.finetune.tuner import FineTuner, Theta
from bort_jax.stages.predict.forward import class_logits, resampler, text_states
from bort_jax.stages.predict.outputs import check_length
from bort_jax.suggest import nearest
from bort_jax.tasks import align_outputs

TAUS = ("mlm", "neighbour", "mix")
DISTANCES = ("tokens", "first", "mean")


class Loaded(NamedTuple):
    timaeus: Checkpoint
    socrates: Checkpoint
    masked_lm: Checkpoint | None


def load_all(config) -> Loaded:
    """Reads the checkpoints and checks that they fit together.

    Raises:
      ValueError: Socrates has no classes, the masked LM is none or has another tokenizer, or a row
        is longer than a model reads.
    """
    shares = tau_shares(config.tau)
    timaeus, socrates = load(config.model), load(config.socrates)
    check_length(config.seq_len, timaeus)
    if not socrates.labels:
        raise ValueError("socrates must be a classifier, not a masked LM")
    if "mlm" not in shares:
        return Loaded(timaeus, socrates, None)
    masked_lm = load(config.masked_lm)
    check_length(config.seq_len, masked_lm)
    if masked_lm.head != "masked_lm":
        raise ValueError("masked_lm must be a masked LM, not a classifier")
    if masked_lm.required_tokenizer.sha256 != timaeus.required_tokenizer.sha256:
        raise ValueError("model and masked_lm must have one and the same tokenizer")
    return Loaded(timaeus, socrates, masked_lm)


def tau_shares(given: tuple[str, ...]) -> dict[str, float]:
    """`("mlm:3", "mix")` as names and shares.

    Raises:
      ValueError: a name is unknown or given twice, or a share is not a positive number.
    """
    shares: dict[str, float] = {}
    for entry in given:
        name, _, share = entry.partition(":")
        if name not in TAUS:
            raise ValueError(f"no τ {name!r}{nearest(name, TAUS)}; there are {', '.join(TAUS)}")
        if name in shares:
            raise ValueError(f"τ {name} is given twice")
        try:
            shares[name] = float(share or 1)
        except ValueError as error:
            raise ValueError(f"the share of τ {name} must be a number; got {share!r}") from error
        if not 0 < shares[name] < np.inf:
            raise ValueError(f"the share of τ {name} must be positive; got {share}")
    if not shares:
        raise ValueError(f"--tau must name one of {', '.join(TAUS)}")
    return shares


def taus(config, loaded: Loaded, label_fn: Callable) -> dict[Tau, float]:
    """The generating functions that the configuration names, and how often each is drawn."""
    special = loaded.timaeus.required_tokenizer.special
    if config.side not in (0, 1, 2):
        raise ValueError(f"side must be 0, 1 or 2; got {config.side}")
    common = {"edit_fraction": config.share, "sides": (config.side,) if config.side else (1, 2)}

    def mlm() -> Tau:
        assert loaded.masked_lm is not None  # `load_all` reads it where `mlm` is named
        draw = resampler(loaded.masked_lm.model, loaded.masked_lm.params, special)
        return mlm_tau(draw, passes=config.passes, **common)

    def neighbour() -> Tau:
        table = np.asarray(loaded.timaeus.params["encoder"]["embeddings"]["word"]["embedding"])
        return neighbour_tau(table, special=special, nearest_tokens=config.neighbours, **common)

    make = {"mlm": mlm, "neighbour": neighbour, "mix": lambda: mix_tau(label_fn, **common)}
    return {make[name](): share for name, share in tau_shares(config.tau).items()}


def distances(config, timaeus: Checkpoint) -> Callable:
    """How far new points are from their parents, in the representation that is asked for."""
    if config.distance not in DISTANCES:
        raise ValueError(f"distance must be one of {', '.join(DISTANCES)}; got {config.distance!r}")
    if config.distance == "tokens":
        return changed_fraction
    pad = timaeus.required_tokenizer.special.pad
    states = text_states(timaeus.config, timaeus.params, pad=pad, pooling=config.distance)

    def represented(x: np.ndarray) -> np.ndarray:
        flat = states(x.reshape(-1, x.shape[-1])).reshape(len(x), -1)
        return flat / np.linalg.norm(flat, axis=1, keepdims=True)

    def cosine_distance(x: np.ndarray, parents: Parents) -> Float[np.ndarray, " m"]:
        return 1 - (represented(x) * represented(parents.x)).sum(axis=1)

    return cosine_distance


def labeller(socrates: Checkpoint, material: Material) -> Callable:
    """Socrates as `label_fn`: points of Timaeus's tokens to cast labels and confidences.

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
        rows = x.reshape(-1, x.shape[-1])
        if not same:
            columns = list(zip(*row_texts(rows, theirs), strict=True))
            rows = own.encode(columns, seq_len=seq_len).ids
        outputs = align_outputs(run(socrates.params, rows), material.task, labels=socrates.labels)
        return cast_outputs(outputs.reshape(len(x), -1), material)

    return label


def cast_outputs(
    outputs: Float[np.ndarray, "n k"], material: Material
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Cast labels, and how sure they are: the probability of the cast label; of a score how far it
    is from the nearest threshold, as a share of the scale."""
    cast = material.cast
    if isinstance(cast, Thresholds):
        low, high = map(float, material.task.labels)
        away = np.abs(outputs - np.array(cast.cuts)).min(axis=1)
        return cast(outputs[:, 0]), np.clip(away / (high - low), 0, 1)
    chances = softmax(outputs, axis=1)
    said = chances.argmax(axis=1)
    if isinstance(cast, OneVsRest):
        positive = chances[:, cast.classes.index(cast.positive)]
        return cast(said), np.where(cast(said) == 1, positive, 1 - positive)
    return cast(said), chances.max(axis=1)


def tuner_of(config, timaeus: Checkpoint, material: Material) -> FineTuner:
    """Timaeus's program; a task of scores has been cast into classes."""
    head = "choice" if material.task.head == "choice" else "classification"
    labels = tuple(material.cast.labels)
    recipe = dict(steps=config.steps, dropout=config.dropout, dtype=config.dtype)
    return FineTuner.of(timaeus, labels, head=head, **recipe)


def full_theta(theta, config) -> Theta:
    """A member of Θ with the single choices filled in."""
    fixed = {name: getattr(config, name)[0] for name in Theta._fields}
    return Theta(**(fixed | dict(theta)))


def packed(params) -> dict[str, np.ndarray]:
    return {name: np.asarray(a) for name, a in flatten_dict(params, sep=".").items()}


def unpacked(arrays: dict[str, np.ndarray]):
    return unflatten_dict(arrays, sep=".")

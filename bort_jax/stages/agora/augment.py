# SPDX-License-Identifier: Apache-2.0
"""Data augmentation of text: the τ that are asked for, and the distances that they are held to."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from bort_jax.agora import (
    Parents,
    Tau,
    Window,
    changed_fraction,
    generator,
    mix_tau,
    mlm_tau,
    neighbour_tau,
    retriever,
)
from bort_jax.interop import Checkpoint, read
from bort_jax.stages.agora.material import Material
from bort_jax.stages.agora.models import Models
from bort_jax.stages.agora.pool.retrieval import open_pool, retrieval_of
from bort_jax.stages.agora.pool.store import Encoder
from bort_jax.stages.predict.forward import resampler, text_states
from bort_jax.stages.predict.outputs import check_length
from bort_jax.suggest import nearest

TAUS = ("retrieve", "mlm", "neighbour", "mix")
DISTANCES = ("tokens", "first", "mean")


@dataclass(frozen=True)
class Augmentation:
    """Data augmentation near the student's mistakes.

    Attributes:
      tau: generating functions τ, of retrieve, mlm, neighbour and mix, each with a weight if
        wanted: [mlm:3,mix:1]. `retrieve` comes first, and the others make what it does not find.
        Without this option: retrieve where there is a pool, else mlm.
      pool: file of unlabelled rows with the task's text columns, of any size, for τ `retrieve`.
      pool_encoder: checkpoint whose mean states say what is near; without it Socrates where he is
        a checkpoint, else the student as it starts.
      pair_side: which text of a pair τ changes, 1 or 2; 0: both.
      samples_per_error: new points made near each misclassified row.
      parents: new points are near `mistakes`, near as many rows of `all` of the steering half, or
        as the `lift` says: near mistakes where these are neighbours more often than by chance.
      first_fraction: share of the steering half near which points are made before the first round;
        0: none, as in the paper.
      edit_fraction: fraction of a text's tokens that τ changes.
      mlm_passes: masked-LM passes in which τ `mlm` resamples them.
      nearest_tokens: among so many nearest tokens τ `neighbour` draws.
      distance: metric between a new point and its parent: `tokens`, the fraction that changed, or
        cosine distance in the student's encoding of both, of the `first` token or the `mean`.
      min_distance: smallest distance of a new point from its parent; of τ `retrieve` always the
        cosine distance in the pool's encoding.
      max_distance: largest distance.
    """

    tau: tuple[str, ...] = ()
    pool: str = ""
    pool_encoder: str = ""
    pair_side: int = 0
    samples_per_error: int = 2
    parents: str = "lift"
    first_fraction: float = 0.25
    edit_fraction: float = 0.2
    mlm_passes: int = 2
    nearest_tokens: int = 10
    distance: str = "tokens"
    min_distance: float = 0.0
    max_distance: float = 1.0

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each τ: how often it is drawn.

        Raises:
          ValueError: a name is unknown or given twice, a weight is not a positive number, or there
            is a pool without τ retrieve, or the reverse.
        """
        weights: dict[str, float] = {}
        for entry in self.tau or (("retrieve",) if self.pool else ("mlm",)):
            name, _, weight = entry.partition(":")
            if name not in TAUS:
                raise ValueError(f"no τ {name!r}{nearest(name, TAUS)}; there are {', '.join(TAUS)}")
            if name in weights:
                raise ValueError(f"τ {name} is given twice")
            weights[name] = positive(weight or "1", f"the weight of τ {name}")
        if ("retrieve" in weights) != bool(self.pool):
            raise ValueError("τ retrieve and --pool FILE belong together: give both or neither")
        return weights

    @property
    def retrieves(self) -> bool:
        """Whether points come from a pool."""
        return "retrieve" in self.weights

    def taus(self, models: Models, label_fn: Callable) -> dict[Tau, float]:
        """The generating functions, and the weight of each."""
        special = models.timaeus.required_tokenizer.special
        if self.pair_side not in (0, 1, 2):
            raise ValueError(f"pair_side must be 0, 1 or 2; got {self.pair_side}")
        if "mix" in self.weights and models.socrates is None:
            raise ValueError("τ mix asks Socrates about dev too: he must be a checkpoint")
        sides = (self.pair_side,) if self.pair_side else (1, 2)
        common = {"edit_fraction": self.edit_fraction, "sides": sides}

        def mlm() -> Tau:
            assert models.masked_lm is not None  # read where `mlm` is named
            draw = resampler(models.masked_lm.model, models.masked_lm.params, special)
            return mlm_tau(draw, passes=self.mlm_passes, **common)

        def neighbour() -> Tau:
            table = np.asarray(models.timaeus.params["encoder"]["embeddings"]["word"]["embedding"])
            return neighbour_tau(
                table, special=special, nearest_tokens=self.nearest_tokens, **common
            )

        make = {"mlm": mlm, "neighbour": neighbour, "mix": lambda: mix_tau(label_fn, **common)}
        return {make[name](): weight for name, weight in self.weights.items() if name in make}

    def encoder_of(self, models: Models, seq_len: int) -> Encoder:
        """The model whose states say which texts of the pool are near."""
        given = read(self.pool_encoder) if self.pool_encoder else None
        encoder = given or models.socrates or models.timaeus
        check_length(seq_len, encoder)
        return Encoder(encoder, seq_len)

    def generate_fn(
        self, models: Models, material: Material, label_fn: Callable, outputs_fn: Callable,
        *, folder: Path,
    ) -> Callable:  # fmt: skip
        """Builds Agora's `generate_fn`; nothing that it makes is a text that is held out.

        Args:
          outputs_fn: (the student's parameters, points) to the outputs of its head.
          folder: for the embedded pool.
        """
        guard, taus = material.guard, self.taus(models, label_fn)
        distance_fn = distance_of(self.distance, models.timaeus)
        make = lambda: generator(
            taus,
            samples_per_error=self.samples_per_error,
            window=Window(self.min_distance, self.max_distance, distance_fn),
            keys_fn=guard.keys_fn,
            forbidden=guard.held_out,
            sides=material.steer.sides,
        )
        if not self.retrieves:
            return make()
        encoder = self.encoder_of(models, material.seq_len)
        retrieval = retrieval_of(
            open_pool(self.pool, material, encoder, folder),
            encoder,
            material,
            outputs_fn,
            samples_per_error=self.samples_per_error,
            distances=(self.min_distance, self.max_distance),
        )
        return retriever(
            retrieval,
            keys_fn=guard.keys_fn,
            forbidden=guard.held_out,
            otherwise=make() if taus else None,
        )


def positive(text: str, name: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise ValueError(f"{name} must be a number; got {text!r}") from error
    if not 0 < value < np.inf:
        raise ValueError(f"{name} must be positive; got {text}")
    return value


def distance_of(metric: str, timaeus: Checkpoint) -> Callable:
    """Distances of new points from their parents, by the metric that is asked for.

    Raises:
      ValueError: there is no such metric.
    """
    if metric not in DISTANCES:
        raise ValueError(f"distance must be one of {', '.join(DISTANCES)}; got {metric!r}")
    if metric == "tokens":
        return changed_fraction
    unit_states = unit_states_of(timaeus, metric)

    def cosine_distance(x: np.ndarray, parents: Parents) -> Float[np.ndarray, " m"]:
        return 1 - (unit_states(x) * unit_states(parents.x)).sum(axis=1)

    return cosine_distance


def unit_states_of(model: Checkpoint, pooling: str) -> Callable:
    """Points to their encodings, of length 1; of a row with choices that of all of them."""
    pad = model.required_tokenizer.special.pad
    states = text_states(model.config, model.params, pad=pad, pooling=pooling)

    def unit_states(x: np.ndarray) -> Float[np.ndarray, "n h"]:
        flat = states(x.reshape(-1, x.shape[-1])).reshape(len(x), -1)
        return flat / np.linalg.norm(flat, axis=1, keepdims=True)

    return unit_states

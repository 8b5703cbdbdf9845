# SPDX-License-Identifier: Apache-2.0
"""Data augmentation of text: the τ that are asked for, and the distances that they are held to."""

from collections.abc import Callable
from dataclasses import dataclass

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
)
from bort_jax.interop import Checkpoint
from bort_jax.stages.agora.material import Material
from bort_jax.stages.agora.models import Models
from bort_jax.stages.predict.forward import resampler, text_states
from bort_jax.suggest import nearest

TAUS = ("mlm", "neighbour", "mix")
DISTANCES = ("tokens", "first", "mean")


@dataclass(frozen=True)
class Augmentation:
    """Data augmentation near the student's mistakes.

    Attributes:
      tau: generating functions τ, of mlm, neighbour and mix, each with a weight if wanted:
        [mlm:3,mix:1].
      pair_side: which text of a pair τ changes, 1 or 2; 0: both.
      samples_per_error: new points made near each misclassified row.
      correct_per_error: also augment so many correctly classified rows for each misclassified
        one; 0: as in the paper.
      edit_fraction: fraction of a text's tokens that τ changes.
      mlm_passes: masked-LM passes in which τ `mlm` resamples them.
      nearest_tokens: among so many nearest tokens τ `neighbour` draws.
      distance: metric between a new point and its parent: `tokens`, the fraction that changed, or
        cosine distance in the student's encoding of both, of the `first` token or the `mean`.
      min_distance: smallest distance of a new point from its parent.
      max_distance: largest distance.
    """

    tau: tuple[str, ...] = ("mlm",)
    pair_side: int = 0
    samples_per_error: int = 2
    correct_per_error: float = 0.0
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
          ValueError: a name is unknown or given twice, or a weight is not a positive number.
        """
        weights: dict[str, float] = {}
        for entry in self.tau:
            name, _, weight = entry.partition(":")
            if name not in TAUS:
                raise ValueError(f"no τ {name!r}{nearest(name, TAUS)}; there are {', '.join(TAUS)}")
            if name in weights:
                raise ValueError(f"τ {name} is given twice")
            weights[name] = positive(weight or "1", f"the weight of τ {name}")
        if not weights:
            raise ValueError(f"--tau must name one of {', '.join(TAUS)}")
        return weights

    def taus(self, models: Models, label_fn: Callable) -> dict[Tau, float]:
        """The generating functions, and the weight of each."""
        special = models.timaeus.required_tokenizer.special
        if self.pair_side not in (0, 1, 2):
            raise ValueError(f"pair_side must be 0, 1 or 2; got {self.pair_side}")
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
        return {make[name](): weight for name, weight in self.weights.items()}

    def generate_fn(self, models: Models, material: Material, label_fn: Callable) -> Callable:
        """Builds Agora's `generate_fn`; nothing that it makes is a text that is held out."""
        distance_fn = distance_of(self.distance, models.timaeus)
        return generator(
            self.taus(models, label_fn),
            samples_per_error=self.samples_per_error,
            window=Window(self.min_distance, self.max_distance, distance_fn),
            keys_fn=material.guard.keys_fn,
            forbidden=material.guard.held_out,
            sides=material.steer.sides,
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
    pad = timaeus.required_tokenizer.special.pad
    states = text_states(timaeus.config, timaeus.params, pad=pad, pooling=metric)

    def unit_states(x: np.ndarray) -> np.ndarray:
        flat = states(x.reshape(-1, x.shape[-1])).reshape(len(x), -1)
        return flat / np.linalg.norm(flat, axis=1, keepdims=True)

    def cosine_distance(x: np.ndarray, parents: Parents) -> Float[np.ndarray, " m"]:
        return 1 - (unit_states(x) * unit_states(parents.x)).sum(axis=1)

    return cosine_distance

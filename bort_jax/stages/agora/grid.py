# SPDX-License-Identifier: Apache-2.0
"""Θ as options: every combination of the choices."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bort_jax.agora import grid
from bort_jax.agora.theta import Theta as Pairs
from bort_jax.stages.finetune.tuner import Theta


@dataclass(frozen=True)
class Grid:
    """The hyperparameter sets Θ. A name with one choice is part of no set.

    Attributes:
      learning_rates: choices of Θ.
      weight_decays: choices of Θ.
      warmup_ratios: choices of Θ.
      batch_sizes: choices of Θ.
      seeds: choices of Θ.
    """

    learning_rates: tuple[float, ...] = (1e-4, 1e-5, 9e-6)
    weight_decays: tuple[float, ...] = (0.0, 10.0, 100.0, 350.0)
    warmup_ratios: tuple[float, ...] = (0.35, 0.40, 0.45, 0.50)
    batch_sizes: tuple[int, ...] = (8, 16)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)

    @property
    def choices(self) -> Mapping[str, Sequence[Any]]:
        """Choices by the names of θ's fields."""
        return {
            "seed": self.seeds,
            "learning_rate": self.learning_rates,
            "weight_decay": self.weight_decays,
            "warmup_ratio": self.warmup_ratios,
            "batch_size": self.batch_sizes,
        }

    def sets(self) -> list[Pairs]:
        """Every combination of the choices."""
        return grid(**self.choices)

    def full(self, theta: Pairs) -> Theta:
        """A set of Θ with the single choices filled in."""
        return Theta(**{name: values[0] for name, values in self.choices.items()} | dict(theta))

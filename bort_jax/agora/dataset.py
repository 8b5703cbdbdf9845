# SPDX-License-Identifier: Apache-2.0
"""Points with labels, hard or soft: what a train set is made of."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


class Dataset(NamedTuple):
    """n points along the first axis of x, in the form that `fit_fn` reads, and n labels.

    Attributes:
      x: the points.
      y: the class of each; of a soft label its likeliest.
      targets: soft labels, the probabilities of the c classes; None: every label is certain.
    """

    x: np.ndarray
    y: np.ndarray
    targets: Float[np.ndarray, "n c"] | None = None

    @classmethod
    def of_answers(
        cls, x: np.ndarray, answers: Float[np.ndarray, "n c"], *, soft: bool = True
    ) -> "Dataset":
        """Points with the answers of Socrates.

        Args:
          answers: the probabilities of the classes.
          soft: keep them; where all of them are certain there is nothing to keep.
        """
        y = answers.argmax(axis=1).astype(np.int32)
        keep = soft and bool((answers.max(axis=1) < 1).any())
        return cls(x, y, np.asarray(answers, np.float32) if keep else None)

    def take(self, rows: Int[np.ndarray, " m"] | slice) -> "Dataset":
        targets = None if self.targets is None else self.targets[rows]
        return Dataset(self.x[rows], self.y[rows], targets)

    def append(self, other: "Dataset") -> "Dataset":
        """This set and then the other; certain labels become soft ones where the others are."""
        classes = next(
            (one.targets.shape[1] for one in (self, other) if one.targets is not None), 0
        )
        parts = [
            (one.x, one.y.astype(self.y.dtype), *soft_targets(one, classes))
            for one in (self, other)
        ]
        return Dataset(*(np.concatenate(pair) for pair in zip(*parts, strict=True)))


def soft_targets(data: Dataset, classes: int) -> tuple[Float[np.ndarray, "n c"], ...]:
    """The targets of a set, or none where there are no classes."""
    if not classes:
        return ()
    return (one_hot(data.y, classes) if data.targets is None else data.targets,)


def one_hot(y: Int[np.ndarray, " n"], classes: int) -> Float[np.ndarray, "n c"]:
    """Probabilities of one who is certain."""
    return np.eye(classes, dtype=np.float32)[np.asarray(y, int)]

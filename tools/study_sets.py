# SPDX-License-Identifier: Apache-2.0
"""The train sets that `agora_study.py` compares: scarce rows, and what is added to them."""

import numpy as np

from bort_jax.agora import Agora, Dataset, Mistakes
from bort_jax.agora.loop import label_and_append
from bort_jax.tasks import Points

LABELLED = 4  # texts that Socrates labels for each point that is missing: not all are kept
MOST_PASSES = 20  # over steer-dev, where classes must stay balanced and few points are kept


def draw_scarce(usable: Points, rows: int, rng: np.random.Generator) -> tuple[Dataset, Dataset]:
    """So many rows, as many of each class as there are, and the rest."""
    order = rng.permutation(len(usable.y))
    rank = np.zeros(len(order), int)  # of each row among those of its class
    for label in np.unique(usable.y):
        mine = order[usable.y[order] == label]
        rank[mine] = np.arange(len(mine))
    chosen = order[np.argsort(rank[order], kind="stable")]
    return (Dataset(*usable.take(part)) for part in (chosen[:rows], chosen[rows:]))  # type: ignore


def random_augmentation_set(
    budget: int, dev: Dataset, scarce: Dataset, *, calls: Agora, rng
) -> Dataset:
    """The scarce rows and as many points by τ as Agora's best model had, near any rows of
    steer-dev: as Agora makes them, but for the mistakes."""
    train, wanted = scarce, len(scarce.y) + budget
    for _ in range(MOST_PASSES):
        if len(train.y) >= wanted:
            break
        rows, missing = rng.permutation(len(dev.y)), wanted - len(train.y)
        made = calls.generate_fn(Mistakes(dev.x[rows], rows, train.x), rng)
        some = rng.permutation(len(made.x))[: LABELLED * missing]
        picked = made._replace(x=made.x[some], origin=made.origin.take(some))
        longer, _ = label_and_append(train, picked, calls=calls)
        train = Dataset(longer.x[:wanted], longer.y[:wanted])
    return train


def distillation_set(budget: int, scarce: Dataset, others: np.ndarray, *, calls: Agora) -> Dataset:
    """The scarce rows, and as many others as Agora's best model had new points, of which some are
    not kept: the rule is Agora's."""
    some = others[: LABELLED * budget]
    answers = calls.label_fn(some)
    new = Dataset.of_answers(some, answers, soft=calls.soft_labels)
    kept = np.flatnonzero(calls.keep_fn(scarce.y, new.y, answers.max(axis=1)))[:budget]
    return scarce.append(new.take(kept))


def concatenate(a: Dataset, b: Dataset) -> Dataset:
    return Dataset(np.concatenate([a.x, b.x]), np.concatenate([a.y, b.y.astype(a.y.dtype)]))

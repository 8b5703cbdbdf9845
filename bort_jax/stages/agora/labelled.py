# SPDX-License-Identifier: Apache-2.0
"""What a person takes away beside the model: the labelled set, and rows to look at again."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from bort_jax.agora import Store
from bort_jax.data.row_text import point_texts
from bort_jax.stages.agora.material import Material
from bort_jax.storage.files import whole_file

MOST = 50  # rows that Socrates contradicts


def write_labelled(out: Path, store: Store, rounds: int, material: Material) -> None:
    """Writes every point that joined, with its lineage, as `labelled.parquet` and `labelled.csv`;
    the probability of each class has a column."""
    points = (point for number in range(1, rounds + 1) for point in store.lineage(number))
    write_table(out / "labelled", [flat_point(point, material.cast.labels) for point in points])


def flat_point(point: dict, names: tuple[str, ...]) -> dict:
    """A line of lineage, its label by name."""
    certain = [float(k == point["label"]) for k in range(len(names))]
    chances = point.pop("probabilities") or certain
    columns = {f"p_{name}": chance for name, chance in zip(names, chances, strict=True)}
    return point | {"label": names[int(point["label"])]} | columns


def write_contradictions(out: Path, label_fn: Callable, material: Material) -> None:
    """Writes `contradicted.csv` and `.parquet`: the rows of train and validation whose label
    Socrates contradicts most surely."""
    found = sorted(contradictions(label_fn, material), key=lambda row: -row["confidence"])
    write_table(out / "contradicted", found[:MOST])


def contradictions(label_fn: Callable, material: Material) -> Iterator[dict]:
    steer, report = material.steer, material.report
    parts = (
        ("train", material.train, np.arange(len(material.train.y))),
        ("validation", steer.points, steer.rows),
        ("validation", report.points, report.rows),
    )
    names = material.cast.labels
    for split, points, rows in parts:
        answers, texts = label_fn(points.x), point_texts(points.x, material.tokenizer)
        said = answers.argmax(axis=1)
        for k in np.flatnonzero(said != points.y):
            about = {"label": names[points.y[k]], "socrates": names[said[k]]}
            surely = {"confidence": float(answers[k].max()), "text": texts[k]}
            yield {"split": split, "row": int(rows[k])} | about | surely


def write_table(file: Path, rows: list[dict]) -> None:
    """Writes `FILE.parquet` and `FILE.csv`; none of them where there are no rows."""
    import pyarrow as pa
    from pyarrow import csv, parquet

    if not rows:
        return
    table = pa.Table.from_pylist(rows)
    for ending, write in ((".parquet", parquet.write_table), (".csv", csv.write_csv)):
        with whole_file(file.with_suffix(ending)) as partial:
            write(table, str(partial))

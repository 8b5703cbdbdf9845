# SPDX-License-Identifier: Apache-2.0
"""The texts that the parent is measured on: unlabelled ones, or those of the train rows."""

from pathlib import Path

from bort_jax.stages.finetune.splits import read_unlabelled
from bort_jax.storage.files import whole_file
from bort_jax.tasks import Examples, TaskOptions
from bort_jax.tasks.encode import join_pieces


def example_texts(examples: Examples) -> list[str]:
    """One text for each example: those of a pair follow each other."""
    joined = (" ".join(map(join_pieces, row)) for row in examples.texts)
    return [text.replace("\x1f", " ") for text in joined]


def write_texts(rows: TaskOptions, file: Path, *, unlabelled: str) -> Path:
    """Writes the column `text`, once. Unlabelled texts come first: the parent's answers to rows
    that it was trained on are too sure."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not file.is_file():
        more = read_unlabelled(unlabelled, rows.record()) if unlabelled else rows.read("train")
        texts = example_texts(more)
        with whole_file(file) as partial:
            pq.write_table(pa.table({"text": texts}), partial)
    return file

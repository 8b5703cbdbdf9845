# SPDX-License-Identifier: Apache-2.0
"""Any file or folder of text, parquet, JSON lines or CSV, through `datasets`."""

from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path

BUILDERS = {
    ".txt": "text",
    ".parquet": "parquet",
    ".jsonl": "json",
    ".json": "json",
    ".csv": "csv",
}


def read_rows(path: str | Path) -> Iterator[dict]:
    """Streams the rows of a file, or of every known file below a folder in sorted order.

    A text file has one row a line, in column `text`. Streaming keeps memory flat and
    writes no cache.

    Raises:
      FileNotFoundError: nothing at `path`, or no file with a known ending below it.
    """
    import datasets  # slow to import, and absent on some accelerator machines

    for file in _files(Path(path)):
        builder = BUILDERS[file.suffix]
        yield from datasets.load_dataset(
            builder, data_files=str(file), split="train", streaming=True
        )


def read_texts(path: str | Path, *, column: str = "text") -> Iterator[str]:
    """Streams the non-empty texts of a column; rows without text there are passed over.

    Raises:
      FileNotFoundError: as `read_rows`.
      ValueError: a row has no such column, or no row has any text.
    """
    found = False
    for row in read_rows(path):
        if column not in row:
            raise ValueError(f"{path}: no column {column!r}{nearest(column, row)}")
        if isinstance(row[column], str) and row[column].strip():
            found = True
            yield row[column]
    if not found:
        raise ValueError(f"{path}: column {column!r} holds no text")


def nearest(wanted: str, choices) -> str:
    """The end of an error message: the nearest of `choices` and all of them."""
    choices = [str(choice) for choice in choices]
    close = get_close_matches(str(wanted), choices, n=1, cutoff=0.5)
    return (f"; did you mean {close[0]!r}?" if close else ";") + f" it has {', '.join(choices)}"


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise FileNotFoundError(f"no text at {path}: expected a file or a folder of text files")
    below = sorted(path.rglob("*")) if path.is_dir() else [path]
    files = [file for file in below if file.is_file() and file.suffix in BUILDERS]
    if not files:
        raise FileNotFoundError(f"{path}: no file that ends in {', '.join(BUILDERS)}")
    return files

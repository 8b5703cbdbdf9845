# SPDX-License-Identifier: Apache-2.0
"""Rows of parquet, as many at a time as memory likes."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from bort_jax.data.reader.row import RawRow, ambiguous
from bort_jax.storage.files import check_pointer

BATCH, BATCH_BYTES = 1000, 1 << 24  # rows of a file that are there at a time


def parquet_rows(file: Path, columns: Collection[str] | None) -> Iterator[RawRow]:
    opened, number = open_parquet(file), 0
    with _parquet_errors(str(file)):
        names = opened.schema_arrow.names
        twice = ambiguous(names)
        wanted = [n for n in names if n not in twice and (columns is None or n in columns)]
        size = _rows_at_once(opened, wanted)
        batches = opened.iter_batches(batch_size=size, columns=wanted)
    every = dict.fromkeys(names) | twice
    while True:
        with _parquet_errors(f"{file}, after row {number}"):
            batch = next(batches, None)
            rows = batch.to_pylist() if batch is not None and wanted else []
        if batch is None:
            return
        for row in rows or [{}] * batch.num_rows:
            number += 1
            yield RawRow(f"{file}, row {number}", every | row)


def open_parquet(file: Path):
    check_pointer(file)
    # Not by `datasets`, which reads ahead until it has the whole file in memory.
    import pyarrow.parquet as pq

    with _parquet_errors(str(file)):
        return pq.ParquetFile(file)


@contextmanager
def _parquet_errors(where: str) -> Iterator[None]:
    """Errors of many kinds (the format's, values that Python cannot hold) in one line of ours."""
    try:
        yield
    except Exception as error:
        line = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ValueError(f"{where} cannot be read as parquet: {line}") from error


def column_bytes(file: Path, columns: Collection[str]) -> int:
    """Bytes of some columns of a parquet file, unpacked."""
    opened = open_parquet(file)
    with _parquet_errors(str(file)):
        return _column_bytes(opened, columns)


def _column_bytes(opened, columns: Collection[str]) -> int:
    groups = opened.metadata
    chunks = (
        groups.row_group(k).column(j)
        for k in range(groups.num_row_groups)
        for j in range(groups.num_columns)
    )
    return sum(
        chunk.total_uncompressed_size
        for chunk in chunks
        if chunk.path_in_schema.partition(".")[0] in columns
    )


def _rows_at_once(opened, columns: Collection[str]) -> int:
    """As many rows as take about `BATCH_BYTES`."""
    each = _column_bytes(opened, columns) / max(1, opened.metadata.num_rows)
    return max(1, min(BATCH, int(BATCH_BYTES / max(1, each))))

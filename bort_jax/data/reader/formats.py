# SPDX-License-Identifier: Apache-2.0
"""What a file is by its endings: text, JSON lines, CSV or parquet, compressed or not."""

import bz2
import gzip
import io
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

TEXT, PARQUET = ".txt", ".parquet"
FORMATS = (TEXT, ".jsonl", ".json", ".csv", PARQUET)
ALIASES = {".text": TEXT, ".ndjson": ".jsonl"}


def _open_zstd(file: Path, mode: str) -> IO[bytes]:
    import pyarrow as pa

    stream: Any = pa.CompressedInputStream(pa.OSFile(str(file), mode), "zstd")
    return io.BufferedReader(stream)


PACKED: dict[str, Callable[..., Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": _open_zstd,
}


def format_of(file: str | Path) -> tuple[str, str]:
    """The endings that say what a file is: `.csv` and `.gz` of `A.CSV.gz`, `.txt` of `a.text`; two
    empty ones of what is not read."""
    name = Path(file).name.lower()
    packed = next((ending for ending in PACKED if name.endswith(ending)), "")
    kind = Path(name.removesuffix(packed)).suffix
    kind = ALIASES.get(kind, kind)
    known = kind in FORMATS and not (packed and kind == PARQUET)
    return (kind, packed) if known else ("", "")


def known_endings() -> str:
    return f"{', '.join((*FORMATS, *ALIASES))} (all but {PARQUET} also with {', '.join(PACKED)})"


def not_read(file: str | Path) -> str:
    """Why a file of another ending is not read."""
    tabs = Path(file).suffix.lower() == ".tsv"
    return f"{'tab-separated files are' if tabs else 'it is'} not read; it may be {known_endings()}"

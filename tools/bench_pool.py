# SPDX-License-Identifier: Apache-2.0
"""τ retrieve's pool: texts a second that are embedded, seconds and memory of an exact search.

`python tools/bench_pool.py --encoder FOLDER --texts FILE` embeds real texts; the search is over
random unit vectors, as many as `--vectors`, in a folder of parts as a pool has them.
"""

import resource
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jsonargparse import auto_cli

from bort_jax.interop import read
from bort_jax.stages.agora.pool.search import BLOCK, search
from bort_jax.stages.agora.pool.store import INDEX, LAYOUT, VECTOR, Encoder, Pool, embed_pool
from bort_jax.storage.parts import OpenPart, Parts
from bort_jax.tasks import Task


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
      encoder: checkpoint; without it nothing is embedded.
      texts: file of texts.
      column: of it.
      seq_len: tokens of a text.
      vectors: of the search; 0: none.
      width: of a vector.
      queries: dev rows that are searched near.
      k: nearest of each.
    """

    encoder: str = ""
    texts: str = ""
    column: str = "text"
    seq_len: int = 128
    vectors: int = 1_000_000
    width: int = 384
    queries: int = 200
    k: int = 16


def main(settings: Settings) -> None:
    with tempfile.TemporaryDirectory() as folder:
        if settings.encoder:
            measure_embedding(settings, Path(folder) / "texts")
        if settings.vectors:
            measure_search(settings, Path(folder) / "vectors")


def measure_embedding(settings: Settings, folder: Path) -> None:
    encoder = Encoder(read(settings.encoder), settings.seq_len)
    started = time.perf_counter()
    pool = embed_pool(settings.texts, Task(columns=(settings.column,)), encoder, folder)
    seconds = time.perf_counter() - started
    print(f"embedded {len(pool):,} texts in {seconds:.1f} s: {len(pool) / seconds:,.0f} a second")
    print(f"peak memory {peak():,.0f} MiB")


def measure_search(settings: Settings, folder: Path) -> None:
    rng = np.random.default_rng(0)
    pool = write_random(settings, folder, rng)
    queries = unit(rng.standard_normal((settings.queries, settings.width)))
    free = np.ones(len(pool), bool)
    before = peak()
    for name in ("compiling", "again"):
        started = time.perf_counter()
        search(queries, pool.blocks(), free=free, k=settings.k, min_distance=0.0, max_distance=2.0)
        seconds = time.perf_counter() - started
        print(f"search of {settings.queries} near {len(pool):,}, {name}: {seconds:.2f} s")
    print(f"peak memory {peak():,.0f} MiB; before the search {before:,.0f} MiB")


def write_random(settings: Settings, folder: Path, rng: np.random.Generator) -> Pool:
    """A pool of random vectors without texts."""
    folder.mkdir(parents=True)
    parts = Parts(folder, LAYOUT, {"random": settings.vectors})
    for start in range(0, settings.vectors, BLOCK):
        count = min(BLOCK, settings.vectors - start)
        vectors = unit(rng.standard_normal((count, settings.width), np.float32))
        with OpenPart(parts) as part:
            part.write(vectors.astype(VECTOR).tobytes(), "vectors")
            part.write(np.zeros(count, INDEX).tobytes(), "index")
            parts = part.close(texts=count, rows=count)
    return Pool(parts, "random")


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def peak() -> float:
    """MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


if __name__ == "__main__":
    main(auto_cli(Settings, as_positional=False))

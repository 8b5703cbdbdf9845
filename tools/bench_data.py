# SPDX-License-Identifier: Apache-2.0
"""Masked tokens a second on one core from a built corpus, the build's MB/s of text, and what a
teacher cache costs.

python tools/bench_data.py CORPUS                     # as `bort-jax data build` wrote it
python tools/bench_data.py CORPUS --source TEXT       # builds TEXT with CORPUS's tokenizer
python tools/bench_data.py CORPUS --teacher DIR       # caches a masked LM on 4 × 64 rows
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from bort_jax.data.build import build_corpus
from bort_jax.data.masking import MaskedStream
from bort_jax.data.order import key_of, permute
from bort_jax.data.prepared import open_corpus
from bort_jax.stages.pretrain.teacher_cache import open_cache

REPEATS = 15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--source", help="text to build from; without it nothing is built")
    parser.add_argument("--column", default="text")
    parser.add_argument("--teacher", help="checkpoint folder; without it nothing is cached")
    given = parser.parse_args()
    if given.teacher:
        teacher_cache(given.corpus, given.teacher)
        return
    streams(given.corpus)
    orders()
    if given.source:
        show("build, MB/s of text", build_rates(given))


def streams(folder: Path) -> None:
    corpus = open_corpus(folder)
    words = corpus.tokenizer.word_starts()
    for batch_size, seq_len in ((64, 128), (1024, 128), (256, 512)):
        sizes: dict[str, Any] = dict(seed=0, batch_size=batch_size, seq_len=seq_len)
        kinds: dict[str, dict[str, Any]] = {
            "joined": {},
            "whole words": {"word_starts": words},
            "documents": {"packing": "documents"},
            "buckets": {"packing": "documents", "buckets": True},
        }
        for name, more in kinds.items():
            stream = MaskedStream(corpus.train, **sizes, **more)
            show(f"M tokens/s, {batch_size} × {seq_len}, {name}", token_rates(stream))


def teacher_cache(folder: Path, teacher: str, *, steps: int = 4) -> None:
    """Bytes a token of text, and tokens a second of reading rows with a teacher cache."""
    from bort_jax.interop import load
    from bort_jax.stages.pretrain.cache_teacher import TopKTeacher, cache_teacher

    corpus = open_corpus(folder)
    stream = corpus.stream(seed=0, batch_size=64, seq_len=128)
    tokens = 64 * 128
    with TemporaryDirectory() as out:
        live = TopKTeacher.of(load(teacher))
        cache, difference = cache_teacher(corpus, stream, live, out, steps=steps)
        size = sum(file.stat().st_size for file in Path(out).glob("*.bin"))
        print(f"teacher cache: {size / (tokens * cache.batches):.2f} bytes a token of text; k = 32")
        print(f"largest difference of a probability to the teacher's now: {difference:.1e}")
        kept = open_cache(out, corpus, stream, temperature=2.0)
        rates = []
        for _ in range(REPEATS):
            seconds = sum(timed(lambda k=k: kept.batch(k)) for k in range(cache.batches))
            rates.append(cache.batches * tokens / seconds / 1e6)
        show("M tokens/s, 64 × 128, joined, with a teacher cache", rates)


def token_rates(stream: MaskedStream, seconds: float = 0.1) -> list[float]:
    """Million tokens a second; one process, and numpy uses no thread here."""
    tokens = stream.batch(0)["ids"].size
    count = max(1, round(seconds / timed(lambda: stream.batch(1))))
    rates = []
    for repeat in range(REPEATS):
        start = time.perf_counter()
        for index in range(repeat * count, (repeat + 1) * count):
            stream.batch(index)
        rates.append(count * tokens / (time.perf_counter() - start) / 1e6)
    return rates


def orders(rows: int = 50_000_000, batch: int = 64) -> None:
    """What an order costs that is kept, and one that is computed."""
    kept = lambda: np.random.default_rng(0).permutation(rows)
    show(f"seconds of a permutation of {rows:,} rows, {8 * rows / 1e6:,.0f} MB", [timed(kept)])
    places, key = np.arange(batch), key_of(0, 1)
    computed = [1e6 * timed(lambda: permute(places, rows, key=key)) for _ in range(REPEATS)]
    show(f"µs of {batch} places of a keyed permutation of as many", computed)


def build_rates(given, repeats: int = 3) -> list[float]:
    rates = []
    for _ in range(repeats):
        with TemporaryDirectory() as folder:
            start = time.perf_counter()
            manifest = build_corpus(
                given.source,
                Path(folder) / "corpus",
                column=given.column,
                tokenizer=given.corpus / "tokenizer",
            )
            rates.append(manifest.total("bytes") / (time.perf_counter() - start) / 1e6)
    return rates


def timed(run: Callable) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def show(what: str, values: list[float]) -> None:
    low, middle, high = np.percentile(values, [0, 50, 100])
    print(f"{what}: median {middle:.1f} (smallest {low:.1f}, largest {high:.1f})")


if __name__ == "__main__":
    main()

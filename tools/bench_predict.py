# SPDX-License-Identifier: Apache-2.0
"""Scoring a file: rows cut to a few widths against rows padded to `--seq-len`, interleaved.

    python tools/bench_predict.py --tokenizer FOLDER --data FILE --column sentence

Weights are random: they change no time.
"""

import argparse
import time
from collections.abc import Callable

import jax
import numpy as np

from bort_jax.arch import Arch
from bort_jax.data.corpus import read_rows
from bort_jax.data.tokenizer_files import load_tokenizer
from bort_jax.engine.parallel import parallel_map, replicate
from bort_jax.model import BertConfig, Classifier, forward, random_params
from bort_jax.stages.predict.forward import class_logits, in_batches, lengths, widths


def padded(model: Classifier, *, pad: int, batch_size: int = 64) -> Callable:
    """As `class_logits`, with every row as wide as the longest allowed."""
    run_share = lambda params, batch: forward(model, params, batch["ids"], batch["ids"] != pad)
    run = in_batches(parallel_map(run_share), batch_size)
    return lambda params, x: run(params, {"ids": x})


def seconds(run: Callable) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", default="bort")
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--column", default="sentence")
    parser.add_argument("--seq-len", type=int, default=128)
    parser.add_argument("--rows", type=int, default=10**9)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    tokenizer = load_tokenizer(args.tokenizer)
    if tokenizer is None:
        parser.error(f"no tokenizer in {args.tokenizer}")
    texts = [row[args.column] for _, row in read_rows(args.data)][: args.rows]
    x = tokenizer.encode([texts], seq_len=args.seq_len).ids
    model = Classifier(BertConfig(Arch.parse(args.arch), tokenizer.vocab_size), 2)
    params = replicate(random_params(model, seed=0))
    pad = tokenizer.special.pad
    runs = {"padded": padded(model, pad=pad), "cut": class_logits(model, pad=pad)}
    first = {name: seconds(lambda run=run: run(params, x)) for name, run in runs.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(args.repeats):
        for name, run in runs.items():
            times[name].append(seconds(lambda run=run: run(params, x)))
    difference = np.abs(runs["padded"](params, x) - runs["cut"](params, x)).max()
    size = lengths(x, pad=pad)
    print(f"{len(x)} rows, {size.mean():.1f} tokens on average, {size.max()} at the most")
    print(f"{args.arch} on {jax.devices()[0].device_kind}; widths {widths(args.seq_len)}")
    for name, took in times.items():
        print(f"{name:>7}: {np.median(took):7.2f} s, the first time {first[name]:.2f} s")
    ratio = np.median(times["padded"]) / np.median(times["cut"])
    print(f"{ratio:.2f} times as fast; logits differ by {difference:.1e} at the most")


if __name__ == "__main__":
    main()

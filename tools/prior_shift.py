# SPDX-License-Identifier: Apache-2.0
"""What a shift of the class prior alone is worth on MRPC, where the train rows are balanced.

    python tools/prior_shift.py --rows glue/mrpc/train.parquet --student runs/three_mrpc/model

250 rows of each class are trained on; of the others 1,500 are scored, two thirds of them positive.
The same logits are then read as if train had been 60:40, or had the natural 2:1: nothing is learned
by that, and what the mean of F1 and accuracy gains could be taken for a gain of added rows.
"""

import argparse
from typing import Any

import numpy as np

from bort_jax.interop import read
from bort_jax.report.paired import gain
from bort_jax.report.terminal import show_table
from bort_jax.stages.finetune.tuner import FineTuner, Theta
from bort_jax.tasks import Examples, Points

OF_EACH, TESTED, STEPS, SEQ_LEN = 250, 1500, 150, 64
SHIFTS = {"balanced, as trained": 1.0, "60:40": 1.5, "2:1": 2.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", required=True, help="MRPC's train.parquet")
    parser.add_argument("--student", required=True, help="the checkpoint that is fine-tuned")
    parser.add_argument("--draws", type=int, default=5)
    given = parser.parse_args()
    start, examples = read(given.student), read_pairs(given.rows)
    points = examples.encode(start.required_tokenizer, seq_len=SEQ_LEN)
    tuner = FineTuner.of(start, ("0", "1"), steps=STEPS, dropout=0.0)
    found = [one_draw(tuner, points, seed) for seed in range(given.draws)]
    first, *others = SHIFTS
    rows = []
    for name in found[0]:
        scores = [one[name] for one in found]
        beside = str(gain(scores, [one[first] for one in found])) if name in others else ""
        rows.append((name, f"{np.mean(scores):.1f}", beside))
    show_table("held-out rows", ("read as", "%", f"beside {first}"), rows)


def read_pairs(file: str) -> Examples:
    import pandas as pd

    table: Any = pd.read_parquet(file)
    texts = list(table["sentence1"]), list(table["sentence2"])
    return Examples.of(texts, table["label"].to_numpy(np.int32))


def one_draw(tuner: FineTuner, points: Points, seed: int) -> dict[str, float]:
    """The mean of F1 and accuracy by prior, that of always yes, and balanced accuracies."""
    rng, y = np.random.default_rng(seed), np.asarray(points.y)
    order = rng.permutation(len(y))
    train = np.concatenate([order[y[order] == label][:OF_EACH] for label in (0, 1)])
    test = rng.permutation(np.setdiff1d(order, train))[:TESTED]
    theta = Theta(seed=seed, learning_rate=3e-4, weight_decay=0.01, warmup_ratio=0.1, batch_size=16)
    (params,) = tuner.fit_all([theta], points.take(train))
    logits = tuner.outputs(params, np.asarray(points.x)[test])
    margin = logits[:, 1] - logits[:, 0]
    said = {name: margin + np.log(odds) > 0 for name, odds in SHIFTS.items()}
    said |= {"always yes": np.ones(len(test), bool)}
    scores = {name: f1_and_accuracy(y[test], answers) for name, answers in said.items()}
    balanced = {
        f"{name}: balanced accuracy": balanced_accuracy(y[test], said[name]) for name in SHIFTS
    }
    return scores | balanced


def f1_and_accuracy(y: np.ndarray, said: np.ndarray) -> float:
    from sklearn.metrics import f1_score

    return 50 * float(f1_score(y, said) + np.mean(y == said))


def balanced_accuracy(y: np.ndarray, said: np.ndarray) -> float:
    from sklearn.metrics import balanced_accuracy_score

    return 100 * float(balanced_accuracy_score(y, said))


if __name__ == "__main__":
    main()

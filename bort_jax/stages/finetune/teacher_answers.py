# SPDX-License-Identifier: Apache-2.0
"""A teacher's answers to the rows of a fine-tuning, computed once and kept on disk.

A record is one example: the teacher's outputs in 32 bits, in the order of the task's labels, and,
where the student can learn from them, its last hidden states in 16 bits.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, Shaped

from bort_jax.data.tokenizer import Tokenizer
from bort_jax.engine.parallel import parallel_map, replicate
from bort_jax.interop import Checkpoint
from bort_jax.interop.description import fingerprint
from bort_jax.model import states_and_logits
from bort_jax.report.terminal import progress_bar
from bort_jax.stages.predict.forward import cut_to_width, for_device, in_batches, lengths
from bort_jax.stages.predict.outputs import check_length
from bort_jax.storage.parts import Layout, OpenPart, Parts, continue_parts
from bort_jax.tasks import Examples, Task, align_outputs

ANSWERS = Layout("teacher_answers.json", streams=("",), counts=("rows",))
PART_BYTES = 1 << 25  # 32 MB a file, and seconds of a teacher's work that a kill can cost
AT_ONCE = 64  # rows of tokens on all devices


class Teacher(NamedTuple):
    """A fine-tuned model that answers a task's examples.

    Attributes:
      checkpoint: with a head for the task.
      task: whose labels its outputs are put in the order of.
      hidden: whether its hidden states are wanted too.
    """

    checkpoint: Checkpoint
    task: Task
    hidden: bool

    @classmethod
    def of(
        cls, checkpoint: Checkpoint, task: Task, student: Checkpoint, *, hidden: bool
    ) -> "Teacher":
        """Hidden states are compared where both have one tokenizer and one hidden size.

        Raises:
          ValueError: the teacher has no head, or not one for the task, or no tokenizer.
        """
        if not checkpoint.labels:
            raise ValueError(
                f"the teacher must be fine-tuned on the task; it is a {checkpoint.head} checkpoint"
            )
        try:
            align_outputs(np.zeros((0, len(checkpoint.labels))), task, labels=checkpoint.labels)
        except ValueError as error:
            raise ValueError(f"the teacher does not fit: {error}") from None
        alike = checkpoint.config.arch.hidden == student.config.arch.hidden
        alike &= checkpoint.required_tokenizer.sha256 == student.required_tokenizer.sha256
        return cls(checkpoint, task, hidden and alike)

    def rows(
        self, examples: Examples, x: Int[np.ndarray, "n *c s"], tokenizer: Tokenizer
    ) -> Int[np.ndarray, "n *c t"]:
        """The examples in the teacher's tokens: `x` itself where these are the student's, else
        with room for twice as many.

        Raises:
          ValueError: rows are longer than the teacher reads.
        """
        own = self.checkpoint.required_tokenizer
        if own.sha256 == tokenizer.sha256:
            check_length(x.shape[-1], self.checkpoint)
            return x
        seq_len = min(2 * x.shape[-1], self.checkpoint.config.positions)
        return examples.encode(own, seq_len=seq_len).x

    def record(self, x: Int[np.ndarray, "n *c t"]) -> np.dtype:
        """The type of an example's answers."""
        outputs = len(self.task.labels) if self.task.head == "classification" else 1
        fields: list[Any] = [
            ("teacher", "<f4", (outputs * int(np.prod(x.shape[1:-1], dtype=int)),))
        ]
        if self.hidden:
            shape = (*x.shape[1:], self.checkpoint.config.arch.hidden)
            fields.append(("states", "<f2", shape))
        return np.dtype(fields)

    def answer_fn(self) -> Callable[[np.ndarray], Shaped[np.ndarray, " n"]]:
        """Builds `x: int[n, (c,) t] -> records`, over all local devices."""
        run = _forward_fn(self.checkpoint, hidden=self.hidden)

        def answer(x: np.ndarray) -> np.ndarray:
            found = run(x.reshape(-1, x.shape[-1]))
            outputs = align_outputs(found["logits"], self.task, labels=self.checkpoint.labels)
            if not np.isfinite(outputs).all():
                raise ValueError("the teacher's outputs are not finite: its training has diverged")
            records = np.empty(len(x), self.record(x))
            records["teacher"] = outputs.reshape(len(x), -1)
            if self.hidden:
                records["states"] = found["states"].reshape(records["states"].shape)
            return records

        return answer


@dataclass(frozen=True)
class TeacherAnswers:
    """The answers in a folder.

    Attributes:
      rows: those that have an answer, ascending.
    """

    parts: Parts
    record: np.dtype
    rows: Int[np.ndarray, " m"]

    def take(self, rows: Int[np.ndarray, " b"]) -> dict[str, np.ndarray]:
        """`teacher` and, where they are kept, `states` of some rows, a line each."""
        rows = np.searchsorted(self.rows, rows)
        numbers = np.searchsorted(self._ends, rows, side="right")
        starts = np.concatenate([[0], self._ends])[numbers]
        picked = [self._records[n][row] for n, row in zip(numbers, rows - starts, strict=True)]
        return {
            name: np.stack([record[name] for record in picked]) for name in self.record.names or ()
        }

    @cached_property
    def _ends(self) -> Int[np.ndarray, " parts"]:
        return np.cumsum([part.counts["rows"] for part in self.parts.parts])

    @cached_property
    def _records(self) -> list[np.ndarray]:
        return [
            self.parts.memory_map(number, dtype=self.record) for number in range(len(self.parts))
        ]


def cache_answers(
    teacher: Teacher,
    x: Int[np.ndarray, "n *c t"],
    folder: Path,
    *,
    rows: Int[np.ndarray, " m"] | None = None,
    part_bytes: int = PART_BYTES,
) -> TeacherAnswers:
    """The teacher's answers to rows in its tokens; those that are in `folder` are not computed.

    Args:
      rows: those that are wanted, ascending; none: all.

    Raises:
      ValueError: answers of another teacher or to other rows are in the folder, a file is damaged,
        or the teacher's outputs are not finite.
    """
    rows = np.arange(len(x)) if rows is None else rows
    x, record, answer = x[rows], teacher.record(x), teacher.answer_fn()
    parts = continue_parts(folder, ANSWERS, made_from(teacher, x))
    at_once = max(1, part_bytes // record.itemsize)
    with progress_bar("teacher", total=len(x), done=parts.total("rows"), unit="row") as bar:
        while (done := parts.total("rows")) < len(x):
            some = x[done : done + at_once]
            with OpenPart(parts) as part:
                part.write(answer(some).tobytes())
                parts = part.close(rows=len(some))
            bar.update(len(some))
    return TeacherAnswers(parts, record, rows)


def made_from(teacher: Teacher, x: Int[np.ndarray, "n *c t"]) -> dict[str, Any]:
    """All that the answers depend on, as JSON values."""
    rows = np.ascontiguousarray(x, np.int32)
    return {
        "teacher_sha256": fingerprint(teacher.checkpoint),
        "teacher_dtype": for_device(teacher.checkpoint).config.dtype,
        "labels": list(teacher.task.labels),
        "hidden": teacher.hidden,
        "rows_sha256": hashlib.sha256(str(rows.shape).encode() + rows.tobytes()).hexdigest(),
    }


def _forward_fn(checkpoint: Checkpoint, *, hidden: bool) -> Callable:
    """Builds `rows: int[m, t] -> {"logits": [m, k]}`, with `hidden` `"states": [m, t, h]` beside.

    Rows of like lengths share a batch; states behind its longest row are 0.
    """
    checkpoint, pad = for_device(checkpoint), checkpoint.required_tokenizer.special.pad

    def run_share(params, batch):
        ids = batch["ids"]
        states, logits = states_and_logits(checkpoint.model, params, ids, ids != pad)
        kept = {"states": states.astype(jnp.float16)} if hidden else {}
        return kept | {"logits": logits.astype(jnp.float32)}

    narrow = cut_to_width(parallel_map(run_share), pad=pad)

    def run_wide(params, batch):
        found = narrow(params, batch)
        if hidden:
            missing = batch["ids"].shape[1] - found["states"].shape[1]
            found["states"] = np.pad(found["states"], ((0, 0), (0, missing), (0, 0)))
        return found

    run, params = in_batches(run_wide, AT_ONCE), replicate(checkpoint.params)

    def over_all(rows: Int[np.ndarray, "m t"]) -> dict[str, np.ndarray]:
        order = np.argsort(lengths(rows, pad=pad), kind="stable")
        found, back = run(params, {"ids": rows[order]}), np.argsort(order)
        return {name: values[back] for name, values in found.items()}

    return over_all

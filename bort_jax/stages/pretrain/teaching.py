# SPDX-License-Identifier: Apache-2.0
"""Asks a teacher once for its answers to a stream, part by part; killed, it continues."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from bort_jax.data.masking import Batch, MaskedStream
from bort_jax.data.prepared import Corpus
from bort_jax.engine.parallel import parallel_map, replicate
from bort_jax.interop import Checkpoint
from bort_jax.model import top_k
from bort_jax.stages.predict.forward import in_batches
from bort_jax.stages.pretrain.answers import (
    ANSWERS,
    AnsweredStream,
    Answers,
    Part,
    check_part,
    file_name,
    packed_answers,
    question,
    read_answers,
)
from bort_jax.stages.pretrain.teacher import Teacher, check_predicts, check_reads, fingerprint
from bort_jax.storage.checks import differences
from bort_jax.storage.whole_file import WholeFile, check_sha256

PART_BYTES = 1 << 25  # 32 MB a file, and minutes of a teacher's work that a kill can cost
AT_ONCE = 32  # rows on all devices
SAMPLE = 4  # batches that are asked for again
# Of a probability. 16 bits of a logarithm are right to 2⁻¹¹ of it: to 0.0002 of the probability.
TOLERANCE = 0.01
WAIT = 2  # seconds before a progress bar shows


def teach(
    corpus: Corpus,
    stream: MaskedStream,
    teacher: Checkpoint,
    folder: str | Path,
    *,
    steps: int,
    k: int = 32,
    temperature: float = 2.0,
) -> tuple[Answers, float]:
    """Writes a teacher's answers to the first batches of a stream, or those that are missing.

    Args:
      folder: gets `answers.json` and the parts.
      steps: batches; more than there are adds some.
      k: tokens kept of each distribution.
      temperature: that the student will be trained at.

    Returns:
      what is in the folder, and the largest difference of a probability, of some batches, to what
      the teacher says when it is asked again.

    Raises:
      ValueError: a teacher that does not fit, more tokens than there are, answers to another
        question in the folder, a damaged file, or a difference that is more than rounding.
      FileNotFoundError: a file of the folder is missing.
    """
    check_reads(teacher, corpus.tokenizer, seq_len=stream.seq_len)
    check_predicts(teacher, corpus.tokenizer.vocab_size)
    if not 0 < k <= corpus.tokenizer.vocab_size:
        raise ValueError(f"top-k must be 1 to {corpus.tokenizer.vocab_size} tokens; got {k}")
    if steps < 1 or not temperature > 0:
        raise ValueError(f"steps {steps} and temperature {temperature} must be positive")
    folder, run = Path(folder), Teacher.of(teacher)
    wanted = question(corpus, stream) | {
        "teacher_sha256": fingerprint(teacher),
        "teacher_dtype": run.config.dtype,
        "temperature": temperature,
        "top_k": k,
    }
    answers = _resumed(folder, wanted) if (folder / ANSWERS).is_file() else Answers(wanted)
    ask = asked(run, k=k, temperature=temperature)
    answers = _finished(folder, answers, stream, ask, steps=steps)
    return answers, _difference(AnsweredStream(folder, answers, stream), ask)


def asked(teacher: Teacher, *, k: int, temperature: float) -> Callable[[Batch], Batch]:
    """Builds `batch -> answers`, in 32 bits, over all local devices."""

    def run_share(params, batch):
        _, logits = teacher.run(params, batch)
        found = top_k(logits.astype(jnp.float32), k=k, temperature=temperature)
        return {"top_ids": found.ids, "top_log_p": found.log_p, "log_tail": found.log_tail}

    run, params = in_batches(parallel_map(run_share), AT_ONCE), replicate(teacher.params)
    inputs = ("ids", "mask", "positions")
    return lambda batch: run(params, {name: batch[name] for name in inputs})


def _resumed(folder: Path, wanted: dict) -> Answers:
    answers = read_answers(folder)
    differing = differences(answers.made_from, wanted)
    if differing:
        raise ValueError(
            f"{folder} holds answers to another question ({'; '.join(differing)}); choose another "
            "folder, or the same settings to continue"
        )
    for number, part in enumerate(answers.parts):
        check_part(folder, answers, number)
        check_sha256(folder / file_name(number), part.sha256)
    return answers


def _finished(
    folder: Path, answers: Answers, stream: MaskedStream, ask: Callable, *, steps: int
) -> Answers:
    rows, places = stream.shape(0)
    at_once = max(1, PART_BYTES // (rows * places * answers.record.itemsize))
    with _progress(answers.batches, steps) as bar:
        while answers.batches < steps:
            first = answers.batches
            batches = range(first, min(steps, first + at_once))
            answers = answers.extended(_written(folder, answers, stream, ask, batches, bar))
            answers.write(folder)
    return answers


def _written(folder, answers: Answers, stream, ask, batches: range, bar: tqdm) -> Part:
    file, count = WholeFile(folder / file_name(len(answers.parts))), 0
    try:
        file.write(answers.header)
        for index in batches:
            records = packed_answers(ask(stream.batch(index)), answers.record)
            file.write(records.tobytes())
            count += len(records)
            bar.update()
        return Part(len(batches), count, file.close())
    finally:
        file.leave()


def _difference(kept: AnsweredStream, ask: Callable) -> float:
    """The largest difference of a kept probability to a new one, in batches over all of them.

    Raises:
      ValueError: it is more than rounding.
    """
    differences = [0.0]
    for index in _spread(kept.answers.batches):
        batch, found = kept.stream.batch(index), kept.answers_to(index)
        there = batch["weights"] > 0
        pair = ({name: x[there] for name, x in got.items()} for got in (found, ask(batch)))
        differences += [float(np.max(x, initial=0.0)) for x in _compared(*pair)]
    largest = max(differences)
    if not largest <= TOLERANCE:
        raise ValueError(
            f"{kept.folder}: a probability differs by {largest:.3f} from what the teacher says now"
        )
    return largest


def _compared(kept: Batch, asked: Batch) -> Iterator[np.ndarray]:
    """Differences of the probabilities of the kept tokens, and of the tails."""
    (_, k), shift = kept["top_ids"].shape, 1 << 32
    place = shift * np.arange(len(kept["top_ids"]))[:, None]
    keys = [(place + found["top_ids"].astype(np.int64)).ravel() for found in (kept, asked)]
    before, now = (np.exp(found["top_log_p"].astype(np.float32)).ravel() for found in (kept, asked))
    _, mine, theirs = np.intersect1d(*keys, assume_unique=True, return_indices=True)
    # A token that is not among the k likeliest now is no likelier than the last of them.
    again = np.repeat(now.reshape(-1, k)[:, -1], k)
    again[mine] = now[theirs]
    yield np.abs(before - again)
    yield np.abs(np.exp(asked["log_tail"]) - np.exp(kept["log_tail"].astype(np.float32)))


def _spread(batches: int) -> list[int]:
    return sorted({int(k) for k in np.linspace(0, batches - 1, SAMPLE)})


def _progress(done: int, total: int) -> tqdm:
    return tqdm(
        desc="teach",
        total=total,
        initial=done,
        unit="batch",
        delay=WAIT,
        mininterval=0.1 if sys.stderr.isatty() else 10,  # into a file seldom is enough
    )

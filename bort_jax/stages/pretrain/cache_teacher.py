# SPDX-License-Identifier: Apache-2.0
"""Runs a teacher once over the batches of a stream and caches its likeliest tokens."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from bort_jax.data.masking import Batch, MaskedStream
from bort_jax.data.prepared import Corpus
from bort_jax.engine.parallel import parallel_map, replicate
from bort_jax.interop import Checkpoint
from bort_jax.interop.description import fingerprint
from bort_jax.model import top_k as likeliest
from bort_jax.report.terminal import progress_bar
from bort_jax.stages.predict.forward import in_batches
from bort_jax.stages.pretrain.teacher import Teacher, check_predicts, check_reads
from bort_jax.stages.pretrain.teacher_cache import (
    CACHE,
    CachedTeacherStream,
    TeacherCache,
    cache_key,
)
from bort_jax.storage.parts import OpenPart, continue_parts

PART_BYTES = 1 << 25  # 32 MB a file, and minutes of a teacher's work that a kill can cost
AT_ONCE = 32  # rows on all devices
SAMPLE = 4  # batches that the teacher runs on again
# Of a probability. 16 bits of a logarithm are right to 2⁻¹¹ of it: to 0.0002 of the probability.
TOLERANCE = 0.01


@dataclass(frozen=True)
class TopKTeacher:
    """A teacher of which the likeliest tokens are kept.

    Attributes:
      checkpoint: a masked LM.
      sha256: its fingerprint.
      dtype: of its arithmetic.
      top_k: tokens kept of each distribution.
      temperature: that the student will be trained at.
      targets: `batch -> top_ids, top_log_p, log_tail` in 32 bits, over all local devices.
    """

    checkpoint: Checkpoint
    sha256: str
    dtype: str
    top_k: int
    temperature: float
    targets: Callable[[Batch], Batch]

    @classmethod
    def of(
        cls, checkpoint: Checkpoint, *, top_k: int = 32, temperature: float = 2.0
    ) -> "TopKTeacher":
        """Raises ValueError for a temperature or a number of tokens that cannot be."""
        if not 0 < top_k <= checkpoint.config.vocab_size:
            raise ValueError(
                f"top-k must be 1 to {checkpoint.config.vocab_size} tokens; got {top_k}"
            )
        if not temperature > 0:
            raise ValueError(f"temperature must be positive; got {temperature}")
        teacher = Teacher.of(checkpoint)
        targets = targets_fn(teacher, top_k=top_k, temperature=temperature)
        sha256 = fingerprint(checkpoint)
        return cls(checkpoint, sha256, teacher.config.dtype, top_k, temperature, targets)

    def description(self) -> dict[str, str | int | float]:
        """The settings that its cached distributions depend on."""
        return {
            "teacher_sha256": self.sha256,
            "teacher_dtype": self.dtype,
            "temperature": self.temperature,
            "top_k": self.top_k,
        }


def cache_teacher(
    corpus: Corpus,
    stream: MaskedStream,
    teacher: TopKTeacher,
    folder: str | Path,
    *,
    steps: int,
    part_bytes: int = PART_BYTES,
) -> tuple[TeacherCache, float]:
    """Caches a teacher's distributions in the first batches of a stream, or those missing.

    Args:
      folder: gets `teacher_cache.json` and the parts.
      steps: batches; more than there are adds some.
      part_bytes: about the size of a file.

    Returns:
      the cache, and the largest difference of a probability, in some batches, to one that the
      teacher computes now.

    Raises:
      ValueError: a teacher that does not fit, a cache made with other settings in the folder, a
        missing or damaged file, or a difference that is more than rounding.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1; got {steps}")
    check_reads(teacher.checkpoint, corpus.tokenizer, seq_len=stream.seq_len)
    check_predicts(teacher.checkpoint, corpus.tokenizer.vocab_size)
    made_from = cache_key(corpus, stream) | teacher.description()
    cache = TeacherCache(continue_parts(Path(folder), CACHE, made_from))
    rows, positions = stream.shape(0)
    at_once = max(1, part_bytes // (rows * positions * cache.record.itemsize))
    with progress_bar("cache teacher", total=steps, done=cache.batches, unit="batch") as bar:
        while (first := cache.batches) < steps:
            batches = range(first, min(steps, first + at_once))
            cache = _write_part(cache, stream, teacher, batches, bar=bar)
    return cache, _check_again(CachedTeacherStream(cache, stream), teacher)


def targets_fn(teacher: Teacher, *, top_k: int, temperature: float) -> Callable[[Batch], Batch]:
    """Builds `batch -> top_ids, top_log_p, log_tail`, in 32 bits, over all local devices."""

    def run_share(params, batch):
        _, logits = teacher.run(params, batch)
        found = likeliest(logits.astype(jnp.float32), k=top_k, temperature=temperature)
        return {"top_ids": found.ids, "top_log_p": found.log_p, "log_tail": found.log_tail}

    run, params = in_batches(parallel_map(run_share), AT_ONCE), replicate(teacher.params)
    inputs = ("ids", "mask", "positions")
    return lambda batch: run(params, {name: batch[name] for name in inputs})


def _write_part(
    cache: TeacherCache, stream: MaskedStream, teacher: TopKTeacher, batches: range, *, bar: tqdm
) -> TeacherCache:
    with OpenPart(cache.parts) as part:
        for index in batches:
            records = cache.to_records(teacher.targets(stream.batch(index)))
            part.write(records.tobytes())
            bar.update()
        return TeacherCache(part.close(batches=len(batches)))


def _check_again(cached: CachedTeacherStream, teacher: TopKTeacher) -> float:
    """The largest difference of a cached probability to a new one, in batches over all of them.

    Raises:
      ValueError: it is more than rounding.
    """
    differences = [0.0]
    for index in sorted({int(k) for k in np.linspace(0, cached.cache.batches - 1, SAMPLE)}):
        batch = cached.stream.batch(index)
        there = batch["weights"] > 0
        before, now = (
            {name: x[there] for name, x in found.items()}
            for found in (cached.targets(index), teacher.targets(batch))
        )
        differences += [float(np.max(x, initial=0.0)) for x in _differences(before, now)]
    largest = max(differences)
    if not largest <= TOLERANCE:
        raise ValueError(
            f"{cached.cache.parts.folder}: a probability differs by {largest:.3f} from the "
            "teacher's now"
        )
    return largest


def _differences(before: Batch, now: Batch) -> Iterator[Float[np.ndarray, " n"]]:
    """Differences of the probabilities of the cached tokens, and of the tails."""
    (_, k), shift = before["top_ids"].shape, 1 << 32
    place = shift * np.arange(len(before["top_ids"]))[:, None]
    keys = [(place + found["top_ids"].astype(np.int64)).ravel() for found in (before, now)]
    p, q = (np.exp(found["top_log_p"].astype(np.float32)).ravel() for found in (before, now))
    _, mine, theirs = np.intersect1d(*keys, assume_unique=True, return_indices=True)
    # A token that is not among the k likeliest now is no likelier than the last of them.
    again = np.repeat(q.reshape(-1, k)[:, -1], k)
    again[mine] = q[theirs]
    yield np.abs(p - again)
    yield np.abs(np.exp(now["log_tail"]) - np.exp(before["log_tail"].astype(np.float32)))

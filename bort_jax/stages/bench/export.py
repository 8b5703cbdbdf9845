# SPDX-License-Identifier: Apache-2.0
"""A checkpoint written for ONNX Runtime: compared, and in int8 only where that costs little."""

from pathlib import Path

from bort_jax.interop import Checkpoint
from bort_jax.interop.onnx.folder import INT8, MODEL, save_onnx
from bort_jax.interop.onnx.quantise import quantise, size_of
from bort_jax.interop.onnx.session import compare, run_rows
from bort_jax.stages.bench.accuracy import ScoredFile, scorer
from bort_jax.storage.files import whole_folder


def export_onnx(
    checkpoint: Checkpoint,
    out: Path,
    *,
    source: Path,
    int8_on: ScoredFile | None = None,
    max_loss: float = 0.01,
) -> list[str]:
    """Writes the folder, whole or not at all; says what was compared and measured.

    Args:
      source: the folder that the checkpoint came from (see `save_onnx`).
      int8_on: writes an int8 model too, scored on these rows.
      max_loss: the most that a score may lose by it.

    Raises:
      ImportError: the `onnx` extra is not installed.
      ValueError: outputs differ, a score loses more than `max_loss`, or ONNX Runtime refuses.
    """
    with whole_folder(out) as folder:
        save_onnx(checkpoint, folder, source=source)
        lines = [compare(checkpoint, folder / MODEL)]
        if int8_on:
            lines += quantise_within(checkpoint, folder, int8_on, max_loss=max_loss)
    return lines


def quantise_within(
    checkpoint: Checkpoint, folder: Path, file: ScoredFile, *, max_loss: float
) -> list[str]:
    """Quantises a folder's model; raises ValueError where a score loses more than `max_loss`."""
    before = run_rows(checkpoint, folder / MODEL)
    score = scorer(checkpoint, file, reference=before)
    whole = score(before)
    narrow = score(run_rows(checkpoint, quantise(folder)))
    changes = [f"{name} {whole[name]:.4f}, in int8 {narrow[name]:.4f}" for name in whole]
    if not all(whole[name] - narrow[name] <= max_loss for name in whole):
        raise ValueError(
            f"int8 loses more than --max-loss {max_loss:g} on {file.path}: {'; '.join(changes)}"
        )
    sizes = [f"{size_of(folder / name) / 1e6:,.1f} MB" for name in (MODEL, INT8)]
    return [*changes, f"{sizes[0]}, in int8 {sizes[1]}"]

# SPDX-License-Identifier: Apache-2.0
"""An extraction on disk: `extraction.parquet`, all of Ξ, and `extraction.json`, the answer."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from bort_jax.ose.budget import Budget
from bort_jax.ose.candidates import Candidates
from bort_jax.ose.extraction import Extraction, conclude, start, with_evidence
from bort_jax.storage.checks import explain_damage
from bort_jax.storage.files import read_json, write_json

TABLE, ANSWER = "extraction.parquet", "extraction.json"
MEASURED = ("asked", "errors", "seconds", "w", "upper", "front", "break_even")


def save_table(extraction: Extraction, folder: Path, **notes: Any) -> None:
    """Writes both files; `notes` are added to the JSON. The JSON is written last, whole or not."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    candidates = extraction.candidates
    fields = {
        f"arch.{k}": np.array([arch[k] for arch in candidates.archs])
        for k in range(len(candidates.archs[0]))
    }
    costs = {f"cost.{name}": values for name, values in candidates.columns.items()}
    measured = {name: getattr(extraction, name) for name in MEASURED}
    names = {"arch": [str(arch) for arch in candidates.archs]}
    pq.write_table(pa.table({**names, **fields, **costs, **measured}), folder / TABLE)
    write_json(folder / ANSWER, _finite(answer(extraction) | notes))


def answer(extraction: Extraction) -> dict[str, Any]:
    """The answer as plain values: NaN and ∞ are None."""
    candidates, k, t = extraction.candidates, extraction.best, extraction.candidates.maximum_point
    runner_up = extraction.runner_up
    return _finite(
        {
            "best": str(extraction.best_arch),
            "runner_up": None if runner_up is None else str(extraction.archs[runner_up]),
            "costs": {name: values[k].item() for name, values in candidates.columns.items()},
            "params": candidates.params[k].item(),
            "inference_cost": candidates.inference_cost[k].item(),
            "error": float(extraction.errors[k]),
            "w": float(extraction.w[k]),
            "inference": candidates.inference,
            "maximum_point": str(extraction.maximum_point),
            "maximum_params": candidates.params[t].item(),
            "maximum_inference_cost": candidates.inference_cost.max().item(),
            "front": [str(extraction.archs[f]) for f in np.flatnonzero(extraction.front)],
            "budget": {
                "ceilings": dict(extraction.budget.ceilings),
                "floors": dict(extraction.budget.floors),
            },
            "spread": dict(zip(("error", "savings"), extraction.spread, strict=True)),
            "costs_decided": bool(extraction.costs_decided),
            "seconds": float(extraction.seconds.sum()),
            "certificate": asdict(extraction.certificate),
        }
    )


def load_table(folder: str | Path, arch_type: type) -> Extraction:
    """Reads what `save_table` wrote.

    Args:
      arch_type: NamedTuple that the architectures are.

    Raises:
      ValueError: the folder holds no extraction, or one of another kind of architecture.
    """
    folder = Path(folder)
    if not (folder / ANSWER).is_file() or not (folder / TABLE).is_file():
        raise ValueError(f"{folder} holds no finished extraction: no {TABLE} or no {ANSWER}")
    with explain_damage(folder):
        return _load(folder, arch_type)


def _load(folder: Path, arch_type: type) -> Extraction:
    import pyarrow.parquet as pq

    found = read_json(folder / ANSWER)
    with explain_damage(folder / TABLE):
        table = pq.read_table(folder / TABLE)
    columns = {name: np.asarray(table[name]) for name in table.column_names if name != "arch"}
    fields = sorted((n for n in columns if n.startswith("arch.")), key=lambda n: int(n[5:]))
    if len(fields) != len(arch_type._fields):
        raise ValueError(f"{folder} holds architectures of {len(fields)} numbers, not {arch_type}")
    archs = [arch_type(*map(int, row)) for row in np.stack([columns[f] for f in fields], axis=1)]
    costs = {n.removeprefix("cost."): v for n, v in columns.items() if n.startswith("cost.")}
    candidates, budget = Candidates(archs, costs, found["inference"]), Budget(**found["budget"])
    progress = start(candidates, budget, epsilon=found["certificate"]["epsilon"])
    progress = progress._replace(
        asked=columns["asked"].astype(bool), errors=columns["errors"].astype(float)
    )
    certificate = found["certificate"]
    extraction = conclude(progress, columns["seconds"], search=certificate["search"], budget=budget)
    return with_evidence(extraction, certificate["evidence"])


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

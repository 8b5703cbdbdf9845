# SPDX-License-Identifier: Apache-2.0
"""MODEL is a checkpoint, or an architecture such as bort or bert-base, which gets random weights.
Each is timed in every form that this machine can run, in turns: this package, StableHLO, ONNX
Runtime in float32 and int8, torch. The table, a plot and JSON stand in OUT."""

from bort_jax.stages.bench.config import POSITIONAL, Config
from bort_jax.stages.bench.run import run

__all__ = ["POSITIONAL", "Config", "run"]

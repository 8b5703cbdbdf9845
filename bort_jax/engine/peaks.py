# SPDX-License-Identifier: Apache-2.0
"""Floating-point operations a second that devices can do, by their vendors' data sheets."""

import re

import jax

# Source: the vendor's data sheet of each; dense bfloat16 (float16 on T4 and V100) with float32
# sums, without sparsity. By `device_kind`, of one jax device: that is a die, half of an MI250X,
# and a core, half a chip of TPU v2 and v3.
DATA_SHEETS = {
    "NVIDIA B200": 2250.0e12,
    "NVIDIA H200": 989.4e12,
    "NVIDIA H200 NVL": 835.5e12,
    "NVIDIA GH200": 989.4e12,
    "NVIDIA H100": 989.4e12,
    "NVIDIA H100 NVL": 835.5e12,
    "NVIDIA H100 PCIe": 756.0e12,
    "NVIDIA A100": 312.0e12,
    "NVIDIA A10": 125.0e12,
    "NVIDIA A10G": 70.0e12,
    "NVIDIA L4": 121.0e12,
    "NVIDIA L40S": 362.05e12,
    "NVIDIA GeForce RTX 4090": 165.2e12,
    "Tesla T4": 65.0e12,
    "Tesla V100": 125.0e12,
    "Tesla V100-PCIE": 112.0e12,
    "AMD Instinct MI250X": 191.5e12,
    "AMD Instinct MI300X": 1307.4e12,
    "TPU v2": 22.5e12,
    "TPU v3": 61.5e12,
    "TPU v4": 275.0e12,
    "TPU v5 lite": 197.0e12,
    "TPU v5e": 197.0e12,
    "TPU v5": 459.0e12,
    "TPU v5p": 459.0e12,
    "TPU v6 lite": 918.0e12,
    "TPU v6e": 918.0e12,
}
# Memory and socket change no peak; whatever else follows a name (a laptop's, a MIG slice) does.
VARIANT = re.compile(r"([ -](\d+GB|HBM\w*|SXM\d*|PCIE))*", re.IGNORECASE)


def peak_flops() -> float | None:
    """The peak of the devices of all processes; None where no data sheet is known."""
    found = known_peak(jax.local_devices()[0].device_kind)
    return None if found is None else found * jax.device_count()


def known_peak(kind: str) -> float | None:
    """The peak of one device of a kind, or None."""
    names = [name for name in DATA_SHEETS if kind.startswith(name)]
    name = max(names, key=len, default=None)
    if name is None or not VARIANT.fullmatch(kind[len(name) :]):
        return None
    return DATA_SHEETS[name]

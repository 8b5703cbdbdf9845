# SPDX-License-Identifier: Apache-2.0
"""Floating-point operations a second that devices can do, by their vendors' data sheets."""

import re

import jax

# Dense bfloat16 (float16 on T4 and V100) with float32 sums; a sheet "with sparsity" counts
# twice. By `device_kind`, of one jax device: that is a die, half of an MI250X, and a core, half a
# chip of TPU v2 and v3. Behind each its vendor's sheet, as it is quoted by projects that name it;
# those marked ° stand in such tables without one.
DATA_SHEETS = {
    "NVIDIA B200": 2250.0e12,  # Blackwell datasheet (3384703)
    "NVIDIA H200": 989.4e12,  # nvidia.com/en-us/data-center/h200
    "NVIDIA H200 NVL": 835.5e12,  # the same page: 1,671 with sparsity
    "NVIDIA H100": 989.4e12,  # nvidia.com/en-us/data-center/h100: 1,979 with sparsity
    "NVIDIA H100 NVL": 835.5e12,  # the same page
    "NVIDIA H100 PCIe": 756.0e12,  # the same page's first edition: 1,513 with sparsity
    "NVIDIA A100": 312.0e12,  # A100 datasheet (1758950)
    "NVIDIA A10": 125.0e12,  # A10 datasheet
    "NVIDIA A10G": 70.0e12,  # ° AWS's variant of the A10
    "NVIDIA L4": 121.0e12,  # L4 datasheet: 242 with sparsity
    "NVIDIA L40S": 362.05e12,  # L40S datasheet (28413)
    "NVIDIA GeForce RTX 4090": 165.2e12,  # ° NVIDIA Ada GPU architecture, appendix A
    "Tesla T4": 65.0e12,  # T4 datasheet (951643)
    "Tesla V100": 125.0e12,  # V100 datasheet (1165301)
    "Tesla V100-PCIE": 112.0e12,  # the same
    "AMD Instinct MI250X": 191.5e12,  # amd.com, MI250X: 383 of two dies
    "AMD Instinct MI300X": 1307.4e12,  # amd.com, MI300X
    "TPU v2": 22.5e12,  # arXiv 1907.10701: 45 a chip
    "TPU v3": 61.5e12,  # cloud.google.com/tpu/docs/v3: 123 a chip
    "TPU v4": 275.0e12,  # cloud.google.com/tpu/docs/v4
    "TPU v5 lite": 197.0e12,  # cloud.google.com/tpu/docs/v5e
    "TPU v5e": 197.0e12,
    "TPU v5": 459.0e12,  # cloud.google.com/tpu/docs/v5p
    "TPU v5p": 459.0e12,
    "TPU v6 lite": 918.0e12,  # cloud.google.com/tpu/docs/v6e
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

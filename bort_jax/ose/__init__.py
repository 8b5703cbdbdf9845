# SPDX-License-Identifier: Apache-2.0
"""Optimal subarchitecture extraction: objective, order, interval scheme, certificate."""

from bort_jax.ose.abnc import AbncReport, check_abnc
from bort_jax.ose.interval import Certificate, Extraction, extract
from bort_jax.ose.objective import break_even, on_pareto_front, w_coefficient

__all__ = [
    "AbncReport",
    "Certificate",
    "Extraction",
    "break_even",
    "check_abnc",
    "extract",
    "on_pareto_front",
    "w_coefficient",
]

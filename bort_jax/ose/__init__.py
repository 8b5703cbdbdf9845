# SPDX-License-Identifier: Apache-2.0
"""Optimal subarchitecture extraction: objective, searches, budgets, certificate."""

from bort_jax.ose.budget import Budget, Infeasible
from bort_jax.ose.candidates import Candidates
from bort_jax.ose.extraction import Certificate, ErrorFn, Extraction, extract, plan, resolve
from bort_jax.ose.layer_problem import LayerChoices
from bort_jax.ose.layerwise import LayerwiseSolution, solve_layerwise
from bort_jax.ose.objective import break_even, on_pareto_front, w_coefficient

__all__ = [
    "Budget",
    "Candidates",
    "Certificate",
    "ErrorFn",
    "Extraction",
    "Infeasible",
    "LayerChoices",
    "LayerwiseSolution",
    "break_even",
    "extract",
    "on_pareto_front",
    "plan",
    "resolve",
    "solve_layerwise",
    "w_coefficient",
]

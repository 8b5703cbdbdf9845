# SPDX-License-Identifier: Apache-2.0
"""Parameters p(ξ), inference cost i(ξ) and memory: exact counts, and latency as fitted."""

from bort_jax.cost.bert import Head, bert_network
from bort_jax.cost.evaluate import Costs, cost_function, network_cost
from bort_jax.cost.fit import Fit, fit_polynomial
from bort_jax.cost.latency import Latency, designed_sample, fit_latency
from bort_jax.cost.network import Network, Part, by_part, total
from bort_jax.cost.polynomial import Polynomial

__all__ = [
    "Costs",
    "Fit",
    "Head",
    "Latency",
    "Network",
    "Part",
    "Polynomial",
    "bert_network",
    "by_part",
    "cost_function",
    "designed_sample",
    "fit_latency",
    "fit_polynomial",
    "network_cost",
    "total",
]

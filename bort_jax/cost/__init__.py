# SPDX-License-Identifier: Apache-2.0
"""Parameters p(ξ) and inference cost i(ξ) as exact polynomials."""

from bort_jax.cost.bert import Head, Network, bert_network
from bort_jax.cost.evaluate import Costs, cost
from bort_jax.cost.polynomial import Polynomial

__all__ = ["Costs", "Head", "Network", "Polynomial", "bert_network", "cost"]

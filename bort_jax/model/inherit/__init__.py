# SPDX-License-Identifier: Apache-2.0
"""Extraction of smaller architectures inside a pretrained parent, with its weights."""

from bort_jax.model.inherit.gram import gram_bytes
from bort_jax.model.inherit.inheritance import Inheritance, LayerErrors, inherit, monotone
from bort_jax.model.inherit.sequential import refined

__all__ = [
    "Inheritance",
    "LayerErrors",
    "gram_bytes",
    "inherit",
    "monotone",
    "refined",
]

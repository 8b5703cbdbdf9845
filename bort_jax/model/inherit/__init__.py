# SPDX-License-Identifier: Apache-2.0
"""Extraction of smaller architectures inside a pretrained parent, with its weights."""

from bort_jax.model.inherit.errors import LayerErrors, monotone
from bort_jax.model.inherit.gram import gram_bytes
from bort_jax.model.inherit.inheritance import Inheritance, inherit
from bort_jax.model.inherit.sequential import refine
from bort_jax.model.inherit.vocabulary import cut_tokenizer, cut_vocabulary, tokens_to_keep

__all__ = [
    "Inheritance",
    "LayerErrors",
    "cut_tokenizer",
    "cut_vocabulary",
    "gram_bytes",
    "inherit",
    "tokens_to_keep",
    "monotone",
    "refine",
]

# SPDX-License-Identifier: Apache-2.0
"""BERT as pure functions of an `Arch`: the only place that knows Linen."""

from bort_jax.model.bert import BertConfig, Classifier, Encoder, MaskedLM
from bort_jax.model.losses import classification, distillation, masked_lm
from bort_jax.model.params import count_params, init_params, param_shapes

__all__ = [
    "BertConfig",
    "Classifier",
    "Encoder",
    "MaskedLM",
    "classification",
    "count_params",
    "distillation",
    "init_params",
    "masked_lm",
    "param_shapes",
]

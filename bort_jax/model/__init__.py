# SPDX-License-Identifier: Apache-2.0
"""BERT as pure functions of an `Arch`: the only place that knows Linen."""

from bort_jax.model.bert import DTYPES, BertConfig, Classifier, Encoder, Headless, MaskedLM
from bort_jax.model.heads import head_loss, output_names, row_outputs
from bort_jax.model.losses import (
    TopK,
    classification,
    distillation,
    hidden_states,
    masked_lm,
    regression,
    soft_classification,
    top_k,
    top_k_distillation,
)
from bort_jax.model.params import (
    count_params,
    flat_shapes,
    forward,
    init_params,
    param_structs,
    random_like,
    random_params,
    states_and_logits,
)

__all__ = [
    "DTYPES",
    "BertConfig",
    "Classifier",
    "Encoder",
    "Headless",
    "MaskedLM",
    "TopK",
    "classification",
    "count_params",
    "distillation",
    "random_like",
    "head_loss",
    "random_params",
    "forward",
    "hidden_states",
    "init_params",
    "masked_lm",
    "output_names",
    "flat_shapes",
    "param_structs",
    "regression",
    "soft_classification",
    "row_outputs",
    "states_and_logits",
    "top_k",
    "top_k_distillation",
]

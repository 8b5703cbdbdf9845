# SPDX-License-Identifier: Apache-2.0
"""Extract, pretrain, fine-tune and export small BERTs in JAX.

Architectures, costs and the search are imported at once; models and training, which need
more of flax and orbax, on first use.
"""

from importlib import import_module

from bort_jax.arch import BERT_BASE, BERT_LARGE, BORT, Arch, SearchSpace, as_rows
from bort_jax.cost import cost_function
from bort_jax.ose import Budget, Extraction, extract, resolve, w_coefficient

_LATER = {
    "BertConfig": "model",
    "Checkpoint": "interop",
    "Classifier": "model",
    "FineTuner": "stages.finetune.tuner",
    "MaskedLM": "model",
    "PretrainConfig": "stages.pretrain.config",
    "compress": "stages.compress.run",
    "load": "interop",
    "load_params": "interop",
    "pipeline": "stages.predict.pipeline",
    "pretrain": "stages.pretrain.run",
    "save": "interop",
}
__all__ = [
    "BERT_BASE",
    "BERT_LARGE",
    "BORT",
    "Arch",
    "Budget",
    "Extraction",
    "SearchSpace",
    "as_rows",
    "cost_function",
    "extract",
    "resolve",
    "w_coefficient",
    *_LATER,
]


def __getattr__(name: str):
    if name not in _LATER:
        raise AttributeError(f"module 'bort_jax' has no attribute {name!r}")
    return getattr(import_module(f"bort_jax.{_LATER[name]}"), name)

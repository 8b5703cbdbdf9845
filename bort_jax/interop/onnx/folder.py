# SPDX-License-Identifier: Apache-2.0
"""A folder that ONNX Runtime, `optimum`, sentence-transformers and transformers.js serve from."""

import shutil
from pathlib import Path
from typing import Any

from bort_jax.arch import Arch
from bort_jax.interop.checkpoint import Checkpoint
from bort_jax.interop.description import save_tokenizer
from bort_jax.interop.hf_config import hf_class, to_hf_config
from bort_jax.interop.onnx.bert import build_model, input_names
from bort_jax.model import count_params
from bort_jax.storage.files import write_json, write_text

MODEL, INT8 = "onnx/model.onnx", "onnx/model_quantized.onnx"  # as transformers.js looks for them
LARGEST = 2**30  # bytes of constants in one file; protobuf itself ends at 2³¹
# What says to sentence-transformers how token states become a sentence's.
SENTENCE = (
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
)
MODULES = "modules.json"
CARD = """---
library_name: onnx
tags: [bort-jax]
---
# {name}, {arch}, in ONNX

{params:,} parameters, at most {positions} tokens a row; inputs {inputs}.

```python
from optimum.onnxruntime import ORT{task}

model = ORT{task}.from_pretrained("this folder", subfolder="onnx", file_name="model.onnx")
```

`bort-jax` writes such folders and does not read them.
"""


def save_onnx(
    checkpoint: Checkpoint, folder: Path, *, source: Path, largest: int = LARGEST
) -> None:
    """Writes `onnx/model.onnx`, `config.json`, the tokenizer, a card, and for an encoder what
    sentence-transformers reads.

    Args:
      source: the folder that the checkpoint came from: how it makes sentences' states of tokens'
        is taken over; by default they are averaged.
      largest: bytes of constants beyond which they stand in a file of their own.

    Raises:
      ImportError: `onnx` is not installed.
      ValueError: a tokenizer of another size than the embedding table.
    """
    require("onnx")
    folder.mkdir(parents=True, exist_ok=True)
    save_tokenizer(checkpoint, folder)
    write_json(folder / "config.json", config_of(checkpoint))
    write_text(folder / "README.md", card(checkpoint))
    if checkpoint.headless:
        save_pooling(checkpoint, folder, source)
    save_model(build_model(checkpoint), folder / MODEL, largest=largest)


def save_model(model: Any, file: Path, *, largest: int) -> None:
    """Writes a model, and checks it with `onnx`'s own checker."""
    import onnx

    file.parent.mkdir(parents=True, exist_ok=True)
    size = sum(len(weight.raw_data) for weight in model.graph.initializer)
    onnx.save_model(model, file, save_as_external_data=size > largest, location=file.name + "_data")
    onnx.checker.check_model(file, full_check=True)


def config_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """`config.json`; layers that no stock class holds stand there as one head of the hidden size,
    for stock tools take family and labels from it and the sizes from the graph."""
    try:
        return to_hf_config(checkpoint)
    except ValueError:
        arch = checkpoint.config.arch
    sizes = arch.sizes()
    widest = max((intermediate for _, intermediate in sizes), default=1)
    return to_hf_config(checkpoint, arch=Arch(len(sizes), 1, arch.hidden, widest))


def card(checkpoint: Checkpoint) -> str:
    name = hf_class(checkpoint)
    tasks = {"choice": "MultipleChoice", "classifier": "SequenceClassification"}
    tasks |= {"masked_lm": "MaskedLM", "none": "FeatureExtraction"}
    return CARD.format(
        name=name,
        arch=checkpoint.config.arch,
        params=count_params(checkpoint.model),
        positions=checkpoint.config.positions,
        inputs=", ".join(f"`{one}`" for one in input_names(checkpoint)),
        task="ModelFor" + tasks[checkpoint.head],
    )


def save_pooling(checkpoint: Checkpoint, folder: Path, source: Path) -> None:
    """sentence-transformers' files: those of the source, or the mean over tokens."""
    if (source / MODULES).is_file():
        for name in (MODULES, *SENTENCE):
            if (source / name).is_file():
                (folder / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(source / name, folder / name)
        return
    kinds = {"": "Transformer", "1_Pooling": "Pooling"}
    modules = [
        {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for n, (path, kind) in enumerate(kinds.items())
    ]
    write_json(folder / MODULES, modules)
    width = checkpoint.config.arch.hidden
    pooling = {"word_embedding_dimension": width, "pooling_mode_mean_tokens": True}
    write_json(folder / "1_Pooling" / "config.json", pooling | {"pooling_mode_cls_token": False})
    limit = {"max_seq_length": checkpoint.config.positions, "do_lower_case": False}
    write_json(folder / "sentence_bert_config.json", limit)


def require(package: str) -> None:
    """Raises ImportError that says how to install what the `onnx` extra brings."""
    try:
        __import__(package)
    except ImportError as error:
        raise ImportError(f"{package} is not installed: pip install 'bort-jax[onnx]'") from error

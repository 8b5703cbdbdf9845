# SPDX-License-Identifier: Apache-2.0
"""The README.md of an exported folder."""

from bort_jax.interop.checkpoint import Checkpoint
from bort_jax.interop.padding import hull
from bort_jax.model import count_params

CARD = """---
library_name: transformers
pipeline_tag: {task}
tags: [bort-jax]
---
# {title}

| | |
|---|---|
{rows}

```python
from transformers import {imports}

model = {hf_class}.from_pretrained("{name}"){tokenizer}
```

or, in JAX, `bort_jax.load("{name}")`{pipeline}.
"""
PIPELINE = '; `bort_jax.pipeline("{name}")` answers texts'
# By the head, as the hub names them.
TASKS = {
    "masked_lm": "fill-mask",
    "classifier": "text-classification",
    "choice": "multiple-choice",
    "none": "feature-extraction",
}
TOKENIZER = '\ntokenizer = AutoTokenizer.from_pretrained("{name}")'


def model_card(checkpoint: Checkpoint, hf_class: str, *, name: str = "this folder") -> str:
    """Markdown: architecture, sizes, the checkpoint's facts, and how to load it by a name."""
    config, padded = checkpoint.config, hull(checkpoint.config.arch) != checkpoint.config.arch
    rows = {
        "architecture <D, A, H, I>": str(config.arch),
        **({"in stock classes": f"{hull(config.arch)}, filled up with zeros"} if padded else {}),
        "parameters": f"{count_params(checkpoint.model):,}",
        "vocabulary": f"{config.vocab_size:,} tokens",
        "longest sequence": f"{config.positions} tokens",
        **({"labels": ", ".join(checkpoint.labels)} if checkpoint.labels else {}),
        **checkpoint.facts,
    }
    table = "\n".join(f"| {row} | {_cell(value)} |" for row, value in rows.items())
    imports, tokenizer, chooses = hf_class, "", checkpoint.head == "choice"
    if checkpoint.tokenizer:
        imports, tokenizer = f"AutoTokenizer, {hf_class}", TOKENIZER.format(name=name)
    return CARD.format(
        title=f"{hf_class}, {config.arch}",
        rows=table,
        hf_class=hf_class,
        imports=imports,
        tokenizer=tokenizer,
        name=name,
        task=TASKS[checkpoint.head],
        pipeline=PIPELINE.format(name=name) if checkpoint.tokenizer and not chooses else "",
    )


def _cell(text: str) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")

# SPDX-License-Identifier: Apache-2.0
"""The README.md of an exported folder."""

from bort_jax.interop.checkpoint import Checkpoint
from bort_jax.model import count_params

CARD = """---
library_name: transformers
tags: [bort-jax]
---
# {title}

| | |
|---|---|
{rows}

```python
from transformers import AutoTokenizer, {hf_class}

model = {hf_class}.from_pretrained("this folder")
tokenizer = AutoTokenizer.from_pretrained("this folder")
```

or, in JAX, `bort_jax.load("this folder")`.
"""


def model_card(checkpoint: Checkpoint, hf_class: str) -> str:
    """Markdown: architecture, sizes, the checkpoint's facts, and how to load it."""
    config = checkpoint.config
    rows = {
        "architecture <D, A, H, I>": str(config.arch),
        "parameters": f"{count_params(checkpoint.model):,}",
        "vocabulary": f"{config.vocab_size:,} tokens",
        "longest sequence": f"{config.positions} tokens",
        **({"labels": ", ".join(checkpoint.labels)} if checkpoint.labels else {}),
        **checkpoint.facts,
    }
    table = "\n".join(f"| {name} | {_cell(value)} |" for name, value in rows.items())
    return CARD.format(title=f"{hf_class}, {config.arch}", rows=table, hf_class=hf_class)


def _cell(text: str) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")

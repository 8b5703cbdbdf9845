# SPDX-License-Identifier: Apache-2.0
"""Writes tests/golden/stock_bert.npz: what stock transformers says of the test checkpoints."""

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers

from bort_jax.interop import hf_class, save
from bort_jax.model import init_params

TESTS = Path(__file__).parent.parent / "tests"


def main() -> None:
    sys.path.insert(0, str(TESTS))
    from test_interop import GOLDEN, IDS, checkpoint

    outputs = {}
    for labels in ((), ("no", "yes", "perhaps")):
        ours = checkpoint(labels=labels, fresh=init_params)
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            save(ours, folder)
            stock = getattr(transformers, hf_class(ours)).from_pretrained(folder).eval()
            outputs[f"{len(labels)}_labels"] = stock(torch.tensor(IDS)).logits.numpy()
    GOLDEN.parent.mkdir(exist_ok=True)
    np.savez(GOLDEN, **outputs)


if __name__ == "__main__":
    main()

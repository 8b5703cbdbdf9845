# SPDX-License-Identifier: Apache-2.0
"""What several test files share: sentences, small checkpoints, damaged and foreign files."""

import os
import random
import struct
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
from hypothesis import settings

from bort_jax.arch import Arch, LayerwiseArch
from bort_jax.interop import Checkpoint
from bort_jax.interop.ndarray_list import TYPES
from bort_jax.model import BertConfig, random_params
from bort_jax.stages.pretrain.config import PretrainConfig

DATA = Path(os.environ.get("BORT_JAX_DATA", "no such folder")) / "gluon_bort_tiny"
LAYERWISE = LayerwiseArch(16, 4, ((2, 8), (0, 0), (3, 5)))
IDS = np.array([[5, 17, 3, 0, 29, 8], [1, 2, 30, 4, 9, 11]])


SMALL = Arch(2, 2, 16, 24)
STOCK_SIZES = dict(
    vocab_size=31,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=24,
)
SENTENCES = [
    "the cat sat on the mat and looked at the moon",
    "a good film with a bad ending that nobody saw",
    "seven ships sailed south before the storm came in",
    "she wrote one long letter every week and kept them all",
    "nothing in the old house was quite where he had left it",
]


TINY_RUN = {"batch_size": 8, "accumulation_steps": 2, "learning_rate": 1e-3, "dropout": 0.1}


def few(law):
    """A fifth of the usual examples, for a law that compiles a program for each."""
    return settings(max_examples=settings.default.max_examples // 5)(law)


def trees_equal(one, two):
    """The same tree, with the same arrays."""
    same = jax.tree.structure(one) == jax.tree.structure(two)
    return same and jax.tree.all(jax.tree.map(np.array_equal, one, two))


def pretrain_config(corpus, out, **changes):
    """Six steps of a tiny masked LM that keeps each second one."""
    defaults = {
        "data": str(corpus.train.folder.parent),
        "out": str(out),
        "arch": "D1-A2-H16-I24",
        "steps": 6,
        "batch_size": 4,
        "seq_len": 24,
        "positions": 24,
        "save_every": 2,
        "log_every": 1,
        "eval_rows": 4,
        "learning_rate": 1e-2,
        "dropout": 0.0,  # half of a step's compilation
    }
    return PretrainConfig(**(defaults | changes))


def options_of(config, *, without=()):
    """A configuration as on the command line."""
    return [
        word
        for name, value in vars(config).items()
        if value is not None and name not in without
        for word in (f"--{name}", str(value).lower() if isinstance(value, bool) else str(value))
    ]


def checkpoint(arch=SMALL, labels=(), seed=0, fresh=random_params):
    """Random everywhere, biases and LayerNorms too, so that no tensor can hide a mix-up."""
    config = BertConfig(arch, 31, positions=12)
    empty = Checkpoint(config, None, labels)
    rng = np.random.default_rng(seed)
    params = jax.tree.map(
        lambda x: x + rng.normal(scale=0.2, size=x.shape).astype(np.float32),
        fresh(empty.model, seed=0),
    )
    return Checkpoint(config, params, labels)


def variants() -> list[Checkpoint]:
    """Both families, with each head and with none."""
    plain, labelled = checkpoint(), checkpoint(labels=("no", "yes"))
    encoder = replace(plain, params={"encoder": plain.params["encoder"]}, headless=True)
    heads = [plain, labelled, encoder]
    return [replace(one, family=family) for family in ("bert", "roberta") for one in heads]


def layerwise() -> Checkpoint:
    before = checkpoint()
    empty = Checkpoint(replace(before.config, arch=LAYERWISE), None, facts={"data": "none"})
    return empty.with_params(random_params(empty.model, seed=0))


def mutated(content: bytes, generator: random.Random, *, within: int) -> bytes:
    """A few bytes changed, cut out or doubled in the first `within`, or the end cut off."""
    result = bytearray(content)
    for _ in range(generator.randint(1, 4)):
        at = generator.randrange(max(1, min(within, len(result))))
        kind = generator.randrange(4)
        if kind == 0:
            result[at : at + 1] = bytes([generator.randrange(256)])
        elif kind == 1:
            result[at : at + 8] = generator.choice([b"\xff" * 8, b"\0" * 8, b"\0" * 7 + b"\x7f"])
        elif kind == 2:
            del result[at : at + generator.randint(1, 9)]
        else:
            result = result[: generator.randrange(len(result) + 1)]
    return bytes(result)


def ndarray_list(tensors: dict[str, np.ndarray], *, version=0xF993FAC9) -> bytes:
    """The file that MXNet would write: an independent statement of the format."""
    codes = {np.dtype(name): code for code, name in TYPES.items()}
    parts = [struct.pack("<QQQ", 0x112, 0, len(tensors))]
    for array in tensors.values():
        storage = b"" if version == 0xF993FAC8 else struct.pack("<i", 0)
        shape = struct.pack(f"<I{array.ndim}q", array.ndim, *array.shape)
        device_and_type = struct.pack("<iii", 1, 0, codes[array.dtype])
        parts += [struct.pack("<I", version), storage, shape, device_and_type, array.tobytes()]
    parts.append(struct.pack("<Q", len(tensors)))
    parts += [struct.pack("<Q", len(name)) + name.encode() for name in tensors]
    return b"".join(parts)

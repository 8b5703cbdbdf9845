# SPDX-License-Identifier: Apache-2.0
"""Exact counts by part; BERT-base and BERT-large beside them, counted with the same vocabulary."""

import json
from dataclasses import dataclass
from typing import Any

from bort_jax.arch import NAMED, Arch, SearchSpace, as_rows
from bort_jax.cost import bert_network, by_part, cost_function
from bort_jax.report.terminal import say, show_table

POSITIONAL = {"arch": "such as D4-A8-H1024-I768, or bort, bort-small, bert-base, bert-large"}
COMPARED = ("bert-base", "bert-large")
PARTS = ("embeddings", "encoder", "head", "total")


@dataclass(frozen=True)
class Config:
    """One architecture, and the lengths at which it is counted.

    Attributes:
      arch: such as D4-A8-H1024-I768, or bort, bort-small, bert-base, bert-large.
      vocab_size: tokens in the vocabulary.
      positions: learned positions.
      seq_len: length at which everything but the parameters is counted.
      batch: sequences in a forward pass, for the memory.
      head: none, mlm (at every position) or classifier.
      labels: outputs of the classifier.
      json: print JSON instead of a table.
    """

    arch: str
    vocab_size: int = 50265
    positions: int = 512
    seq_len: int = 128
    batch: int = 1
    head: str = "mlm"
    labels: int = 2
    json: bool = False


def run(config: Config) -> dict:
    counts = {config.arch: count(Arch.parse(config.arch), config)}
    counts |= {name: count(NAMED[name], config) for name in COMPARED}
    if config.json:
        say(json.dumps(counts, indent=2))
    else:
        show(config, counts)
    return counts


def count(arch: Arch, config: Config) -> dict:
    sizes: dict[str, Any] = dict(seq_len=config.seq_len, head=config.head, labels=config.labels)
    network = bert_network(vocab_size=config.vocab_size, positions=config.positions, **sizes)
    parts = by_part(network, arch)
    total = {kind: sum(part[kind] for part in parts.values()) for kind in parts["head"]}
    space = SearchSpace.of(arch, vocab_size=config.vocab_size, positions=config.positions)
    costs = cost_function(space, batch=config.batch, **sizes)(as_rows([arch]))
    memory = {name: int(getattr(costs, name)[0]) for name in ("weight_bytes", "activation_bytes")}
    return {"arch": str(arch), "seq_len": config.seq_len, **parts, "total": total, "memory": memory}


def show(config: Config, counts: dict[str, dict]) -> None:
    tokens = f"of one sequence of {config.seq_len} tokens"
    for kind, title in (
        ("params", f"parameters, vocabulary {config.vocab_size:,}"),
        ("macs", f"multiply-adds {tokens}"),
        ("elementwise_ops", f"element-wise operations {tokens}"),
    ):
        rows = [(name, *(entry[part][kind] for part in PARTS)) for name, entry in counts.items()]
        show_table(title, ("architecture", *PARTS), rows)
    show_table(
        f"bytes in float32, activations of {config.batch} × {config.seq_len} tokens unfused",
        ("architecture", "weights", "activations"),
        [(name, *entry["memory"].values()) for name, entry in counts.items()],
    )
    mine = counts[config.arch]["encoder"]["macs"]
    for name in COMPARED:
        ratio = counts[name]["encoder"]["macs"] / mine
        say(f"The encoder of {name} takes {ratio:.2f} times the multiply-adds.")

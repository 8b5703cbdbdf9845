# SPDX-License-Identifier: Apache-2.0
"""Exact counts by part; BERT-base and BERT-large beside them, counted with the same vocabulary."""

import json
from dataclasses import dataclass

from bort_jax.arch import NAMED, Arch
from bort_jax.cost import bert_network
from bort_jax.cost.evaluate import by_part
from bort_jax.report.terminal import say, show_table

POSITIONAL = {"arch": "such as D4-A8-H1024-I768, or bort, bort-small, bert-base, bert-large"}
COMPARED = ("bert-base", "bert-large")


@dataclass(frozen=True)
class Config:
    """What to count.

    Attributes:
      arch: such as D4-A8-H1024-I768, or bort, bort-small, bert-base, bert-large.
      vocab_size: tokens in the vocabulary.
      positions: learned positions.
      seq_len: length at which multiply-adds are counted.
      head: none, mlm (multiply-adds at every position) or classifier.
      labels: outputs of the classifier.
      json: print JSON instead of a table.
    """

    arch: str
    vocab_size: int = 50265
    positions: int = 512
    seq_len: int = 128
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
    network = bert_network(
        vocab_size=config.vocab_size,
        positions=config.positions,
        seq_len=config.seq_len,
        head=config.head,
        labels=config.labels,
    )
    parts = by_part(network, arch)
    total = {kind: sum(part[kind] for part in parts.values()) for kind in ("params", "steps")}
    return {"arch": str(arch), "seq_len": config.seq_len, **parts, "total": total}


def show(config: Config, counts: dict[str, dict]) -> None:
    parts = ("embeddings", "encoder", "head", "total")
    for kind, title in (
        ("params", f"parameters, vocabulary {config.vocab_size:,}"),
        ("steps", f"multiply-adds of one sequence of {config.seq_len} tokens"),
    ):
        rows = [(name, *(entry[part][kind] for part in parts)) for name, entry in counts.items()]
        show_table(title, ("architecture", *parts), rows)
    mine = counts[config.arch]["encoder"]["steps"]
    for name in COMPARED:
        ratio = counts[name]["encoder"]["steps"] / mine
        say(f"The encoder of {name} takes {ratio:.2f} times the multiply-adds.")

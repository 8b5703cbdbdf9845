# SPDX-License-Identifier: Apache-2.0
"""What answers need of a parent, counted and measured."""

from dataclasses import replace
from math import prod

import jax

from bort_jax.arch import Arch, LayerwiseArch
from bort_jax.cost.bert import bert_network
from bort_jax.interop import Checkpoint
from bort_jax.model import param_structs
from bort_jax.model.inherit import Inheritance
from bort_jax.report.terminal import say
from bort_jax.stages.extract.parent.choices import Choices, Costs, LayerLatency, Sizes

COST_HEADS = {"masked_lm": "mlm", "choice": "classifier"}


def costs_of(parent: Checkpoint, arch: Arch, *, seq_len: int) -> Costs:
    """Counted on the model's own parameters, embeddings and head included."""
    config = parent.config
    network = bert_network(
        vocab_size=config.vocab_size,
        positions=config.positions,
        seq_len=seq_len,
        head=COST_HEADS.get(parent.head, parent.head),
        labels=max(1, len(parent.labels)),
    )
    whole = sum(prod(leaf.shape) for leaf in jax.tree.leaves(param_structs(parent.model)))
    live = max(
        int(count(arch)) for part in (network.a, network.c) for count in part.live_activations
    )
    bare = Costs(arch, seq_len, 0, int(network.c.macs(arch)), live)
    layers = arch.depth * bare.layer((arch.heads, arch.intermediate))[0]
    return replace(bare, params=whole - layers)


def measured_choices(
    inheritance: Inheritance[Checkpoint],
    sizes: Sizes,
    costs: Costs,
    *,
    latency: LayerLatency | None = None,
    inference: str = "macs",
    equal: bool = False,
) -> Choices:
    """Measures the sizes of every layer, and for every depth which layers stay."""
    whole = costs.arch
    of_heads = inheritance.side_errors("heads", sizes.heads)
    of_units = inheritance.side_errors("units", sizes.units)
    kept, bases = [], []
    for depth in sorted({*sizes.depths, whole.depth}, reverse=True):
        kept.append(inheritance.best_layers(depth))
        option = (whole.heads, whole.intermediate)
        layers = tuple(option if n in kept[-1] else (0, 0) for n in range(whole.depth))
        bases.append(inheritance.error(LayerwiseArch(whole.hidden, whole.head_size, layers)))
        say(f"of {depth} layers stay {', '.join(str(n + 1) for n in kept[-1])}: e {bases[-1]:.4g}")
    return Choices(
        costs,
        sizes.heads,
        sizes.units,
        of_heads,
        of_units,
        tuple(kept),
        tuple(bases),
        latency=latency,
        inference=inference,
        equal=equal,
    )

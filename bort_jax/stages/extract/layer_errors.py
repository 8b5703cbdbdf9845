# SPDX-License-Identifier: Apache-2.0
"""What each layer's choice does to e: one elastic network, trained on random layerwise shapes.

*Our reading* of e for layerwise extraction. One network of the maximum point's size is trained
for s steps; at every other step each layer takes a random option, or is skipped. Then e is
measured with every layer at its largest, and with one layer at a time at each option: what it
adds to e is taken to add up over the layers. That surrogate is what the program optimises; the
error of its answer in the same network is measured beside it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from bort_jax.arch import Arch, LayerwiseArch
from bort_jax.data.masking import masked_batch
from bort_jax.data.prepared import Corpus
from bort_jax.engine.loop import fit
from bort_jax.engine.optimizer import Hyper
from bort_jax.engine.parallel import new_state, parallel_step
from bort_jax.model import BertConfig, masked_lm
from bort_jax.model.elastic import ElasticLM, Shape
from bort_jax.stages.extract.elastic_error import elastic_logits, elastic_loss
from bort_jax.stages.extract.measure import Measure, measured, unigram_loss

Options = dict[int, list[tuple[int, int]]]  # by hidden size


class Elastic(NamedTuple):
    """A trained elastic network, the held-out batch and the measure of errors."""

    model: ElasticLM
    params: dict
    depth: int
    head_size: int
    heldout: dict
    measure: Measure
    unigram: float  # loss of a unigram model on that batch, nats


def train_elastic(
    corpus: Corpus,
    options: Options,
    *,
    depth: int,
    head_size: int,
    steps: int,
    batch_size: int,
    seq_len: int,
    learning_rate: float,
    measure: Measure = "error",
    eval_rows: int = 64,
    seed: int = 0,
) -> Elastic:
    """Trains the network on the largest shape and random ones in turn, one compilation for all.

    Args:
      options: by hidden size, the (heads, intermediate) that a layer can have.
      depth: layers.
      measure: of e; all but distillation.

    Raises:
      ValueError: the measure is distillation, or the head size does not divide the largest H.
    """
    if measure == "distillation":
        raise ValueError("a layerwise search takes no teacher: measure error, perplexity or excess")
    model = elastic_network(corpus, options, depth=depth, head_size=head_size, positions=seq_len)
    step = parallel_step(elastic_loss(model), optimizer="adamw", clip=1.0)
    hyper = Hyper.of(
        learning_rate=learning_rate, weight_decay=0.01, warmup_ratio=0.1, total_steps=steps
    )
    state = new_state(model.init(seed=seed), hyper, optimizer="adamw")
    generator, key = np.random.default_rng(seed), jax.random.key(seed)
    rows = dict(seed=seed, seq_len=seq_len)

    def shaped_step(state, batch):
        shape = shape_of(drawn(generator, options, depth=depth, head_size=head_size))
        return step(state, shape, batch, key)

    batches = (
        masked_batch(corpus.train, i, batch_size=batch_size, **rows)
        for i in tqdm(range(steps), desc="elastic network", unit="step", leave=False, disable=None)
    )
    state = fit(state, batches, step_fn=shaped_step)
    held = min(eval_rows, corpus.heldout.rows(seq_len))
    heldout = masked_batch(corpus.heldout, 0, batch_size=held, **rows)
    params, unigram = jax.device_get(state.params), unigram_loss(corpus, heldout)
    return Elastic(model, params, depth, head_size, heldout, measure, unigram)


def elastic_network(
    corpus: Corpus, options: Options, *, depth: int, head_size: int, positions: int
) -> ElasticLM:
    """The elastic network that holds every option of every hidden size."""
    heads = max(a for choices in options.values() for a, _ in choices)
    wide = max(i for choices in options.values() for _, i in choices)
    hidden = max(options)
    if hidden % head_size:
        raise ValueError(f"head size {head_size} does not divide the largest hidden size {hidden}")
    largest = Arch(depth, max(heads, hidden // head_size), hidden, wide)
    config = BertConfig(largest, corpus.tokenizer.vocab_size, positions=positions, dropout=0.0)
    return ElasticLM(config, head_size)


def drawn(generator, options: Options, *, depth: int, head_size: int) -> LayerwiseArch:
    """The largest shape, or as often a random one of a random hidden size."""
    hidden = max(options)
    if generator.uniform() < 0.5:
        return LayerwiseArch(hidden, head_size, (max(options[hidden]),) * depth)
    hidden = int(generator.choice(list(options)))
    picked = generator.integers(len(options[hidden]), size=depth)
    return LayerwiseArch(hidden, head_size, tuple(options[hidden][k] for k in picked))


def shape_of(arch: LayerwiseArch) -> Shape:
    """The architecture as data."""
    heads, intermediate = np.array(arch.layers, dtype=np.int32).reshape(-1, 2).T
    return Shape(
        hidden=np.int32(arch.hidden),
        head_size=np.int32(arch.head_size),
        heads=heads,
        intermediate=intermediate,
        keep=np.array([layer != (0, 0) for layer in arch.layers]),
    )


def shape_errors(elastic: Elastic, archs: Sequence[LayerwiseArch]) -> Float[np.ndarray, " n"]:
    """The measure of each architecture on held-out text, in one compiled program."""

    def one(shape):
        batch = elastic.heldout
        logits = elastic_logits(elastic.model, elastic.params, shape, batch)
        return masked_lm(logits, batch["labels"], batch["weights"])

    shapes = jax.tree.map(lambda *leaves: np.stack(leaves), *map(shape_of, archs))
    sums = jax.device_get(jax.jit(lambda shapes: jax.lax.map(one, shapes))(shapes))
    each = ({name: float(sums[name][k]) for name in sums} for k in range(len(archs)))
    return np.array([measured(elastic.measure, s, unigram=elastic.unigram) for s in each])


def layer_errors(
    elastic: Elastic, hidden: int, options: Sequence[tuple[int, int]]
) -> tuple[float, Float[np.ndarray, "l j"]]:
    """e with every layer at its largest, and what each option of each layer adds to it, ≥ 0."""
    full = LayerwiseArch(hidden, elastic.head_size, (max(options),) * elastic.depth)
    changed = [
        full._replace(layers=(*full.layers[:layer], option, *full.layers[layer + 1 :]))
        for layer in range(elastic.depth)
        for option in options
    ]
    errors = shape_errors(elastic, [full, *changed])
    return float(errors[0]), np.maximum(errors[1:] - errors[0], 0).reshape(elastic.depth, -1)

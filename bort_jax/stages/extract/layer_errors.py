# SPDX-License-Identifier: Apache-2.0
"""The error that each layer's choice adds: one elastic network, trained on random layerwise shapes.

*Our reading* of e for layerwise extraction. One network of the maximum point's size is trained
for s steps; at every other step each layer takes a random option, or is skipped. Then e is
measured with every layer at its largest, and with one layer at a time at each option: what it
adds to e is taken to add up over the layers. That surrogate is what the program optimises; the
error of its answer in the same network is measured beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from bort_jax.arch import Arch, LayerwiseArch, SearchSpace
from bort_jax.cost.layerwise import layer_options
from bort_jax.data.prepared import Corpus
from bort_jax.engine.loop import fit
from bort_jax.engine.parallel import parallel_step
from bort_jax.engine.step import new_state
from bort_jax.model import BertConfig, masked_lm
from bort_jax.model.elastic import ElasticLM, Shape
from bort_jax.report.terminal import progress_bar
from bort_jax.stages.extract.errors import elastic_logits, elastic_loss
from bort_jax.stages.extract.measure import Measure, measure_from_sums
from bort_jax.stages.extract.recipe import Recipe, heldout_batch, training_batch, unigram_loss


@dataclass(frozen=True)
class LayerSpace:
    """All networks of one depth whose layers take one option each.

    Attributes:
      options: by hidden size, the (heads, intermediate) that a layer can have; (0, 0): skipped.
      depth: layers, those that are skipped included.
      head_size: width of a head.
      vocab_size: tokens in the vocabulary.
      positions: learned positions; costs are counted at this length.
    """

    options: dict[int, list[tuple[int, int]]]
    depth: int
    head_size: int
    vocab_size: int
    positions: int

    @classmethod
    def of(cls, space: SearchSpace, *, head_size: int) -> "LayerSpace":
        """The layers of a grid, to its largest depth.

        Raises:
          ValueError: no number of heads fits into a hidden size.
        """
        options = {
            hidden: layer_options(space, hidden=hidden, head_size=head_size)
            for hidden in sorted(set(space.hidden))
        }
        return cls(options, max(space.depth), head_size, space.vocab_size, space.positions)

    @property
    def networks(self) -> float:
        """The number of them."""
        return float(sum(len(options) ** self.depth for options in self.options.values()))

    def uniform(self, hidden: int, option: tuple[int, int]) -> LayerwiseArch:
        """The network with this option in every layer."""
        return LayerwiseArch(hidden, self.head_size, (option,) * self.depth)

    def largest(self, hidden: int) -> LayerwiseArch:
        return self.uniform(hidden, max(self.options[hidden]))


class Elastic(NamedTuple):
    """A trained elastic network, the held-out batch and the measure of errors."""

    model: ElasticLM
    params: dict
    layers: LayerSpace
    heldout: dict
    measure: Measure
    unigram: float  # loss of a unigram model on that batch, nats


def train_elastic(corpus: Corpus, layers: LayerSpace, recipe: Recipe) -> Elastic:
    """Trains the network on the largest shape and random ones in turn, one compilation for all.

    Raises:
      ValueError: the recipe has a teacher, clips weights or has several rates, or the head size
        does not divide the largest H.
    """
    if recipe.teacher or recipe.clip_weights or len(recipe.learning_rates) != 1:
        raise ValueError("the elastic network has one rate, no teacher and no limit on weights")
    model = elastic_network(layers)
    step = parallel_step(elastic_loss(model), optimizer="adamw", clip=1.0)
    hyper = recipe.hyper(*recipe.learning_rates)
    state = new_state(model.init(seed=recipe.seed), hyper, optimizer="adamw")
    generator, key = np.random.default_rng(recipe.seed), jax.random.key(recipe.seed)

    def shaped_step(state, batch):
        bar.update()
        return step(state, shape_of(random_network(generator, layers)), batch, key)

    batches = (training_batch(corpus, recipe, k) for k in range(recipe.steps))
    with progress_bar("elastic network", total=recipe.steps, unit="step") as bar:
        state = fit(state, batches, step_fn=shaped_step)
    heldout = heldout_batch(corpus, recipe)
    params, unigram = jax.device_get(state.params), unigram_loss(corpus, heldout)
    return Elastic(model, params, layers, heldout, recipe.measure, unigram)


def elastic_network(layers: LayerSpace) -> ElasticLM:
    """The elastic network that holds every option of every hidden size."""
    heads = max(a for options in layers.options.values() for a, _ in options)
    wide = max(i for options in layers.options.values() for _, i in options)
    hidden, size = max(layers.options), layers.head_size
    if hidden % size:
        raise ValueError(f"head size {size} does not divide the largest hidden size {hidden}")
    largest = Arch(layers.depth, max(heads, hidden // size), hidden, wide)
    config = BertConfig(largest, layers.vocab_size, positions=layers.positions, dropout=0.0)
    return ElasticLM(config, size)


def random_network(generator: np.random.Generator, layers: LayerSpace) -> LayerwiseArch:
    """The largest network, or as often a random one of a random hidden size."""
    if generator.uniform() < 0.5:
        return layers.largest(max(layers.options))
    hidden = int(generator.choice(list(layers.options)))
    picked = generator.integers(len(layers.options[hidden]), size=layers.depth)
    chosen = tuple(layers.options[hidden][k] for k in picked)
    return LayerwiseArch(hidden, layers.head_size, chosen)


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
    return np.array([measure_from_sums(elastic.measure, s, unigram=elastic.unigram) for s in each])


def layer_errors(elastic: Elastic, hidden: int) -> tuple[float, Float[np.ndarray, "l j"]]:
    """e with every layer at its largest, and what each option of each layer adds to it, ≥ 0."""
    layers, full = elastic.layers, elastic.layers.largest(hidden)
    changed = [
        full._replace(layers=(*full.layers[:at], option, *full.layers[at + 1 :]))
        for at in range(layers.depth)
        for option in layers.options[hidden]
    ]
    errors = shape_errors(elastic, [full, *changed])
    return float(errors[0]), np.maximum(errors[1:] - errors[0], 0).reshape(layers.depth, -1)

# SPDX-License-Identifier: Apache-2.0
"""e(ξ) by training: s steps on the user's text with every rate of Θ, the best kept.

All candidates see the same batches in the same order. An error is NaN where no rate of Θ ends
with a finite loss.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from bort_jax.arch import Arch, SearchSpace
from bort_jax.data.prepared import Corpus
from bort_jax.engine.parallel import on_devices
from bort_jax.model import BertConfig, MaskedLM, forward, masked_lm, random_params
from bort_jax.model.elastic import ElasticLM, Shape
from bort_jax.ose import ErrorFn
from bort_jax.stages.extract.candidate import candidate_errors
from bort_jax.stages.extract.recipe import Recipe, check_teacher


def trained_error(corpus: Corpus, recipe: Recipe) -> ErrorFn:
    """Builds `error_fn(archs)`: the measure on held-out text after s steps, > 0 (arXiv 2010.08512).

    One compilation serves all of Θ. Each candidate lives on one device; those of one call are
    compiled and trained side by side.

    Raises:
      ValueError: a teacher that cannot read the corpus.
    """
    check_teacher(recipe, corpus)

    def train(arch: Arch, device: Any) -> float:
        # Without dropout: so few steps do not overfit, and half the noise is gone.
        vocab_size = corpus.tokenizer.vocab_size
        config = BertConfig(arch, vocab_size, positions=recipe.seq_len, dropout=0.0)
        model = MaskedLM(config)
        logits = lambda params, _, batch: forward(
            model, params, batch["ids"], batch["mask"], batch["positions"]
        )
        errors = candidate_errors(logits, corpus, recipe, devices=[device])
        return errors(random_params(model, seed=recipe.seed), [()], f"error of {arch}")[0]

    return lambda archs: on_devices(train, archs)


def elastic_error(corpus: Corpus, space: SearchSpace, recipe: Recipe) -> ErrorFn:
    """Builds `error_fn(archs)`, as `trained_error` does, with candidates that are masked parts of
    one network over `space`: each trains weights of its own, from its slice of one draw.

    One compilation serves all. Every member is computed at the widths of the largest, but with
    no more layers than it has. Candidates are spread over the devices of this process.

    Args:
      space: holds every candidate that will be asked for.

    Raises:
      ValueError: as `trained_error`; when called, an architecture larger than the space's.
    """
    check_teacher(recipe, corpus)
    vocab_size = corpus.tokenizer.vocab_size
    model = ElasticLM.over(space.archs(), vocab_size=vocab_size, positions=recipe.seq_len)
    params = model.init(seed=recipe.seed)
    train = candidate_errors(lambda *inputs: elastic_logits(model, *inputs), corpus, recipe)

    def error_fn(archs: Sequence[Arch]) -> list[float]:
        # Members that run at the same time should have the same number of layers.
        order = sorted(range(len(archs)), key=lambda k: archs[k])
        shapes = [model.shape(archs[k]) for k in order]
        errors = dict(zip(order, train(params, shapes, f"errors of {len(archs)}"), strict=True))
        return [errors[k] for k in range(len(archs))]

    return error_fn


def elastic_logits(model: ElasticLM, params, shape: Shape, batch: dict) -> jax.Array:
    """Logits [b, m, v] of one shape at the masked positions."""
    return model(params, shape, batch["ids"], batch["mask"], batch["positions"])


def elastic_loss(model: ElasticLM) -> Callable:
    """Masked LM of the shape that comes as `frozen`: `(params, frozen, batch, key) -> sums`."""

    def loss_fn(params, frozen, batch, key):
        del key
        logits = elastic_logits(model, params, frozen, batch)
        sums = masked_lm(logits, batch["labels"], batch["weights"])
        return {"loss": sums["mlm"], "count": sums["count"]}

    return loss_fn

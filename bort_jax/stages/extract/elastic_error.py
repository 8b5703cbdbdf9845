# SPDX-License-Identifier: Apache-2.0
"""e(ξ) by training inside one network of the maximum point's size: one compilation for all ξ."""

from collections.abc import Sequence

import jax

from bort_jax.arch import Arch, SearchSpace
from bort_jax.data.prepared import Corpus
from bort_jax.interop import Checkpoint
from bort_jax.model import masked_lm
from bort_jax.model.elastic import ElasticLM, Shape
from bort_jax.stages.extract.candidate import Recipe, candidate_errors
from bort_jax.stages.extract.measure import Measure
from bort_jax.stages.extract.shared_errors import ErrorFn


def elastic_error(
    corpus: Corpus,
    space: SearchSpace,
    *,
    steps: int,
    batch_size: int,
    seq_len: int,
    learning_rates: tuple[float, ...],
    measure: Measure = "error",
    teacher: Checkpoint | None = None,
    clip_weights: float | None = None,
    eval_rows: int = 256,
    seed: int = 0,
) -> ErrorFn:
    """Builds `error_fn(archs)`, as `trained_error` does, with candidates that are masked parts of
    one network over `space`: each trains weights of its own, from its slice of one draw.

    One compilation serves all. Every member is computed at the widths of the largest, but with
    no more layers than it has. Candidates are spread over the devices of this process.

    Args:
      space: holds every candidate that will be asked for.

    Raises:
      ValueError: as `trained_error`; when called, an architecture larger than the space's.
    """
    recipe = Recipe(
        corpus=corpus,
        steps=steps,
        batch_size=batch_size,
        seq_len=seq_len,
        learning_rates=learning_rates,
        measure=measure,
        teacher=teacher,
        clip_weights=clip_weights,
        eval_rows=eval_rows,
        seed=seed,
    )
    vocab_size = corpus.tokenizer.vocab_size
    model = ElasticLM.over(space.archs(), vocab_size=vocab_size, positions=seq_len)
    params = model.init(seed=seed)
    train = candidate_errors(lambda *inputs: elastic_logits(model, *inputs), recipe)

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


def elastic_loss(model: ElasticLM):
    """Masked LM of the shape that comes as `frozen`: `(params, frozen, batch, key) -> sums`."""

    def loss_fn(params, frozen, batch, key):
        del key
        sums = masked_lm(
            elastic_logits(model, params, frozen, batch), batch["labels"], batch["weights"]
        )
        return {"loss": sums["mlm"], "count": sums["count"]}

    return loss_fn

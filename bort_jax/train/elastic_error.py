# SPDX-License-Identifier: Apache-2.0
"""e(ξ) by training inside one network of the maximum point's size: one compilation for all ξ."""

import jax
from tqdm import tqdm

from bort_jax.arch import Arch, SearchSpace
from bort_jax.data.masking import masked_batch
from bort_jax.data.prepared import Corpus
from bort_jax.interop import Checkpoint
from bort_jax.model import masked_lm
from bort_jax.model.elastic import ElasticLM, Shape
from bort_jax.train.loop import fit
from bort_jax.train.measure import Measure, check_measure, scorer
from bort_jax.train.parallel import new_state, parallel_step
from bort_jax.train.shared_errors import ErrorFn
from bort_jax.train.trained_error import check_training, hyper_of, least


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
    """Builds `error_fn(archs)`, as `trained_error` does, but every candidate is a masked part of one
    network over `space`: each trains weights of its own, from one draw that it has a slice of.

    It costs what the largest member costs, for every member, and compiles once.

    Raises:
      ValueError: as `trained_error`.
    """
    vocab_size = corpus.tokenizer.vocab_size
    check_measure(measure, vocab_size=vocab_size, seq_len=seq_len, teacher=teacher)
    check_training(learning_rates, clip_weights)
    model = ElasticLM.over(space.archs(), vocab_size=vocab_size, positions=seq_len)
    params = model.init(seed=seed)
    step = parallel_step(
        elastic_loss(model), optimizer="adamw", clip=1.0, clip_weights=clip_weights
    )
    score = scorer(
        lambda pair, batch: elastic_logits(model, pair[0], pair[1], batch),
        corpus,
        measure=measure,
        teacher=teacher,
        rows=eval_rows,
        seq_len=seq_len,
        seed=seed,
    )
    key = jax.random.key(seed)

    def one(arch: Arch) -> float:
        shape = Shape.of(arch, depth=model.config.arch.depth)

        def with_rate(rate: float) -> float:
            state = new_state(params, hyper_of(rate, steps), optimizer="adamw", clip=1.0)
            batches = (
                masked_batch(corpus.train, i, seed=seed, batch_size=batch_size, seq_len=seq_len)
                for i in tqdm(
                    range(steps), desc=f"error of {arch}", unit="step", leave=False, disable=None
                )
            )
            state = fit(state, batches, step_fn=lambda s, b: step(s, shape, b, key))
            return score((state.params, shape))

        return least([with_rate(rate) for rate in learning_rates])

    return lambda archs: [one(arch) for arch in archs]


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

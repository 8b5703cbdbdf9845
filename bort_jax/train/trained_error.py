# SPDX-License-Identifier: Apache-2.0
"""e(ξ) by training: s steps on the user's text with every rate of Θ, the best kept."""

import json
from collections.abc import Callable
from pathlib import Path

import jax
from tqdm import tqdm

from bort_jax.arch import Arch
from bort_jax.data.masking import masked_batch
from bort_jax.data.prepared import Corpus
from bort_jax.model import BertConfig, MaskedLM, init_params
from bort_jax.train.loop import fit
from bort_jax.train.optimizer import Hyper
from bort_jax.train.parallel import new_state, parallel_step
from bort_jax.train.predict import mlm_scores
from bort_jax.train.pretrain import plain_loss


def trained_error(
    corpus: Corpus,
    *,
    steps: int,
    batch_size: int,
    seq_len: int,
    learning_rates: tuple[float, ...],
    eval_rows: int = 256,
    seed: int = 0,
) -> Callable[[Arch], float]:
    """Builds `error_fn(arch)`: the masked-token error on held-out text, in (0, 1].

    All candidates see the same batches in the same order, and one compilation serves all of Θ.
    An error of exactly 0 is raised to 1e-6, since W divides by it.
    """

    def error_fn(arch: Arch) -> float:
        # Without dropout: so few steps do not overfit, and half the noise is gone.
        config = BertConfig(arch, corpus.tokenizer.vocab_size, positions=seq_len, dropout=0.0)
        model = MaskedLM(config)
        step = parallel_step(plain_loss(model), optimizer="adamw", clip=1.0)
        score = mlm_scores(model, corpus.heldout, rows=eval_rows, seq_len=seq_len, seed=seed)
        key = jax.random.key(seed)

        def one(rate: float) -> float:
            hyper = Hyper.of(
                learning_rate=rate, weight_decay=0.01, warmup_ratio=0.1, total_steps=steps
            )
            params = init_params(model, seed=seed)
            state = new_state(params, hyper, optimizer="adamw", clip=1.0)
            batches = (
                masked_batch(corpus.train, i, seed=seed, batch_size=batch_size, seq_len=seq_len)
                for i in tqdm(
                    range(steps), desc=f"error of {arch}", unit="step", leave=False, disable=None
                )
            )
            state = fit(state, batches, step_fn=lambda s, b: step(s, (), b, key))
            return score(state.params).error

        return max(min(map(one, learning_rates)), 1e-6)

    return error_fn


def remembered(error_fn: Callable[[Arch], float], file: Path) -> Callable[[Arch], float]:
    """An error function that writes each result to a JSON-lines file, and reads it there first.

    An extraction that was stopped goes on where it was.
    """
    known: dict[str, float] = {}
    for line in file.read_text().splitlines() if file.exists() else []:
        try:
            record = json.loads(line)
            known[record["arch"]] = record["error"]
        except json.JSONDecodeError:  # cut short by a kill: measured again
            continue

    def lookup(arch: Arch) -> float:
        if str(arch) not in known:
            known[str(arch)] = error_fn(arch)
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("a") as out:
                out.write(json.dumps({"arch": str(arch), "error": known[str(arch)]}) + "\n")
        return known[str(arch)]

    return lookup

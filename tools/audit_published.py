# SPDX-License-Identifier: Apache-2.0
"""Published figures of Bort beside what is counted; with --data, errors at an eighth of its size.

Prints the tables of docs/published.md. Nothing here is fitted to a published number.
"""

import argparse
from dataclasses import replace

import numpy as np

from bort_jax.arch import BERT_BASE, BERT_LARGE, BORT, Arch, SearchSpace, as_rows
from bort_jax.cost import bert_network, by_part, cost_function
from bort_jax.ose import break_even
from bort_jax.ose.objective import saving

SCALE = 8  # H, I and the vocabulary of the runs with errors are divided by it
SWAPPED = Arch(depth=4, heads=8, hidden=768, intermediate=1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="text to train on")
    parser.add_argument("--steps", type=int, default=200)
    arguments = parser.parse_args()
    sizes()
    ranks()
    if arguments.data:
        errors(arguments.data, steps=arguments.steps)


def sizes() -> None:
    network = bert_network(vocab_size=50265, positions=512, seq_len=128, head="mlm")
    large = by_part(network, BERT_LARGE)["encoder"]
    print("| architecture | all, M | embeddings, M | encoder, M | encoder of BERT-large's | macs |")
    print("|---|---|---|---|---|---|")
    for arch in (BORT, SWAPPED, BERT_BASE, BERT_LARGE):
        parts = by_part(network, arch)
        whole = sum(part["params"] for part in parts.values())
        encoder = parts["encoder"]
        print(
            f"| {arch} | {whole / 1e6:.1f} | {parts['embeddings']['params'] / 1e6:.1f} | "
            f"{encoder['params'] / 1e6:.1f} | {encoder['params'] / large['params']:.1%} | "
            f"1/{large['macs'] / encoder['macs']:.1f} |"
        )


def ranks() -> None:
    """Rank of the published optimum by W without 1/e, and the error ratio it needs."""
    space = SearchSpace.published()
    archs = space.archs()
    costs = cost_function(space, seq_len=128)(as_rows(archs))
    savings = saving(costs.params, costs.macs)
    bort = archs.index(BORT)
    ahead = int((savings > savings[bort] * (1 + 1e-12)).sum())
    ratio = break_even(savings, bort)[savings.argmax()]
    print(f"\n{BORT}: {ahead} of {len(archs)} have a larger W without 1/e; it wins if its error is")
    print(f"below {ratio:.3f} of {archs[int(savings.argmax())]}'s")


def errors(data: str, *, steps: int) -> None:
    """e of the published optimum and of the smallest, at an eighth of the size, three seeds."""
    from tempfile import TemporaryDirectory

    from bort_jax.data.prepared import prepare_corpus
    from bort_jax.stages.extract.errors import trained_error
    from bort_jax.stages.extract.recipe import Recipe

    smaller = lambda arch: arch._replace(
        hidden=arch.hidden // SCALE, intermediate=arch.intermediate // SCALE
    )
    pair = [smaller(BORT), smaller(Arch(2, 4, 512, 256))]
    with TemporaryDirectory() as folder:
        corpus = prepare_corpus(data, folder, vocab_size=50265 // SCALE)
        for measure in ("error", "excess"):
            recipe = Recipe(
                steps=steps, batch_size=8, seq_len=128, learning_rates=(1e-3,), measure=measure
            )
            seeded = [replace(recipe, seed=seed) for seed in range(3)]
            found = np.array([trained_error(corpus, recipe)(pair) for recipe in seeded])
            ratios = found[:, 0] / found[:, 1]
            print(
                f"\n{measure} after {steps} steps: {pair[0]} {found[:, 0].mean():.4f}, {pair[1]} "
                f"{found[:, 1].mean():.4f}; ratio {ratios.mean():.3f} ({ratios.min():.3f} to "
                f"{ratios.max():.3f})"
            )


if __name__ == "__main__":
    main()

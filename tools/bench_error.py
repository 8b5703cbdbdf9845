# SPDX-License-Identifier: Apache-2.0
"""Seconds to measure e of small candidates: a fresh process each time, imports included.

    python tools/bench_error.py --repeats 3

Candidates: D ∈ {2, 4}, A ∈ {2, 4}, H ∈ {32, 64}, I = 128 (8 of them), or I ∈ {32, 64, 96, 128}
(32); 30 steps of 8 rows of 64 tokens, a vocabulary of about 4,096, 64 held-out rows, on text drawn
from Zipf's law. Cold: an empty folder for the compilation cache; warm: the folder the cold run
left. Torch, where it is installed, trains the same sizes eagerly with AdamW.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

STEPS, BATCH, SEQ_LEN, EVAL_ROWS, RATE = 30, 8, 64, 64, 1e-3
INTERMEDIATE = {8: (128,), 32: (32, 64, 96, 128)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=["trained", "elastic", "torch"])
    parser.add_argument("--candidates", nargs="*", type=int, default=[8, 32])
    parser.add_argument("--child", nargs=3, metavar=("KIND", "CANDIDATES", "CORPUS"))
    options = parser.parse_args()
    if options.child:
        kind, candidates, corpus = options.child
        return {"torch": torch_eager}.get(kind, ours)(kind, space(int(candidates)), corpus)
    with tempfile.TemporaryDirectory() as scratch:
        corpus = prepare(Path(scratch))
        for kind in options.only:
            for candidates in options.candidates:
                rows(kind, candidates, corpus, options.repeats)


def rows(kind: str, candidates: int, corpus: Path, repeats: int) -> None:
    """Prints the cold and the warm line of one kind."""
    seconds = {"cold": [], "warm": []}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as cache:
            for state in seconds:
                if kind != "torch" or state == "cold":
                    seconds[state].append(timed(kind, candidates, corpus, cache))
    for state, values in seconds.items():
        if values:
            low, middle, high = np.percentile(values, [0, 50, 100])
            label = "eager" if kind == "torch" else state
            print(
                f"{kind:8} {candidates:3} candidates, {label:5}: median {middle:5.1f} s "
                f"({low:.1f} to {high:.1f})",
                flush=True,
            )


def timed(kind: str, candidates: int, corpus: Path, cache: str) -> float:
    command = [sys.executable, __file__, "--child", kind, str(candidates), str(corpus)]
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",  # as the command line has it
    }
    start = time.perf_counter()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def prepare(folder: Path) -> Path:
    """A corpus of 4,000 lines, 60 made-up words each, frequencies by Zipf's law."""
    from bort_jax.data.prepared import prepare_corpus

    generator = np.random.default_rng(0)
    letters = list("etaoinshrdlucmfwyp")
    words = ["".join(generator.choice(letters, generator.integers(2, 9))) for _ in range(6000)]
    shares = 1 / np.arange(1, len(words) + 1)
    text = (generator.choice(words, 60, p=shares / shares.sum()) for _ in range(4000))
    (folder / "text.txt").write_text("\n".join(map(" ".join, text)))
    prepare_corpus(folder / "text.txt", folder / "corpus", vocab_size=4096)
    return folder / "corpus"


def space(candidates: int):
    from bort_jax.arch import SearchSpace

    return SearchSpace(
        depth=(2, 4), heads=(2, 4), hidden=(32, 64), intermediate=INTERMEDIATE[candidates]
    )


def ours(kind: str, candidates, folder: str) -> None:
    from bort_jax.data.prepared import prepare_corpus
    from bort_jax.stages.extract.errors import elastic_error, trained_error
    from bort_jax.stages.extract.recipe import Recipe

    corpus = prepare_corpus(folder, folder)
    recipe = Recipe(
        steps=STEPS,
        batch_size=BATCH,
        seq_len=SEQ_LEN,
        learning_rates=(RATE,),
        eval_rows=EVAL_ROWS,
    )
    if kind == "elastic":
        error_fn = elastic_error(corpus, candidates, recipe)
    else:
        error_fn = trained_error(corpus, recipe)
    print(error_fn(candidates.archs()))


def torch_eager(kind: str, candidates, folder: str) -> None:
    import torch
    import torch.nn.functional as F

    from bort_jax.data.masking import masked_batch
    from bort_jax.data.prepared import prepare_corpus

    corpus = prepare_corpus(folder, folder)
    vocab_size = corpus.tokenizer.vocab_size
    rows = lambda shard, index, size: {
        name: torch.tensor(values)
        for name, values in masked_batch(
            shard, index, seed=0, batch_size=size, seq_len=SEQ_LEN
        ).items()
    }
    for arch in candidates.archs():
        model = torch_model(arch, vocab_size)
        optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01, eps=1e-6)
        for index in range(STEPS):
            batch = rows(corpus.train, index, BATCH)
            logits = model(batch["ids"], batch["positions"])
            loss = F.cross_entropy(logits.flatten(0, 1), batch["labels"].long().flatten())
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        with torch.no_grad():
            held = rows(corpus.heldout, 0, min(EVAL_ROWS, corpus.heldout.rows(SEQ_LEN)))
            wrong = model(held["ids"], held["positions"]).argmax(-1) != held["labels"]
        print(arch, float(wrong.float().mean()))


def torch_model(arch, vocab_size: int):
    """A post-LayerNorm BERT with a tied decoder, as a user of torch would write it."""
    import torch
    from torch import nn

    hidden = arch.hidden

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.word = nn.Embedding(vocab_size, hidden)
            self.position = nn.Parameter(torch.randn(SEQ_LEN, hidden) * 0.02)
            self.norm = nn.LayerNorm(hidden)
            layer = lambda: nn.TransformerEncoderLayer(
                hidden, arch.heads, arch.intermediate, 0.0, "gelu", batch_first=True
            )
            self.layers = nn.Sequential(*(layer() for _ in range(arch.depth)))
            self.head = nn.Sequential(nn.Linear(hidden, hidden), nn.GELU(), nn.LayerNorm(hidden))
            self.bias = nn.Parameter(torch.zeros(vocab_size))
            nn.init.normal_(self.word.weight, std=0.02)

        def forward(self, ids, positions):
            x = self.layers(self.norm(self.word(ids) + self.position))
            at = positions.long()[..., None].expand(-1, -1, hidden)
            return self.head(torch.gather(x, 1, at)) @ self.word.weight.T + self.bias

    return Model()


if __name__ == "__main__":
    main()

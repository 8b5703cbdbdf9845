# SPDX-License-Identifier: Apache-2.0
"""A population of fine-tunings: as one program, one after the other, and in torch; in turns.

    python tools/bench_agora.py --arch D2-A4-H128-I512 --members 8 --steps 16
    python tools/bench_agora.py --arch bort --members 2 --steps 2 --repeats 2

Rows of 128 tokens without padding, AdamW, warm-up and decay, gradients clipped to norm 1; products
of float32 run in TF32 on GPUs that have it, in torch too. Compilation is left out and told by
itself. On an accelerator the ratio that counts is that of the population to sequential JAX:

    python tools/bench_agora.py --arch bort --members 8 --steps 160
"""

import argparse
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import jax
import numpy as np

from bort_jax.arch import Arch
from bort_jax.data.tokenizer import SPECIAL_TOKENS, Tokenizer
from bort_jax.interop import Checkpoint, save
from bort_jax.model import BertConfig, Classifier, MaskedLM, random_params
from bort_jax.stages.finetune.tuner import FineTuner, Theta, labelled_batches
from bort_jax.tasks import Points

LENGTH = 128
RATES = (1e-4, 3e-5, 1e-5)


def main() -> None:
    parser = argparse.ArgumentParser(description="A population of fine-tunings, in turns")
    parser.add_argument("--arch", default="D2-A4-H128-I512")
    parser.add_argument("--vocab", type=int, default=50265)
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--at-once", type=int, help="members of a device; 1: in turns")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--without-torch", action="store_true")
    given = parser.parse_args()
    start, points = setting(given)
    thetas = [Theta(seed, RATES[seed % 3], 0.01, 0.1, given.batch) for seed in range(given.members)]
    runs = ours(start, given, thetas, points)
    if not given.without_torch:
        runs |= in_torch(start, given, thetas, points)
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}; {given.arch}, {given.vocab:,}")
    print(f"tokens, {given.members} members, {given.steps} steps of {given.batch} x {LENGTH},")
    print(f"dropout {given.dropout}, {given.dtype}")
    for name, run in runs.items():
        print(f"{name:18} first time, with compilation: {seconds(run):.1f} s", flush=True)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(given.repeats):
        for name, run in runs.items():
            times[name].append(seconds(run))
    steps = given.members * given.steps
    base = np.median(times["population"])
    for name, found in times.items():
        low, middle, high = (1e3 * f(found) / steps for f in (min, np.median, max))
        ratio = f"its time / the population's {np.median(found) / base:.2f}"
        print(f"{name:18} {middle:8.1f} ms ({low:.1f} to {high:.1f}) a member and step   {ratio}")


def seconds(run: Callable) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def setting(given) -> tuple[Checkpoint, Points]:
    """A checkpoint with drawn parameters, and random rows without padding."""
    config = BertConfig(Arch.parse(given.arch), given.vocab, dtype=given.dtype)
    params = random_params(MaskedLM(config), seed=0)
    rng = np.random.default_rng(0)
    x = rng.integers(5, given.vocab, (256, LENGTH)).astype(np.int32)
    start = Checkpoint(config, params, tokenizer=made_up_tokenizer(given.vocab))
    return start, Points(x, (np.arange(256) % 2).astype(np.int32))


def made_up_tokenizer(size: int) -> Tokenizer:
    """One of that size: nothing is read with it, but it says what is padding."""
    from tokenizers import Tokenizer as Backend
    from tokenizers.models import WordLevel

    words = [*SPECIAL_TOKENS, *(f"w{n}" for n in range(size - len(SPECIAL_TOKENS)))]
    ids = {word: n for n, word in enumerate(words)}
    return Tokenizer(Backend(WordLevel(ids, unk_token=SPECIAL_TOKENS[3])))


def ours(start: Checkpoint, given, thetas: list[Theta], points: Points) -> dict[str, Callable]:
    recipe = {name: getattr(given, name) for name in ("steps", "dropout", "dtype")}
    tuner_of = lambda at_once: FineTuner.of(start, ("no", "yes"), at_once=at_once, **recipe)
    together, alone = tuner_of(given.at_once), tuner_of(1)

    def population() -> None:
        for _ in together.fit_all(thetas, points):
            pass

    def sequential() -> None:
        for theta in thetas:
            alone.fit(theta, points)

    return {"population": population, "jax, sequential": sequential}


def in_torch(start: Checkpoint, given, thetas: list[Theta], points: Points) -> dict[str, Callable]:
    """The same work by stock classes, one after the other; nothing where torch is missing."""
    if not (find_spec("torch") and find_spec("transformers")):
        return {}
    import torch
    import transformers

    torch.set_float32_matmul_precision("high")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    narrow = torch.autocast(device, torch.bfloat16, enabled=given.dtype == "bfloat16")
    head = random_params(Classifier(start.config, 2), seed=0)
    folder = TemporaryDirectory()
    fresh = Checkpoint(start.config, head | {"encoder": start.params["encoder"]}, ("no", "yes"))
    save(fresh, Path(folder.name))

    def one(theta: Theta) -> None:
        torch.manual_seed(theta.seed)
        stock = transformers.BertForSequenceClassification.from_pretrained(folder.name)
        stock = stock.to(device).train()  # pyright: ignore[reportArgumentType]
        optimizer = torch.optim.AdamW(
            stock.parameters(), theta.learning_rate, weight_decay=theta.weight_decay, eps=1e-6
        )
        warm = theta.warmup_ratio * given.steps
        schedule = transformers.get_linear_schedule_with_warmup(optimizer, int(warm), given.steps)
        batches = labelled_batches(points, theta)
        for _ in range(given.steps):
            batch = {name: torch.from_numpy(x).to(device) for name, x in next(batches).items()}
            ids, labels = batch["ids"].long(), batch["labels"].long()
            optimizer.zero_grad()
            with narrow:
                loss = stock(input_ids=ids, labels=labels).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(stock.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        if device == "cuda":
            torch.cuda.synchronize()

    def sequential() -> None:
        transformers.utils.logging.disable_progress_bar()
        for theta in thetas:
            one(theta)
        assert folder  # kept until the last run

    return {"torch, sequential": sequential}


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""What the tests check on CPUs only as far as it goes there, on the accelerator at hand.

    python tools/check_accelerator.py

Each line is ‖found − expected‖ / ‖expected‖ and the bound that it must keep; one that is not kept
is an error. Expected is what plain float32 products without TF32 give on the same device.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from bort_jax.arch import Arch
from bort_jax.engine.optimizer import Hyper
from bort_jax.interop import Checkpoint
from bort_jax.interop.stablehlo import export_forward
from bort_jax.model import BertConfig, Classifier, MaskedLM, forward, head_loss, random_params
from bort_jax.model.attention import attention, device_kind, kernel, plain
from bort_jax.stages.finetune.population import Member, Population
from bort_jax.stages.pretrain.objectives import masked_lm_loss

STEPS = 5  # of a population
BF16 = 3e-2  # bound where activations have 8 bits; gradients are sums of many such
MODEL = BertConfig(Arch(2, 2, 128, 128), vocab_size=1000, positions=128, dropout=0.0)


class Check(NamedTuple):
    what: str
    error: float
    bound: float


def main() -> None:
    device = jax.devices()[0]
    print(f"{device.device_kind}, jax {jax.__version__}, attention's kernels: {device_kind()}")
    jax.config.update("jax_default_matmul_precision", "float32")
    failed = 0
    for what, error, bound in checks():
        kept = error <= bound  # not so of NaN
        failed += not kept
        print(f"{what:58} {error:.1e}  ≤ {bound:.0e}  {'' if kept else 'NOT KEPT'}", flush=True)
    if failed:
        raise SystemExit(f"{failed} bounds are not kept")


def checks() -> Iterator[Check]:
    for shape in ((4, 128, 8, 128), (3, 64, 12, 32), (2, 512, 16, 64), (2, 48, 2, 16)):
        yield from attention_checks(shape)
    yield from model_checks()
    yield from population_checks()
    yield exported_check()


def attention_checks(shape: tuple[int, ...]) -> Iterator[Check]:
    """The kernel that a bfloat16 model takes here, and its gradients, with padding."""
    chosen = kernel(device_kind(), dtype=jnp.bfloat16, head_size=shape[3], length=shape[1])
    q, k, v = (jax.random.normal(key, shape) for key in jax.random.split(jax.random.key(0), 3))
    mask = np.arange(shape[1]) < np.linspace(shape[1] // 3, shape[1], shape[0])[:, None]

    def both(run, dtype, q, k, v):
        tokens = mask[:, :, None, None]
        mixed, back = jax.vjp(lambda *x: run(*(y.astype(dtype) for y in x), mask), q, k, v)
        return jnp.where(tokens, mixed, 0), *back(jnp.where(tokens, jnp.cos(mixed), 0))

    found = jax.jit(partial(both, attention, jnp.bfloat16))(q, k, v)
    expected = jax.jit(partial(both, plain, jnp.float32))(q, k, v)
    for name, one, other in zip(("", " dq", " dk", " dv"), found, expected, strict=True):
        yield Check(f"attention by {chosen}{name} {shape}", distance(one, other), BF16)


def model_checks() -> Iterator[Check]:
    """Loss and gradients of a masked LM in bfloat16 beside those in float32."""
    batch = masked_batch()
    params = random_params(MaskedLM(MODEL), seed=0)

    def both(config: BertConfig) -> Any:
        loss = masked_lm_loss(MaskedLM(config))
        mean = lambda params: loss(params, (), batch, jax.random.key(0))["loss"]
        return jax.device_get(jax.jit(jax.value_and_grad(mean))(params))

    loss, grads = both(MODEL)
    narrow_loss, narrow_grads = both(replace(MODEL, dtype="bfloat16"))
    yield Check("loss of a masked LM, bfloat16", distance(narrow_loss, loss), BF16)
    yield Check("its gradients", distance(flat(narrow_grads), flat(grads)), 2 * BF16)


def population_checks() -> Iterator[Check]:
    """A member among others ends as it would alone, with dropout."""
    members, batches = zip(*(member_of(seed) for seed in range(3)), strict=True)
    config = replace(MODEL, dropout=0.1)
    model = Classifier(config, 2)
    encoder = random_params(model, seed=0)["encoder"]

    loss = head_loss(model, "classification", pad=0)
    programs = Population.of(loss, lambda params, ids: ids)

    def trained(which: slice) -> list:
        stack = lambda trees: jax.tree.map(lambda *x: np.stack(x)[None], *trees)
        own = stack(members[which])
        begun = programs.begin(encoder, own)
        ended = programs.train(begun, own, stack(batches[which]), np.int32(STEPS)).params
        return [jax.tree.map(lambda x, k=k: x[0, k], ended) for k in range(len(members[which]))]

    moved = lambda params: flat(params["encoder"]) - flat(encoder)
    alone = [moved(trained(slice(k, k + 1))[0]) for k in range(3)]
    for k, params in enumerate(trained(slice(0, 3))):
        error = distance(moved(params), alone[k])
        yield Check(f"member {k} of three, its way in {STEPS} steps", error, 1e-2)


def member_of(seed: int) -> tuple[Member, Any]:
    rng = np.random.default_rng(seed)
    model = Classifier(replace(MODEL, dropout=0.1), 2)
    head = {k: v for k, v in random_params(model, seed=seed).items() if k != "encoder"}
    hyper = Hyper.of(
        learning_rate=1e-4 * (seed + 1), weight_decay=0.01, warmup_ratio=0.2, total_steps=STEPS
    )
    key = np.asarray(jax.random.key_data(jax.random.key(seed)))
    batches = {
        "ids": rng.integers(5, 1000, (STEPS, 8, 64)).astype(np.int32),
        "labels": rng.integers(0, 2, (STEPS, 8)).astype(np.int32),
        "weights": np.ones((STEPS, 8), np.float32),
    }
    return Member(hyper, key, head), batches


def exported_check() -> Check:
    """The exported program, run here."""
    params = random_params(MaskedLM(MODEL), seed=0)
    checkpoint = Checkpoint(MODEL, params)
    batch = masked_batch()
    inputs = batch["ids"], batch["mask"], batch["positions"]
    weights = traverse_util.flatten_dict(params, sep=".")
    found = export_forward(checkpoint).call(weights, *inputs)
    expected = jax.jit(partial(forward, checkpoint.model))(params, *inputs)
    return Check("logits of the exported program", distance(found, expected), 1e-5)


def masked_batch() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "ids": rng.integers(5, 1000, (4, 128)).astype(np.int32),
        "mask": np.arange(128) < np.array([128, 90, 60, 128])[:, None],
        "positions": np.sort(rng.integers(0, 60, (4, 19))).astype(np.int32),
        "labels": rng.integers(5, 1000, (4, 19)).astype(np.int32),
        "weights": np.ones((4, 19), np.float32),
    }


def flat(tree) -> np.ndarray:
    return np.concatenate([np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(tree)])


def distance(found, expected) -> float:
    found, expected = (np.asarray(x, np.float64) for x in (found, expected))
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


if __name__ == "__main__":
    main()

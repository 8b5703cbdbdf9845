# SPDX-License-Identifier: Apache-2.0
"""Every kernel computes the same attention, and each is taken where its library offers it.

No accelerator is needed: splash attention runs interpreted, cuDNN's call is lowered, and what it
is told is run by XLA.
"""

import re
from dataclasses import replace
from functools import partial
from importlib import import_module
from types import SimpleNamespace

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import few
from hypothesis import given
from hypothesis import strategies as st

from bort_jax.arch import Arch
from bort_jax.interop import Checkpoint
from bort_jax.interop.stablehlo import export_forward
from bort_jax.model import BertConfig, MaskedLM, forward, random_params
from bort_jax.model.attention import (
    attention,
    cudnn,
    device_kind,
    kernel,
    lengths,
    plain,
    softmax_mean,
    splash,
)

BF16 = BertConfig(Arch(2, 2, 128, 64), vocab_size=50, positions=128, dtype="bfloat16")
CALLS = {"cudnn": ("cuda", "@__cudnn$fmha"), "tpu": ("tpu", "@tpu_custom_call")}


def drawn(*shape, dtype="float32"):
    keys = jax.random.split(jax.random.key(0), 3)
    return [jax.random.normal(key, shape, dtype) for key in keys]


def prefix(length: int, *tokens: int):
    return np.arange(length) < np.array(tokens)[:, None]


def value_and_gradients(run, *inputs):
    """The whole result, padding too, and the gradients of a function of the tokens."""

    def both(q, k, v, mask):
        mixed, back = jax.vjp(lambda q, k, v: run(q, k, v, mask), q, k, v)
        return mixed, *back(jnp.where(mask[:, :, None, None], jnp.cos(mixed), 0))

    return [np.asarray(x, np.float32) for x in jax.jit(both)(*inputs)]


@pytest.fixture
def told_to_xla(monkeypatch):
    """cuDNN's call with the same arguments, but run by XLA."""
    fused = jax.nn.dot_product_attention

    def by_xla(*args, implementation, **kwargs):
        assert implementation == "cudnn"
        return fused(*args, implementation="xla", **kwargs)

    monkeypatch.setattr(jax.nn, "dot_product_attention", by_xla)


@pytest.fixture(scope="module")
def with_cudnn():
    """jax asks for the version of cuDNN when it traces the call."""
    module = import_module("jax._src.cudnn.fused_attention_stablehlo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "check_cudnn_version", lambda: 91200)
        yield


@pytest.mark.parametrize(
    "kind, dtype, head_size, length, expected",
    [
        ("cudnn", "bfloat16", 128, 512, "cudnn"),
        ("cudnn", "float16", 64, 78, "cudnn"),
        ("cudnn", "bfloat16", 64, 77, "plain"),
        ("cudnn", "float32", 64, 128, "plain"),
        ("cudnn", "bfloat16", 136, 128, "plain"),
        ("cudnn", "bfloat16", 60, 128, "plain"),
        ("tpu", "bfloat16", 128, 512, "splash"),
        ("tpu", "bfloat16", 64, 384, "splash"),
        ("tpu", "bfloat16", 32, 512, "plain"),
        ("tpu", "bfloat16", 64, 96, "plain"),
        ("tpu", "float32", 64, 128, "plain"),
        ("tpu", "float16", 64, 128, "plain"),
        ("gpu", "bfloat16", 64, 128, "plain"),
        ("cpu", "bfloat16", 64, 128, "plain"),
    ],
)
def test_the_kernel_follows_from_device_type_and_sizes(kind, dtype, head_size, length, expected):
    assert kernel(kind, dtype=jnp.dtype(dtype), head_size=head_size, length=length) == expected


@pytest.mark.parametrize(
    "platform, version, capability, expected",
    [
        ("gpu", "PJRT C API\ncuda 12090", "9.0", "cudnn"),
        ("gpu", "PJRT C API\ncuda 12090", "12.0", "cudnn"),
        ("gpu", "PJRT C API\ncuda 12090", "7.5", "gpu"),
        ("gpu", "PJRT C API\nrocm 60000", "gfx942", "gpu"),
        ("tpu", "PJRT C API\nTFRT TPU v5 lite", None, "tpu"),
        ("cpu", "cpu", None, "cpu"),
    ],
)
def test_only_nvidia_gpus_from_ampere_on_have_cudnns_attention(
    monkeypatch, platform, version, capability, expected
):
    first = SimpleNamespace(
        platform=platform,
        client=SimpleNamespace(platform_version=version),
        compute_capability=capability,
    )
    monkeypatch.setattr(jax, "local_devices", lambda: [first])
    assert device_kind() == expected


@few
@given(
    head_size=st.integers(1, 160) | st.integers(1, 16).map(lambda n: 8 * n),
    length=st.integers(1, 520),
)
def test_where_cudnn_is_chosen_jax_takes_the_shapes(with_cudnn, head_size, length):
    """And where it is not, jax refuses them."""
    x = jax.ShapeDtypeStruct((1, length, 1, head_size), jnp.bfloat16)
    mask = jax.ShapeDtypeStruct((1, length), bool)
    trace = lambda: jax.eval_shape(partial(gradient_of_sum, cudnn), x, x, x, mask)
    if kernel("cudnn", dtype=x.dtype, head_size=head_size, length=length) == "cudnn":
        assert [g.shape for g in trace()] == [x.shape] * 3
    else:
        with pytest.raises(NotImplementedError):
            trace()


def gradient_of_sum(run, q, k, v, mask):
    return jax.grad(lambda *x: run(*x, mask).astype(jnp.float32).sum(), (0, 1, 2))(q, k, v)


@given(tokens=st.lists(st.integers(0, 9), min_size=1, max_size=5))
def test_lengths_are_the_tokens_of_rows_padded_to_the_right_and_never_0(tokens):
    found = lengths(jnp.asarray(prefix(9, *tokens)))
    assert found.dtype == jnp.int32
    np.testing.assert_array_equal(found, np.maximum(tokens, 1))


@pytest.mark.parametrize("dtype, atol", [("float32", 1e-6), ("bfloat16", 2e-2)])
def test_what_cudnn_is_told_is_plain_attention(told_to_xla, dtype, atol):
    inputs = (*drawn(3, 10, 2, 8, dtype=dtype), prefix(10, 10, 4, 1))
    got, expected = (value_and_gradients(run, *inputs) for run in (cudnn, plain))
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=atol, rtol=atol)


@pytest.mark.slow
def test_splash_attention_is_plain_attention():
    from jax.experimental.pallas import tpu as pltpu

    inputs = (*drawn(1, 128, 1, 64), prefix(128, 90))
    with pltpu.force_tpu_interpret_mode():
        got = value_and_gradients(splash, *inputs)
    expected = value_and_gradients(plain, *inputs)
    assert np.isfinite(got[0]).all()
    np.testing.assert_allclose(got[0][:, :90], expected[0][:, :90], atol=2e-6)
    for one, other in zip(got[1:], expected[1:], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("run", [plain, cudnn])
def test_rows_without_any_token_stay_finite(told_to_xla, run):
    inputs = (*drawn(2, 6, 1, 8), prefix(6, 0, 3))
    for found in value_and_gradients(run, *inputs):
        assert np.isfinite(found).all()


def stand_on(kind: str, monkeypatch) -> None:
    for module in ("attention", "bert"):
        monkeypatch.setattr(f"bort_jax.model.{module}.device_kind", lambda: kind)


def fused_calls(kind: str, monkeypatch, *, dropout: float, training: bool) -> int:
    """In the gradient of several bfloat16 models on one batch, lowered for that device."""
    stand_on(kind, monkeypatch)
    platform, call = CALLS[kind]
    model = MaskedLM(replace(BF16, dropout=dropout))
    params = jax.tree.map(lambda x: np.stack([x] * 2), random_params(model, seed=0))
    ids, mask = np.zeros((2, 128), np.int32), prefix(128, 128, 60)
    key = jax.random.key(0) if training else None
    loss = lambda params: forward(model, params, ids, mask, ids[:, :3], key=key).sum()
    checked = [
        jax.export.DisabledSafetyCheck.custom_call(f"__cudnn$fmhaSoftmax{back}")
        for back in ("", "Backward")
    ]
    program = jax.jit(jax.vmap(jax.grad(loss)))
    lowered = jax.export.export(program, platforms=[platform], disabled_checks=checked)(params)
    return len(re.findall(re.escape(call), lowered.mlir_module()))


@pytest.mark.parametrize("kind", CALLS)
def test_models_lower_with_the_devices_kernel(with_cudnn, monkeypatch, kind):
    assert fused_calls(kind, monkeypatch, dropout=0.1, training=False) > 1
    assert fused_calls(kind, monkeypatch, dropout=0.0, training=True) > 1


@pytest.mark.parametrize("kind", CALLS)
def test_training_with_dropout_on_weights_is_plain(with_cudnn, monkeypatch, kind):
    assert fused_calls(kind, monkeypatch, dropout=0.1, training=True) == 0


@pytest.mark.parametrize("kind", CALLS)
def test_symbolic_lengths_are_plain(kind):
    (length,) = jax.export.symbolic_shape("128*n")
    assert kernel(kind, dtype=jnp.dtype("bfloat16"), head_size=64, length=length) == "plain"


def test_programs_for_export_are_plain_wherever_they_are_exported(monkeypatch):
    stand_on("cudnn", monkeypatch)
    program = export_forward(
        Checkpoint(BF16, random_params(MaskedLM(BF16), seed=0), tokenizer=None)
    )
    assert "__cudnn" not in program.mlir_module()
    assert [str(n) for n in program.out_avals[0].shape] == ["b", "m", "50"]
    assert program.platforms == ("cpu", "cuda", "tpu")


def test_attention_is_the_mean_of_values_weighted_by_softmax():
    scores, v = (jax.random.normal(jax.random.key(k), (2, 2, 5, 5)) for k in (0, 1))
    scores = scores.at[0, 0, 0].set(-1e30).at[1, 1, 2, 3].set(300.0)
    mixed = jax.jit(partial(softmax_mean, drop=lambda weights: weights))(scores, v)
    np.testing.assert_allclose(mixed, jax.nn.softmax(scores) @ v, atol=2e-6)


def test_attention_on_cpu_is_plain():
    inputs = (*drawn(2, 8, 2, 8, dtype="bfloat16"), prefix(8, 8, 5))
    np.testing.assert_array_equal(jax.jit(attention)(*inputs), jax.jit(plain)(*inputs))

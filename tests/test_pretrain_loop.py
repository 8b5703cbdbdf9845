# SPDX-License-Identifier: Apache-2.0
"""The loop of pretraining: micro-batches, skipped steps, hours, scores, rates, a dry run."""

import json
import math
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command_line import one_device
from helpers import few, pretrain_config, trees_equal
from hypothesis import given
from hypothesis import strategies as st

from bort_jax.arch import Arch, LayerwiseArch
from bort_jax.data.masking import masked_batch
from bort_jax.engine import schedule, throughput
from bort_jax.engine.loop import Diverged, Guard, fit, read_metrics
from bort_jax.engine.optimizer import Hyper
from bort_jax.engine.parallel import parallel_step
from bort_jax.engine.peaks import DATA_SHEETS, known_peak, peak_flops
from bort_jax.engine.processes import join_processes
from bort_jax.engine.reporting import summary
from bort_jax.engine.step import gradient_sums, new_state
from bort_jax.engine.throughput import Meter, forward_flops, step_flops
from bort_jax.interop import load, save
from bort_jax.interop.orbax_folder import save_orbax
from bort_jax.model import (
    BertConfig,
    MaskedLM,
    count_params,
    forward,
    param_structs,
    random_params,
)
from bort_jax.stages.predict.mlm_scores import mlm_scores
from bort_jax.stages.pretrain.cache_teacher import TopKTeacher, cache_teacher
from bort_jax.stages.pretrain.objectives import masked_lm_loss
from bort_jax.stages.pretrain.run import dry_run, pretrain
from bort_jax.stages.pretrain.stored_run import load_run

HYPER = Hyper.of(learning_rate=1e-2, weight_decay=0.01, warmup_ratio=0.1, total_steps=20)


def tiny_model(corpus, **changes):
    config = BertConfig(Arch(1, 2, 16, 24), corpus.tokenizer.vocab_size, positions=24, dropout=0.0)
    return MaskedLM(replace(config, **changes))


def assert_close(one, two, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), one, two)


# Micro-batches


@pytest.mark.parametrize("optimizer", ["adamw", pytest.param("lamb", marks=pytest.mark.slow)])
def test_micro_batches_are_the_whole_batch_with_unequal_counts(corpus, optimizer):
    model = tiny_model(corpus)
    batch = masked_batch(corpus.train, 0, seed=0, batch_size=16, seq_len=24)
    counts = np.arange(16) % 4  # some micro-batches have nothing to predict
    there = np.arange(batch["weights"].shape[1]) < counts[:, None]
    batch["weights"] = there.astype(np.float32)
    params = random_params(model, seed=0)
    found = []
    for parts in (1, 4):
        state = new_state(params, HYPER, optimizer=optimizer)
        step = parallel_step(masked_lm_loss(model), optimizer=optimizer, clip=1.0, accumulate=parts)
        found.append(step(state, (), batch, jax.random.key(0)))
    for state, metrics in found[1:]:
        assert_close(metrics, found[0][1], rtol=2e-5, atol=1e-6)
        assert_close(state.params, found[0][0].params, atol=3e-6)


def test_micro_batches_drop_different_units():
    def loss_fn(params, frozen, batch, key):
        draw = jax.random.uniform(key)
        return {"loss": params["w"] * 0, "count": 1.0, "draw": draw, "square": draw**2}

    gradient = gradient_sums(loss_fn, parts=2)
    _, sums = gradient({"w": jnp.float32(0)}, (), {"x": jnp.zeros(4)}, jax.random.key(0))
    assert float(sums["count"]) == 2
    assert 2 * float(sums["square"]) - float(sums["draw"]) ** 2 > 1e-3


# Steps that are not finite


def bad_loss(kind: str):
    """|w − mean x|², but not finite where x is over 100: the loss, or its gradient alone."""

    def loss_fn(params, frozen, batch, key):
        loss = ((params["w"] - batch["x"]) ** 2).sum()
        bad = (batch["x"] > 100).any()
        zero = jnp.where(bad, params["w"] * 0, 1.0)
        lost = jnp.log(zero) if kind == "loss" else jnp.sqrt(zero)
        return {"loss": jnp.where(bad, lost, loss), "count": jnp.float32(len(batch["x"]))}

    return loss_fn


def batch_of(value):
    return {"x": np.full(4, value, np.float32)}


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(kind):
    step = parallel_step(bad_loss(kind), optimizer="adamw", clip=1.0)
    fresh = lambda: new_state({"w": np.float32(1)}, HYPER, optimizer="adamw")
    run = lambda state, value: step(state, (), batch_of(value), jax.random.key(0))
    state = fresh()
    for value in (3, 1000, 1000, 5):
        before = jax.device_get((state.params, state.opt_state))
        state, metrics = run(state, value)
        if value == 1000:
            assert trees_equal(before, jax.device_get((state.params, state.opt_state)))
    assert (int(state.step), int(state.skipped), int(state.in_a_row)) == (4, 2, 0)
    # What is left is bit for bit the run that never saw them.
    straight, _ = run(fresh(), 3)
    straight = jax.device_get(straight)._replace(step=np.int32(3))
    straight, _ = run(straight, 5)
    assert trees_equal(state.params, straight.params) and trees_equal(
        state.opt_state, straight.opt_state
    )


def test_too_many_in_a_row_stop_the_run_and_name_the_batches():
    step = parallel_step(bad_loss("loss"), optimizer="adamw", clip=1.0)
    state = new_state({"w": np.float32(1)}, HYPER, optimizer="adamw")
    batches = [batch_of(value) for value in (1, 1000, 1, 1000, 1000, 1000, 1000)]
    seen = []
    hooks = [Guard(3, every=1), lambda step, state, metrics: seen.append(step)]
    with pytest.raises(Diverged, match="batches 3 to 5, 3 in a row"):
        fit(state, batches, step_fn=lambda s, b: step(s, (), b, jax.random.key(0)), hooks=hooks)
    assert seen == [1, 2, 3, 4, 5]


def test_a_batch_without_anything_to_predict_is_skipped(corpus):
    model = tiny_model(corpus)
    batch = masked_batch(corpus.train, 0, seed=0, batch_size=4, seq_len=24)
    batch["weights"] = np.zeros_like(batch["weights"])
    params = random_params(model, seed=0)
    step = parallel_step(masked_lm_loss(model), optimizer="adamw", clip=1.0)
    state = new_state(params, HYPER, optimizer="adamw")
    state, metrics = step(state, (), batch, jax.random.key(0))
    assert int(metrics["skipped"]) == 1 and trees_equal(state.params, params)


# Hours


class Ticks:
    """A clock on which every look takes a second."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1
        return self.now


def test_a_run_of_hours_ends_when_they_are_used_up_with_the_rate_at_zero(
    corpus, tmp_path, monkeypatch
):
    settings = {"hours": 100 / 3600, "warmup_ratio": 0.2, "steps": 1, "save_every": 1000}
    wanted = pretrain_config(corpus, tmp_path, **settings)
    monkeypatch.setattr(schedule, "monotonic", Ticks())
    pretrain(wanted)
    records = read_metrics(tmp_path)
    seconds = np.array([record["seconds"] for record in records])
    rates = np.array([record["learning_rate"] for record in records])
    assert (np.diff(seconds) > 0).all() and seconds[-2] < 100 <= seconds[-1] < 105
    expected = 1e-2 * np.minimum((seconds + 1) / 20, (100 - seconds) / 80)
    assert rates == pytest.approx(np.clip(expected, 0, 1e-2), rel=1e-5)
    assert rates[-1] == 0 and rates.max() > 0.9e-2


@pytest.mark.slow
def test_time_that_was_used_before_a_stop_counts(corpus, tmp_path, monkeypatch):
    def stop(step, state, metrics):
        if step == 5:
            raise KeyboardInterrupt

    wanted = pretrain_config(corpus, tmp_path, hours=100 / 3600, save_every=4, log_every=1)
    monkeypatch.setattr(schedule, "monotonic", Ticks())
    with pytest.raises(KeyboardInterrupt):
        pretrain(wanted, hooks=[stop])
    before = read_metrics(tmp_path)[3]["seconds"]
    clock = Ticks()
    clock.now = 1e6  # another process, another start of its clock
    monkeypatch.setattr(schedule, "monotonic", clock)
    pretrain(wanted)
    seconds = [record["seconds"] for record in read_metrics(tmp_path)]
    assert seconds[3] == before and before < seconds[4] < before + 5
    assert (np.diff(seconds) > 0).all() and 100 <= seconds[-1] < 105


# Scores on held-out text


def test_scores_beside_a_teacher_are_those_computed_directly(corpus, small):
    student = tiny_model(corpus)
    params = random_params(student, seed=1)
    score = mlm_scores(student, corpus.heldout, rows=7, seq_len=20, teacher=small)(params)
    batch = masked_batch(corpus.heldout, 0, seed=0, batch_size=7, seq_len=20)
    inputs = (batch["ids"], batch["mask"], batch["positions"])
    run = jax.jit(forward, static_argnums=0)
    logits = np.asarray(run(student, params, *inputs), np.float64)
    targets = np.asarray(run(small.model, small.params, *inputs), np.float64)
    there = batch["weights"] > 0
    log_softmax = lambda x: x - np.log(np.exp(x).sum(-1, keepdims=True))
    log_q, log_p = log_softmax(logits)[there], log_softmax(targets)[there]
    labels = batch["labels"][there]
    loss = -log_q[np.arange(len(labels)), labels].mean()
    assert score.loss == pytest.approx(loss, rel=1e-5)
    assert score.perplexity == pytest.approx(np.exp(loss), rel=1e-5)
    assert score.accuracy == pytest.approx((log_q.argmax(-1) == labels).mean())
    assert score.agreement == pytest.approx((log_q.argmax(-1) == log_p.argmax(-1)).mean())
    assert score.divergence == pytest.approx(
        (np.exp(log_p) * (log_p - log_q)).sum(-1).mean(), rel=1e-4
    )


def test_a_model_agrees_with_itself(corpus, small):
    score = mlm_scores(small.model, corpus.heldout, rows=5, seq_len=20, teacher=small)(small.params)
    assert score.agreement == 1 and abs(score.divergence) < 1e-6


def test_scores_are_recorded_as_the_run_goes_and_the_last_are_the_runs(
    corpus, small, tmp_path, capsys
):
    save(small, tmp_path / "teacher")
    wanted = pretrain_config(
        corpus, tmp_path / "run", teacher=str(tmp_path / "teacher"), eval_every=4, log_every=3
    )
    scores = pretrain(wanted)
    records = {record["step"]: record for record in read_metrics(tmp_path / "run")}
    assert sorted(records) == [3, 4, 6]
    assert {step for step in records if "heldout_loss" in records[step]} == {4, 6}
    assert records[6]["heldout_loss"] == scores.loss
    assert records[6]["heldout_agreement"] == scores.agreement
    assert json.loads((tmp_path / "run/scores.json").read_text()) == scores.as_dict()
    trained = load(tmp_path / "run" / "model")
    again = mlm_scores(trained.model, corpus.heldout, rows=4, seq_len=24)(trained.params)
    assert again.loss == pytest.approx(scores.loss, rel=1e-5)
    # Not a terminal: lines of text, no bar.
    said = capsys.readouterr().err
    assert "pretrain D1-A2-H16-I24: step 3/6, loss " in said
    assert "step 6/6" in said and "held-out loss" in said and "\r" not in said
    assert pretrain(wanted) == scores  # finished: read again
    (tmp_path / "run/scores.json").write_text(json.dumps(scores.as_dict() | {"loss": {}}))
    with pytest.raises(ValueError, match="scores.json is damaged"):
        pretrain(wanted)


# Rates


def equations(jaxpr) -> Iterator:
    """All equations of a program, those of the programs inside too."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(tuple(equation.params.values()), is_leaf=is_program):
            if is_program(value):
                yield from equations(getattr(value, "jaxpr", value))


def is_program(value) -> bool:
    return hasattr(value, "eqns")


def products(jaxpr) -> list:
    return [each for each in equations(jaxpr) if each.primitive.name == "dot_general"]


def operations(product) -> int:
    """Floating-point operations of a matrix product."""
    ((axes, _), _) = product.params["dimension_numbers"]
    summed = math.prod(product.invars[0].aval.shape[axis] for axis in axes)
    return 2 * summed * math.prod(product.outvars[0].aval.shape)


@few
@given(
    st.integers(1, 3), st.integers(1, 3), st.integers(1, 5), st.integers(1, 20), st.integers(2, 12)
)
def test_flops_are_those_of_the_products_in_the_program(depth, heads, size, wide, seq_len):
    bert = BertConfig(Arch(depth, heads, heads * size, wide), vocab_size=11, positions=16)
    model, masked = MaskedLM(bert), max(1, seq_len // 3)
    ids, positions = np.zeros((1, seq_len), np.int32), np.zeros((1, masked), np.int32)
    traced = jax.make_jaxpr(lambda p: forward(model, p, ids, ids == 0, positions))(
        param_structs(model)
    )
    counted = sum(map(operations, products(traced.jaxpr)))
    assert forward_flops(bert, seq_len=seq_len, masked=masked) == counted


def test_mfu_of_a_small_net_by_hand(monkeypatch):
    """D1 A2 H4 I8, 3 tokens of which 2 are predicted, V = 10, and a teacher of the same shape."""
    bert = BertConfig(Arch(1, 2, 4, 8), vocab_size=10, positions=5)
    attention = 4 * 3 * 4 * 4 + 2 * 3 * 3 * 4
    feed_forward = 2 * 3 * 4 * 8
    head = 2 * 4 * 4 + 2 * 4 * 10
    forward_pass = 2 * (attention + feed_forward + head)
    assert step_flops(bert)(3, 2) == 3 * forward_pass
    assert step_flops(bert, bert)(3, 2) == 4 * forward_pass
    now = [0.0]
    monkeypatch.setattr(throughput.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(throughput, "memory_in_use", lambda: 0.0)
    meter = Meter(step_flops(bert), 1000.0)
    batch = {"ids": np.zeros((6, 3)), "positions": np.zeros((6, 2))}
    for k, _ in enumerate(meter.watch([batch] * 3)):
        now[0] += 100 if k == 0 else 4  # the first step compiles, and does not count
        with meter.pause():
            now[0] += 50  # an evaluation
    rates = meter.lap()
    assert rates["tokens_per_second"] == 2 * 18 / 8 and rates["seconds_per_step"] == 4
    assert rates["mfu"] == pytest.approx(2 * 6 * 3 * forward_pass / 8 / 1000)
    assert "mfu" not in meter.lap()


def test_waiting_for_data_is_measured():
    def slow():
        for _ in range(3):
            time.sleep(0.02)
            yield {"ids": np.zeros((4, 8)), "positions": np.zeros((4, 2))}

    meter = Meter(lambda *_: 1, None)
    for _ in meter.watch(slow()):
        time.sleep(0.06)
    assert 0.15 < meter.lap()["waited_for_data"] < 0.35


@pytest.mark.parametrize(
    "kind, flops",
    [
        ("NVIDIA H100 80GB HBM3", 989.4e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5p", 459e12),
        ("Tesla V100-PCIE-16GB", 112e12),
        ("NVIDIA L40S", 362.05e12),
        ("AMD Instinct MI300X", 1307.4e12),
        # Not the card whose name they begin with.
        ("NVIDIA L40", None),
        ("NVIDIA A1000", None),
        ("NVIDIA A100-SXM4-80GB MIG 1g.10gb", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("cpu", None),
    ],
)
def test_known_peak_by_device_kind(kind, flops):
    assert known_peak(kind) == flops


@pytest.mark.parametrize(
    "line",
    [
        ["Tesla V100", "NVIDIA A100", "NVIDIA H100", "NVIDIA B200"],
        ["Tesla T4", "NVIDIA A10", "NVIDIA L40S"],
        ["NVIDIA A10G", "NVIDIA L4"],
        ["NVIDIA H100 PCIe", "NVIDIA H100 NVL", "NVIDIA H100"],
        ["TPU v2", "TPU v3"],
        ["TPU v4", "TPU v5p", "TPU v6e"],
    ],
)
def test_known_peak_grows_by_generation_and_never_by_what_sparsity_would_add(line):
    peaks = [known_peak(kind) for kind in line]
    assert all(1.05 < later / earlier < 3.5 for earlier, later in pairwise(peaks)), peaks


def test_every_data_sheet_is_of_one_device():
    for kind, flops in DATA_SHEETS.items():
        assert 2e13 < flops < 5e15, kind
        assert known_peak(kind) == known_peak(f"{kind}-80GB") == flops


def test_meter_knows_no_mfu_of_a_device_without_a_data_sheet():
    assert peak_flops() is None  # of CPUs
    meter = Meter(lambda *_: 1, peak_flops())
    batch = {"ids": np.zeros((4, 8)), "positions": np.zeros((4, 2))}
    list(meter.watch([batch] * 3))
    rates = meter.lap()
    assert rates["tokens_per_second"] > 0 and "mfu" not in rates
    shown = summary(rates | {"loss": 1.0, "learning_rate": 0.1, "skipped": 0})
    assert shown.endswith("tokens/s, MFU unknown")


# Half precision


# The six are attention's two and their gradients, which CPUs compute in float32.
@pytest.mark.parametrize("kind, wide", [("cudnn", 0), ("cpu", 6)])
def test_in_bfloat16_products_are_half_and_weights_loss_and_sums_are_not(
    corpus, monkeypatch, kind, wide
):
    monkeypatch.setattr("bort_jax.model.bert.device_kind", lambda: kind)
    model = tiny_model(corpus, dtype="bfloat16", dropout=0.1)
    params = random_params(model, seed=0)
    batch = masked_batch(corpus.train, 0, seed=0, batch_size=2, seq_len=24)
    gradient = gradient_sums(masked_lm_loss(model), parts=1)
    traced = jax.make_jaxpr(gradient)(params, (), batch, jax.random.key(0)).jaxpr
    half = np.dtype(jnp.bfloat16)
    types = [{operand.aval.dtype for operand in each.invars} for each in products(traced)]
    assert len(types) > 20 and sum(t != {half} for t in types) == wide
    seen = set()
    for each in equations(traced):
        name, operand = each.primitive.name, each.invars[0].aval if each.invars else None
        # The exp of scores and logits: GELU's gradient has one too, of [b, s, i].
        softmax = name == "exp" and (operand.ndim == 4 or operand.shape[-1] == 300)
        if softmax or name in ("log", "rsqrt"):
            seen.add(name)
            assert operand.dtype == np.float32, each
    assert seen == {"exp", "log", "rsqrt"}
    assert {leaf.aval.dtype.name for leaf in traced.outvars} == {"float32"}


# A dry run


def test_a_dry_run_counts_and_writes_nothing(corpus, text_file, tmp_path):
    wanted = pretrain_config(
        corpus, tmp_path / "run", data=str(text_file), vocab_size=300, steps=50
    )
    plan = dry_run(wanted)
    assert list(tmp_path.iterdir()) == []
    model = tiny_model(corpus)
    assert plan.params == count_params(model)
    assert plan.steps == 50 and plan.tokens == 50 * 4 * 24
    assert plan.epochs == pytest.approx(50 * 4 * 24 / corpus.train.n_tokens)
    # Weights and the two moments, at the least.
    assert 3 * 4 * plan.params < plan.kept_bytes < plan.device_bytes
    assert plan.seconds == pytest.approx(plan.compile_seconds + 50 * plan.seconds_per_step)


def test_a_dry_run_of_hours_says_how_many_steps_fit(corpus, tmp_path):
    plan = dry_run(pretrain_config(corpus, tmp_path / "run", hours=0.5))
    assert plan.seconds == 1800 and plan.steps == int(1800 / plan.seconds_per_step)


def test_dry_run_repeats_the_batches_of_a_short_teacher_cache(corpus, small, tmp_path):
    stream = corpus.stream(seed=0, batch_size=4, seq_len=24)
    cache_teacher(corpus, stream, TopKTeacher.of(small, top_k=4), tmp_path / "cache", steps=3)
    cached = pretrain_config(
        corpus, tmp_path / "run", teacher_cache=str(tmp_path / "cache"), steps=3
    )
    assert dry_run(cached).steps == 3


def test_load_run_keeps_the_family_that_the_run_started_from(corpus, small, tmp_path):
    save(replace(small, family="roberta"), tmp_path / "start")
    shape = {"arch": str(small.config.arch), "positions": small.config.positions}
    start = pretrain_config(
        corpus, tmp_path / "run", init_from=str(tmp_path / "start"), steps=1, **shape
    )
    pretrain(start)
    assert load(tmp_path / "run" / "model").family == "roberta"
    assert load_run(tmp_path / "run").family == "roberta"


@pytest.mark.slow
def test_pretrain_goes_on_with_layers_of_different_sizes(corpus, tiny, tmp_path):
    """Of the start's architecture where none is given; kept in the folder for stock classes."""
    arch = LayerwiseArch(16, 8, ((1, 8), (0, 0), (2, 5)))
    empty = replace(tiny, config=replace(tiny.config, arch=arch))
    save_orbax(empty.with_params(random_params(empty.model, seed=0)), tmp_path / "start")
    given = {"init_from": str(tmp_path / "start"), "arch": None, "steps": 1, "positions": 32}
    config = pretrain_config(corpus, tmp_path / "run", **given)
    pretrain(config)
    one, two = load(tmp_path / "run" / "model"), load_run(tmp_path / "run")
    assert one.config.arch == two.config.arch == arch and trees_equal(one.params, two.params)
    with pytest.raises(ValueError, match="asked for H16-K8"):
        pretrain(replace(config, arch="H16-K8[A1-I8]", out=str(tmp_path / "other")))


# Processes


@pytest.mark.parametrize(
    "given, message",
    [
        (("localhost:1", 2, None), "give all or none"),
        ((None, None, 1), "give all or none"),
        (("localhost:1", 2, 2), r"process must be in 0 … 1; got 2"),
    ],
)
def test_processes_that_cannot_be_joined_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        join_processes(*given)


@pytest.mark.slow
def test_two_processes_of_the_command_are_one(corpus, tmp_path):
    """With micro-batches: the same parameters to tolerance, whoever computes what."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    wanted = pretrain_config(
        corpus, tmp_path / "two", dropout=0.0, accumulation_steps=2, eval_every=3
    )
    options = [f"--{name}={value}" for name, value in vars(wanted).items() if value is not None]
    command = [sys.executable, "-m", "bort_jax.cli", "pretrain", *options]
    joined = [f"--coordinator=127.0.0.1:{port}", "--processes=2"]
    running = [
        subprocess.Popen(
            [*command, *joined, f"--process={k}"],
            env=one_device(),
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )
        for k in range(2)
    ]
    for process in running:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors.decode()[-2000:]
    pretrain(pretrain_config(corpus, tmp_path / "one", dropout=0.0))
    two, one = (load(tmp_path / name / "model").params for name in ("two", "one"))
    assert_close(two, one, atol=1e-4)
    losses = [[r["loss"] for r in read_metrics(tmp_path / name)] for name in ("two", "one")]
    np.testing.assert_allclose(*losses, atol=1e-5)

# SPDX-License-Identifier: Apache-2.0
"""Distillation: from a teacher that runs, from its cache, and from its hidden states."""

import json
import shutil
from dataclasses import make_dataclass, replace
from pathlib import Path

import jax
import numpy as np
import pytest
from command_line import refused, run
from helpers import pretrain_config, trees_equal
from hypothesis import given
from hypothesis import strategies as st

from bort_jax.arch import Arch
from bort_jax.data.prepared import prepare_corpus
from bort_jax.data.tokenizer import Tokenizer
from bort_jax.data.tokenizer_files import require_tokenizer
from bort_jax.engine.loop import read_metrics
from bort_jax.interop import Checkpoint, load, save
from bort_jax.interop.description import fingerprint
from bort_jax.model import (
    BertConfig,
    MaskedLM,
    TopK,
    distillation,
    hidden_states,
    random_params,
    top_k,
    top_k_distillation,
)
from bort_jax.stages.pretrain.cache_teacher import TopKTeacher, cache_teacher
from bort_jax.stages.pretrain.objectives import objective, teacher_stream, with_map, without_map
from bort_jax.stages.pretrain.run import pretrain, setup_of
from bort_jax.stages.pretrain.stored_run import load_run
from bort_jax.stages.pretrain.teacher import Teacher
from bort_jax.stages.pretrain.teacher_cache import CACHE, check_cache, open_cache, read_cache
from bort_jax.storage.run_folder import RunMismatch

# The loss of the k likeliest.

LOGITS = st.integers(0, 2**32 - 1).map(np.random.default_rng)


def drawn(generator, *, vocab_size=12, spread=3.0):
    """Logits of a student and a teacher, and weights with a filler."""
    shape = (2, 3, vocab_size)
    student, teacher = (generator.normal(0, spread, shape).astype(np.float32) for _ in range(2))
    weights = np.array([[1, 1, 0], [1, 1, 1]], np.float32)
    return student, teacher, weights


def dense_loss(student, teacher, weights, *, k, temperature):
    """The same law, written over k + 1 outcomes in the teacher's order, in float64."""
    p, q = (softmax(x.astype(np.float64) / temperature) for x in (teacher, student))
    order = np.argsort(-p, axis=-1, kind="stable")
    p, q = (np.take_along_axis(x, order, -1) for x in (p, q))
    p, q = (
        np.concatenate([x[..., :k], x[..., k:].sum(-1, keepdims=True)], axis=-1) for x in (p, q)
    )
    kept = p > 0
    divergence = np.sum(
        np.where(kept, p * np.log(np.where(kept, p / np.where(kept, q, 1), 1)), 0), -1
    )
    return temperature**2 * np.sum(divergence * weights)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


KS = st.sampled_from([1, 4, 11, 12])
TEMPERATURES = st.sampled_from([0.5, 1.0, 2.0, 5.0])
likeliest = jax.jit(top_k, static_argnames="k")
loss_of = jax.jit(top_k_distillation)
loss_and_gradient = jax.jit(jax.value_and_grad(top_k_distillation))
whole_loss = jax.jit(distillation)


@given(LOGITS, KS, TEMPERATURES)
def test_the_loss_of_the_likeliest_is_the_divergence_of_k_and_a_tail(generator, k, temperature):
    student, teacher, weights = drawn(generator)
    kept = likeliest(teacher, k=k, temperature=temperature)
    found = loss_of(student, kept, weights, temperature=temperature)
    wanted = dense_loss(student, teacher, weights, k=k, temperature=temperature)
    assert np.isclose(found, wanted, rtol=1e-4, atol=1e-5)


@given(LOGITS, TEMPERATURES)
def test_it_grows_with_k_to_the_whole_divergence(generator, temperature):
    student, teacher, weights = drawn(generator)
    losses = []
    for k in (1, 4, 11, 12):
        kept = likeliest(teacher, k=k, temperature=temperature)
        losses.append(float(loss_of(student, kept, weights, temperature=temperature)))
    whole = float(whole_loss(student, teacher, weights, temperature=temperature))
    assert all(less <= more + 1e-4 for less, more in zip(losses, losses[1:], strict=False))
    assert min(losses) >= -1e-5 and np.isclose(losses[-1], whole, rtol=1e-5, atol=1e-5)


@given(LOGITS, KS, TEMPERATURES, st.sampled_from([1.0, 30.0]))
def test_its_gradient_is_what_the_docstring_says(generator, k, temperature, spread):
    student, teacher, weights = drawn(generator, spread=spread)
    kept = likeliest(teacher, k=k, temperature=temperature)
    _, found = loss_and_gradient(student, kept, weights, temperature=temperature)
    p, q = (softmax(x.astype(np.float64) / temperature) for x in (teacher, student))
    top = np.zeros(p.shape, bool)
    np.put_along_axis(top, np.asarray(kept.ids), True, axis=-1)
    tails = [np.sum(np.where(top, 0, x), -1, keepdims=True) for x in (p, q)]
    # q over q': what the tail looks like to the student, however small it is.
    within = softmax(np.where(top, -1e9, student.astype(np.float64) / temperature))
    elsewhere = within * (tails[1] - tails[0])
    wanted = temperature * np.where(top, q - p, elsewhere) * weights[..., None]
    assert np.isfinite(found).all()
    assert np.allclose(found, wanted, rtol=1e-3, atol=1e-4)


@given(LOGITS, KS)
def test_who_agrees_with_the_teacher_has_nothing_to_learn(generator, k):
    _, teacher, weights = drawn(generator)
    kept = likeliest(teacher, k=k, temperature=2.0)
    value, gradient = loss_and_gradient(teacher, kept, weights, temperature=2.0)
    assert abs(value) < 1e-5 and np.abs(gradient).max() < 1e-5


@given(LOGITS, KS)
def test_16_bits_change_the_loss_by_little(generator, k):
    student, teacher, weights = drawn(generator)
    kept = likeliest(teacher, k=k, temperature=2.0)
    half = TopK(kept.ids, kept.log_p.astype(np.float16), kept.log_tail.astype(np.float16))
    whole, rounded = (loss_of(student, x, weights, temperature=2.0) for x in (kept, half))
    assert np.isclose(whole, rounded, rtol=5e-3, atol=5e-3)


def test_fillers_and_padding_are_not_learnt():
    generator = np.random.default_rng(0)
    student, teacher = (generator.normal(size=(2, 4, 3)).astype(np.float32) for _ in range(2))
    mask = np.array([[True, True, True, True], [True, True, False, False]])
    weights = np.array([[1.0, 1.0], [1.0, 0.0]], np.float32)
    squared = ((student - teacher) ** 2).mean(-1)
    wanted = 2 * squared[0].mean() + squared[1, :2].mean()
    assert np.isclose(hidden_states(student, teacher, mask, weights), wanted)
    gradient = jax.grad(lambda x: hidden_states(x, teacher, mask, weights))(student)
    assert (np.asarray(gradient)[1, 2:] == 0).all() and np.abs(gradient[1, :2]).min() > 0


# A teacher cache.

K = 8
STUDENT, LARGER = Arch(1, 2, 16, 24), Arch(1, 2, 24, 32)


def small_model(tokenizer, *, seed, arch=STUDENT, **more):
    config = BertConfig(arch, tokenizer.vocab_size, positions=32, dropout=0.0)
    params = random_params(MaskedLM(config), seed=seed)
    # Wide enough that distributions are not flat.
    params = jax.tree.map(lambda x: x * 8 if x.ndim == 2 else x, params)
    return Checkpoint(config, params, tokenizer=tokenizer, **more)


@pytest.fixture(scope="module")
def teacher(corpus):
    return small_model(corpus.tokenizer, seed=5, arch=LARGER)


@pytest.fixture(scope="module")
def teacher_folder(teacher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    save(teacher, folder)
    return folder


KINDS = {
    "joined": {},
    "buckets": {"packing": "documents", "buckets": True, "whole_word": True},
}


def configured(corpus, tmp_path, **more):
    sizes = dict(batch_size=8, seq_len=32, positions=32, eval_rows=8, save_every=500)
    settings = sizes | dict(dropout=0.0, seed=3) | more
    return pretrain_config(corpus, tmp_path / "run", **settings)


def cached(corpus, teacher, folder, *, steps=6, kind="joined", part_bytes=1 << 25):
    stream = corpus.stream(seed=3, batch_size=8, seq_len=32, **KINDS[kind])
    return cache_teacher(corpus, stream, teacher, folder, steps=steps, part_bytes=part_bytes)


@pytest.fixture(scope="module")
def live(teacher):
    return TopKTeacher.of(teacher, top_k=K, temperature=2.0)


TWO_BATCHES = 2 * 8 * 4 * (4 * K + 2)  # bytes


@pytest.fixture(scope="module")
def kept(corpus, live, tmp_path_factory):
    """A cache of six batches, in several parts."""
    folder = tmp_path_factory.mktemp("kept") / "cache"
    cache, difference = cached(corpus, live, folder, part_bytes=TWO_BATCHES)
    assert len(cache.parts) == 3 and difference < 1e-3
    return folder


@pytest.fixture
def copied(kept, tmp_path):
    return Path(shutil.copytree(kept, tmp_path / "copied"))


def stream_of(corpus, config, teacher):
    stream, cache = config.stream(corpus), config.teacher_cache
    return teacher_stream(stream, corpus, config.losses, teacher=teacher, cache=cache)


def sums_of(config, corpus, teacher, index=2):
    """The loss's parts and its gradient on one batch, as the run would have them."""
    student = small_model(corpus.tokenizer, seed=1)
    batch = stream_of(corpus, config, teacher).batch(index)
    cached = config.teacher_cache is not None
    loss, frozen = objective(student.model, config.losses, teacher, cached=cached)
    params = student.params
    if config.hidden_weight:
        params = with_map(params, teacher, seed=config.seed)

    def summed(params):
        sums = loss(params, frozen, batch, None)
        return sums["loss"], sums

    gradient, sums = jax.jit(jax.grad(summed, has_aux=True))(params)
    return gradient, {name: float(value) for name, value in sums.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_cache_of_all_tokens_gives_the_live_teachers_loss(corpus, teacher, tmp_path, kind):
    """With k = v, to what 16 bits cost, in the loss and in the gradient."""
    everything = TopKTeacher.of(teacher, top_k=corpus.tokenizer.vocab_size)
    cached(corpus, everything, tmp_path / "cache", kind=kind)
    live = configured(corpus, tmp_path, **KINDS[kind])
    kept = replace(live, teacher_cache=str(tmp_path / "cache"))
    gradient, sums = sums_of(live, corpus, teacher)
    other_gradient, other_sums = sums_of(kept, corpus, None)
    assert sums["mlm"] == pytest.approx(other_sums["mlm"], rel=1e-6)
    assert sums["distillation"] == pytest.approx(other_sums["distillation"], rel=2e-3)
    largest = max(float(np.abs(x).max()) for x in jax.tree.leaves(gradient))
    for one, two in zip(jax.tree.leaves(gradient), jax.tree.leaves(other_gradient), strict=True):
        assert np.abs(np.asarray(one) - np.asarray(two)).max() < 5e-3 * largest


def test_fewer_tokens_are_a_lower_bound(corpus, teacher, kept, tmp_path):
    live = configured(corpus, tmp_path)
    few = replace(live, teacher_cache=str(kept))
    _, sums = sums_of(live, corpus, teacher)
    _, fewer = sums_of(few, corpus, None)
    assert 0 < fewer["distillation"] < sums["distillation"]
    assert sums["count"] == fewer["count"] == 8 * round(0.15 * 30)


def opened(corpus, folder):
    stream = corpus.stream(seed=3, batch_size=8, seq_len=32)
    return open_cache(folder, corpus, stream, temperature=2.0)


def test_hosts_together_read_what_one_host_reads(corpus, kept):
    stream = opened(corpus, kept)
    for index in (5, 0, 3):
        whole = stream.batch(index)
        for hosts in (2, 4):
            for host in range(hosts):
                mine = stream.batch(index, host=host, hosts=hosts)
                for name, values in whole.items():
                    assert np.array_equal(mine[name], values[host::hosts]), name


def test_a_cache_does_not_depend_on_the_number_of_devices(corpus, teacher, kept):
    """Several devices here, one there: equal to what 16 bits show, perhaps but for a last digit."""
    batch = corpus.stream(seed=3, batch_size=8, seq_len=32).batch(4)
    of_all = opened(corpus, kept).targets(4)
    run = Teacher.of(teacher)
    logits = jax.jit(lambda b: run.run(run.params, b)[1], device=jax.local_devices()[0])(
        {name: batch[name] for name in ("ids", "mask", "positions")}
    )
    found = top_k(logits, k=K, temperature=2.0)
    assert np.array_equal(found.ids, of_all["top_ids"])
    assert np.allclose(found.log_p, of_all["top_log_p"], rtol=1e-3, atol=1e-3)
    assert np.allclose(found.log_tail, of_all["log_tail"], rtol=1e-3, atol=1e-3)


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_cache_teacher_continues_to_the_same_bytes(corpus, live, kept, tmp_path):
    for steps in (2, 4, 6):
        cached(corpus, live, tmp_path / "cache", steps=steps, part_bytes=TWO_BATCHES)
    assert contents(tmp_path / "cache") == contents(kept)


def test_cache_teacher_adds_the_batches_that_a_run_misses(corpus, live, copied, tmp_path):
    few = configured(corpus, tmp_path, teacher_cache=str(copied), steps=9)
    with pytest.raises(ValueError, match="has 6 batches, not 9.* with --steps 9"):
        pretrain(few)
    before = contents(copied)
    cached(corpus, live, copied, steps=9)
    cache = check_cache(copied)
    assert cache.batches == 9 and len(cache.parts) == 4
    assert all(contents(copied)[f"0000{k}.bin"] == before[f"0000{k}.bin"] for k in range(3))
    assert stream_of(corpus, few, None).batch(8)["top_ids"].shape == (8, 4, K)


def test_a_corrupt_part_is_named_when_its_turn_comes(corpus, live, copied):
    file = copied / "00001.bin"
    good = file.read_bytes()
    file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    for read in (
        lambda: check_cache(copied),
        lambda: cached(corpus, live, copied, steps=7),
        lambda: opened(corpus, copied).batch(2),
    ):
        with pytest.raises(ValueError, match=f"{file} is corrupt"):
            read()
    opened(corpus, copied).batch(1)  # another part
    file.unlink()
    with pytest.raises(FileNotFoundError, match=f"{file} is missing"):
        opened(corpus, copied)


@pytest.mark.parametrize("top_k", [0, 10**9, "8", None])
def test_read_cache_refuses_an_absurd_top_k(copied, top_k):
    file = copied / CACHE.manifest
    found = json.loads(file.read_text())
    found["made_from"]["top_k"] = top_k
    file.write_text(json.dumps(found))
    with pytest.raises(ValueError, match="teacher_cache.json is damaged: "):
        read_cache(copied)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"seed": 4}, "seed: 3 there, 4 asked for"),
        ({"batch_size": 4}, "batch_size: 8 there, 4 asked for"),
        ({"seq_len": 24}, "seq_len: 32 there, 24 asked for"),
        ({"whole_word": True}, "whole_word: False there, True asked for"),
        ({"packing": "documents"}, "packing: 'joined' there, 'documents' asked for"),
        ({"temperature": 1.0}, "temperature: 2.0 there, 1.0 asked for"),
    ],
)
def test_open_cache_refuses_other_settings(corpus, kept, tmp_path, change, message):
    config = configured(corpus, tmp_path, teacher_cache=str(kept), **change)
    with pytest.raises(ValueError, match=message):
        stream_of(corpus, config, None)


def test_a_cache_of_another_text_tokenizer_or_teacher_is_refused(
    corpus, teacher, live, kept, text_file, tmp_path
):
    config = configured(corpus, tmp_path, teacher_cache=str(kept))
    (tmp_path / "other.txt").write_text(text_file.read_text()[:-30])
    tokenizer = corpus.train.folder.parent / "tokenizer"
    other = prepare_corpus(tmp_path / "other.txt", tmp_path / "other", tokenizer=tokenizer)
    with pytest.raises(ValueError, match="other settings .corpus_sha256: [^;]*.$"):
        stream_of(other, config, None)
    third = prepare_corpus(text_file, tmp_path / "third", vocab_size=290)
    with pytest.raises(ValueError, match="corpus_sha256.*tokenizer_sha256.*vocab_size"):
        stream_of(third, config, None)
    stranger = small_model(corpus.tokenizer, seed=6, arch=LARGER)
    with pytest.raises(ValueError, match="given teacher is not the teacher of"):
        stream_of(corpus, replace(config, teacher="stranger"), stranger)
    assert stream_of(corpus, replace(config, teacher="itself"), teacher).batch(0)
    with pytest.raises(ValueError, match="something else .teacher_sha256"):
        cached(corpus, TopKTeacher.of(stranger, top_k=K), kept)
    with pytest.raises(ValueError, match="top_k: 8 there, 9 asked for"):
        cached(corpus, replace(live, top_k=9), kept)


def test_cache_teacher_notices_probabilities_that_the_teacher_would_not_give(corpus, live, kept):
    """Another teacher under the same fingerprint: only running it again tells."""
    other = TopKTeacher.of(small_model(corpus.tokenizer, seed=6, arch=LARGER), top_k=K)
    with pytest.raises(ValueError, match="a probability differs by 0"):
        cached(corpus, replace(other, sha256=live.sha256), kept)


def test_fingerprint_stays_when_the_config_gets_a_field(tiny):
    later = make_dataclass("Later", [("added", int, 0)], bases=(BertConfig,), frozen=True)
    config = later(**vars(tiny.config))
    assert fingerprint(replace(tiny, config=config)) == fingerprint(tiny)
    other = replace(tiny, config=replace(config, added=1))
    assert fingerprint(other) != fingerprint(tiny)


# Hidden states.


def headless(tokenizer, *, hidden):
    config = BertConfig(Arch(1, 2, hidden, 24), tokenizer.vocab_size, positions=32, dropout=0.0)
    whole = random_params(MaskedLM(config), seed=9)
    return Checkpoint(config, {"encoder": whole["encoder"]}, tokenizer=tokenizer, headless=True)


HIDDEN = {"mlm_weight": 0.0, "distill_weight": 0.0, "hidden_weight": 1.0, "teacher": "T"}


@pytest.mark.parametrize("hidden", [16, 24])
def test_hidden_states_are_learnt_from_a_teacher_without_head(corpus, tmp_path, hidden):
    teacher = headless(corpus.tokenizer, hidden=hidden)
    config = configured(corpus, tmp_path, **HIDDEN)
    gradient, sums = sums_of(config, corpus, teacher)
    assert sums["loss"] == pytest.approx(sums["hidden"]) and sums["hidden"] > 0
    assert ("hidden_map" in gradient) == (hidden != 16)
    assert all(np.abs(x).max() == 0 for x in jax.tree.leaves(gradient["head"]))
    assert np.abs(gradient["encoder"]["embeddings"]["word"]["embedding"]).max() > 0
    assert "hidden_map" not in without_map(gradient)


def test_a_student_with_its_teachers_weights_has_no_hidden_error(corpus, tmp_path):
    student = small_model(corpus.tokenizer, seed=1)
    teacher = replace(student, params={"encoder": student.params["encoder"]}, headless=True)
    gradient, sums = sums_of(configured(corpus, tmp_path, **HIDDEN), corpus, teacher)
    assert sums["hidden"] < 1e-9  # rounding: student and teacher are two programs
    assert max(float(np.abs(x).max()) for x in jax.tree.leaves(gradient)) < 1e-4


@pytest.mark.parametrize(
    "change, message",
    [
        ({"hidden_weight": 1.0}, "--hidden-weight needs a --teacher"),
        ({"teacher": "T", "distill_weight": 0.0}, "a --teacher is given, but"),
        ({"teacher_cache": "T", "distill_weight": 0.0}, "a --teacher-cache is given, but"),
        ({"mlm_weight": -1.0}, "weights must not be negative"),
        ({"temperature": 0.0}, "temperature must be positive"),
    ],
)
def test_losses_that_nothing_is_there_for_are_refused(corpus, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        pretrain(configured(corpus, tmp_path, **change))
    assert not (tmp_path / "run").exists()


def test_teachers_that_do_not_fit_are_refused_with_the_reason(corpus, tmp_path):
    config = configured(corpus, tmp_path, teacher="T")
    with pytest.raises(ValueError, match="no masked-LM head.*--hidden-weight 1"):
        stream_of(corpus, config, headless(corpus.tokenizer, hidden=16))
    Tokenizer.train(["other words"], vocab_size=270).save(tmp_path / "other")
    other = require_tokenizer(tmp_path / "other")
    for settings in (config, configured(corpus, tmp_path, **HIDDEN)):
        with pytest.raises(ValueError, match="another token to each.*the teacher's tokenizer"):
            stream_of(corpus, settings, small_model(other, seed=0))
    unnamed = small_model(corpus.tokenizer, seed=0)
    larger = replace(unnamed.config, vocab_size=corpus.tokenizer.vocab_size + 4)
    with pytest.raises(ValueError, match="distributions cannot be compared"):
        stream_of(corpus, config, replace(unnamed, tokenizer=None, config=larger))
    with pytest.raises(ValueError, match="reads 32 tokens, the rows have 40"):
        stream_of(corpus, replace(config, seq_len=40), unnamed)


# Whole runs.


def test_a_run_does_not_go_on_with_another_teacher_of_the_same_name(
    corpus, teacher, kept, tmp_path
):
    save(teacher, tmp_path / "teacher")
    live = configured(corpus, tmp_path, teacher=str(tmp_path / "teacher"), steps=2)
    cached = configured(corpus, tmp_path, teacher_cache=str(kept), steps=2)
    known = [setup_of(config).teacher_sha256 for config in (live, cached)]
    assert known == [fingerprint(teacher)] * 2

    def stop(step, state, metrics):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(live, hooks=[stop])
    save(small_model(corpus.tokenizer, seed=6, arch=LARGER), tmp_path / "teacher")
    with pytest.raises(RunMismatch, match=r"other inputs \(teacher"):
        pretrain(live)


@pytest.mark.slow
def test_a_run_from_a_cache_is_the_run_from_the_teacher(
    corpus, teacher, teacher_folder, tmp_path, capsys
):
    """To what 16 bits cost: the losses of every step, and the finished model."""
    v = corpus.tokenizer.vocab_size
    source = corpus.train.folder.parent
    command = f"data cache-teacher {source} {tmp_path}/cache --teacher {teacher_folder} --steps 6"
    command += f" --batch-size 8 --seq-len 32 --seed 3 --top-k {v}"
    code, out, err = run(capsys, *command.split())
    assert code == 0 and "probabilities now are the same" in out and "bytes a token" in out, err
    code, out, err = run(capsys, "data", "check", f"{tmp_path}/cache")
    assert code == 0 and "every file has its checksum" in out, err
    live = configured(corpus, tmp_path / "a", teacher=str(teacher_folder))
    kept = configured(corpus, tmp_path / "b", teacher_cache=f"{tmp_path}/cache")
    one, two = pretrain(live), pretrain(kept)
    assert two.loss == pytest.approx(one.loss, rel=1e-3)
    plain = pretrain(configured(corpus, tmp_path / "c"))
    assert abs(plain.loss - one.loss) > 3 * abs(two.loss - one.loss)
    with pytest.raises(RunMismatch, match="teacher_cache"):
        pretrain(replace(kept, out=live.out, teacher=live.teacher))


def test_distillation_lowers_the_divergence(corpus, teacher_folder, tmp_path):
    pretrain(configured(corpus, tmp_path, teacher=str(teacher_folder), mlm_weight=0.0, steps=40))
    divergences = [record["distillation"] for record in read_metrics(tmp_path / "run")]
    assert np.mean(divergences[-5:]) < 0.7 * np.mean(divergences[:5]), divergences


def test_a_run_with_a_map_leaves_it_behind(corpus, tmp_path):
    save(headless(corpus.tokenizer, hidden=24), tmp_path / "teacher")
    teacher = {"teacher": str(tmp_path / "teacher"), "hidden_weight": 1.0, "distill_weight": 0.0}
    config = configured(corpus, tmp_path, save_every=3, **teacher)
    assert np.isfinite(pretrain(config).loss)
    finished = load(tmp_path / "run" / "model").params
    assert set(finished) == {"encoder", "head"}
    assert trees_equal(load_run(tmp_path / "run").params, finished)


@pytest.mark.parametrize(
    "argv, message",
    [
        ("data cache-teacher a", "needs CORPUS, OUT and --teacher"),
        ("data cache-teacher a b", "needs CORPUS, OUT and --teacher"),
        ("data cache-teacher nowhere b --teacher c", "no manifest.json in nowhere"),
        ("data cache-teecher a b", "did you mean 'cache-teacher'"),
    ],
)
def test_bad_cache_teacher_commands_are_one_clear_line(capsys, argv, message):
    assert message in refused(capsys, *argv.split())

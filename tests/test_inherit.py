# SPDX-License-Identifier: Apache-2.0
"""Laws of networks that are extracted inside a parent."""

import json
from dataclasses import replace
from functools import cache
from itertools import combinations, product

import jax
import numpy as np
import pytest
from helpers import SENTENCES, trees_equal
from hypothesis import given, settings
from hypothesis import strategies as st

from bort_jax.arch import Arch, LayerwiseArch
from bort_jax.data.tokenizer import Tokenizer
from bort_jax.engine.parallel import parallel_map
from bort_jax.interop import Checkpoint
from bort_jax.model import BertConfig, forward, param_structs, random_params, states_and_logits
from bort_jax.model.inherit import (
    cut_tokenizer,
    cut_vocabulary,
    gram_bytes,
    inherit,
    monotone,
    refine,
    tokens_to_keep,
)
from bort_jax.model.inherit.depth import DepthSearch
from bort_jax.model.inherit.errors import through_powers
from bort_jax.model.inherit.layer import cut, permute
from bort_jax.model.inherit.refit import Projection, output_error, refits

FULL = Arch(3, 4, 16, 32)
CONFIG = BertConfig(FULL, vocab_size=60, positions=16, token_types=2, separator=3)
HEADS = ("classification", "regression", "choice", "masked_lm", "none")
OPTIONS = [(4, 32), (4, 16), (2, 32), (2, 16), (1, 8), (0, 0)]
ROWS = 48


@cache
def made(head: str, *, seed: int = 0) -> Checkpoint:
    """A parent whose heads and units say much the same: half of them can be guessed."""
    labels = {"classification": ("a", "b", "c"), "regression": ("score",), "choice": ("choice",)}
    problem = head if head in labels else "classification"
    empty = Checkpoint(CONFIG, None, labels.get(head, ()), headless=head == "none", problem=problem)
    generator = np.random.default_rng(seed)

    def grown(path, leaf):
        names = [entry.key for entry in path]
        noise = generator.normal(size=leaf.shape)
        if names[-1] == "scale":
            return (1 + 0.2 * noise).astype(np.float32)
        if names[-1] == "bias":
            return (0.1 * noise).astype(np.float32)
        if "up" in names:
            shared = generator.normal(size=(leaf.shape[0], 6)) @ generator.normal(size=(6, 32))
            noise = 0.35 * shared + 0.2 * noise
        return (0.4 * noise).astype(np.float32)

    shapes = param_structs(empty.model)
    return empty.with_params(jax.tree_util.tree_map_with_path(grown, shapes))


def text(head: str, *, seed: int = 0, rows: int = ROWS) -> dict:
    """Rows of tokens of which a few are frequent, of many lengths."""
    generator = np.random.default_rng(seed)
    shape = (rows, 3, 16) if head == "choice" else (rows, 16)
    ids = np.minimum(generator.geometric(0.08, shape) + 3, 59).astype(np.int32)
    mask = np.arange(16) < generator.integers(3, 17, shape[:-1])[..., None]
    positions = generator.integers(0, 3, (rows, 2)).astype(np.int32)
    weights = (generator.uniform(size=(rows, 2)) < 0.8).astype(np.float32)
    masked = {"positions": positions, "weights": weights} if head == "masked_lm" else {}
    return {"ids": np.where(mask, ids, 1), "mask": mask, **masked}


@cache
def inherited(head: str, seed: int = 0):
    return inherit(made(head, seed=seed), text(head, seed=seed), batch_size=16, seed=seed)


def equal(*option: int, depth: int = 3) -> LayerwiseArch:
    return LayerwiseArch(16, 4, ((option[0], option[1]),) * depth)


def sliced(inheritance, arch: LayerwiseArch):
    """What plain slicing gives: no refit, skipped layers just left out."""
    rows = [(1 + 4 * a, 1 + i) for a, i in arch.layers]
    return [
        (n, cut(part.ordered, part.heads.weights[: rows[n][0]], part.units.weights[: rows[n][1]]))
        for n, part in enumerate(inheritance.parts)
        if arch.layers[n] != (0, 0)
    ]


@pytest.mark.parametrize("head", HEADS)
def test_at_full_size_it_is_the_parent(head):
    found = inherited(head)
    for arch in (FULL, equal(4, 32)):
        student = found.checkpoint(arch)
        assert trees_equal(student.params, found.parent.params)
        assert student.config == found.parent.config
        assert (student.model, student.labels) == (found.parent.model, found.parent.labels)
        # Two programs compute the parent's states: equal but for the order of sums.
        assert found.error(arch) == pytest.approx(found.base, rel=1e-6, abs=1e-9) and found.base > 0


def test_the_error_of_a_parent_that_is_sure_of_everything_is_more_than_0():
    parent = made("classification")
    sure = jax.tree.map(lambda x: 1e4 * x, parent.params["output"])
    found = inherit(
        replace(parent, params=parent.params | {"output": sure}),
        text("classification"),
        batch_size=16,
    )
    assert 0 < found.base < 1e-3 and found.error(FULL) > 0


@given(seed=st.integers(0, 10**6))
@settings(max_examples=10)
def test_the_order_of_heads_and_units_does_not_matter(seed):
    parent, rows, generator = made("none"), text("none"), np.random.default_rng(seed)
    encoder = dict(parent.params["encoder"])
    for n in range(3):
        heads, units = generator.permutation(4), generator.permutation(32)
        encoder[f"layer_{n}"] = permute(encoder[f"layer_{n}"], heads, units)
    states = lambda params: run(parent.model, params, rows["ids"], rows["mask"])
    np.testing.assert_allclose(
        states({"encoder": encoder}), states(parent.params), rtol=1e-4, atol=1e-5
    )


run = jax.jit(forward, static_argnums=0)


def test_what_is_ordered_computes_the_same_and_the_important_come_first():
    found = inherited("none")
    ordered = [(n, part.ordered) for n, part in enumerate(found.parts)]
    assert found.error_of(ordered) - found.base < 1e-9
    for part in found.parts:
        energy = np.diag(part.units.gram)[1:] * (part.units.weights[1:] ** 2).sum(1)
        assert (np.diff(energy) <= 1e-4 * energy[0]).all()
        g = part.heads.gram.astype(np.float64)
        covariance = g / g[0, 0] - np.outer(g[0], g[0]) / g[0, 0] ** 2
        blocks = [slice(k, k + 4) for k in range(1, 17, 4)]
        w = part.heads.weights
        spread = np.array([np.trace(w[a].T @ covariance[a, a] @ w[a]) for a in blocks])
        assert (np.diff(spread) <= 1e-4 * spread[0]).all()


@st.composite
def projections(draw):
    """Features that depend on each other, or not; fewer rows than features too."""
    generator = np.random.default_rng(draw(st.integers(0, 10**6)))
    n, rank = draw(st.sampled_from([5, 40, 400])), draw(st.sampled_from([2, 12]))
    features = generator.normal(size=(n, rank)) @ generator.normal(size=(rank, 12))
    features += draw(st.sampled_from([0.01, 1.0])) * generator.normal(size=(n, 12)) + 0.5
    ones = np.hstack([np.ones((n, 1)), features])
    weights = generator.normal(size=(13, 3)).astype(np.float32)
    ridge = draw(st.sampled_from([1e-4, 1e-2, 1.0]))
    return ones, Projection(ones.T @ ones, weights, draw(st.sampled_from([1, 3, 4])), ridge)


@given(case=projections())
def test_a_refit_errs_no_more_than_the_slice_whatever_the_prefix(case):
    ones, side = case
    sizes = range(1, 12 // side.grain + 1)
    fitted = refits(side, sizes)
    for size in sizes:
        n = 1 + size * side.grain
        missing = ones @ side.weights - ones[:, :n] @ fitted[size]
        error = output_error(side.gram, side.weights, fitted[size])
        slice_error = output_error(side.gram, side.weights, side.weights[:n])
        np.testing.assert_allclose(error, (missing**2).sum(), rtol=1e-3, atol=1e-3)
        assert error <= slice_error * (1 + 1e-6) + 1e-6


@given(case=projections(), size=st.integers(1, 12))
def test_one_factor_serves_every_prefix_and_the_ridge_spares_the_bias(case, size):
    ones, side = case
    size = max(1, size // side.grain)
    n = 1 + size * side.grain
    held = side.ridge * np.diag(side.gram)[1:].mean() * np.eye(n)
    held[0, 0] = 0
    missing = ones @ side.weights - ones[:, :n] @ side.weights[:n]
    change = np.linalg.solve(side.gram[:n, :n] + held, ones[:, :n].T @ missing)
    found = refits(side, [1, size, 12 // side.grain])[size]
    np.testing.assert_allclose(found, side.weights[:n] + change, rtol=1e-3, atol=1e-3)


@given(case=projections())
def test_a_refit_of_everything_to_what_it_gives_changes_nothing(case):
    _, side = case
    everything = 12 // side.grain
    assert refits(side, [everything])[everything] is side.weights
    asked = refits(side, [everything], cross=side.gram @ side.weights)[everything]
    np.testing.assert_allclose(asked, side.weights, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_on_the_rows_it_is_fitted_to_a_refit_beats_the_slice(seed):
    found = inherited("none", seed)
    for option in [(4, 16), (2, 32), (2, 8)]:
        arch = equal(*option)
        assert found.error(arch) < found.error_of(sliced(found, arch))


@pytest.mark.parametrize("skipped", [(1,), (2,), (1, 2)])
@pytest.mark.parametrize("seed", range(4))
def test_a_healed_skip_errs_less_than_a_skip(seed, skipped):
    found = inherited("none", seed)
    layers = tuple((0, 0) if n in skipped else (4, 32) for n in range(3))
    arch = LayerwiseArch(16, 4, layers)
    plain = [(n, part.whole) for n, part in enumerate(found.parts) if n not in skipped]
    assert found.error(arch) < found.error_of(plain)


@pytest.mark.parametrize("head", HEADS)
def test_errors_are_monotone_and_a_whole_layer_adds_nothing(head):
    found = inherited(head)
    base, errors = found.errors(OPTIONS)
    assert base == found.base > 0 and errors.shape == (3, len(OPTIONS))
    assert (errors[:, 0] == 0).all() and (errors >= 0).all() and np.isfinite(errors).all()
    for j, small in enumerate(OPTIONS[:-1]):
        for k, large in enumerate(OPTIONS[:-1]):
            if np.less_equal(small, large).all():
                assert (errors[:, j] >= errors[:, k]).all()


def test_errors_are_measured_one_layer_at_a_time():
    found = inherited("classification")
    _, errors = found.errors(OPTIONS)
    for n in range(3):
        for j, option in enumerate(OPTIONS):
            layers = [(4, 32)] * 3
            layers[n] = option
            alone = found.error(LayerwiseArch(16, 4, tuple(layers))) - found.base
            assert abs(alone - found.errors([option]).errors[n, 0]) < 1e-6
            assert abs(errors[n, j] - alone) < 0.5 * errors.max()


def test_side_errors_are_measured_at_two_sizes_and_follow_the_layer_between():
    found = inherited("classification")
    sizes = (4, 8, 12, 16, 32)
    errors = found.side_errors("units", sizes)
    ends = found.errors([(4, 4), (4, 16)]).errors
    np.testing.assert_allclose(errors[:, [0, 3]], ends)
    assert (errors[:, -1] == 0).all() and (np.diff(errors, axis=1) <= 0).all()
    between = found.errors([(4, 8), (4, 12)]).errors
    assert np.abs(errors[:, 1:3] - between).max() < 0.25 * ends.max()


@given(c=st.floats(0.01, 10), power=st.floats(0.3, 3))
def test_through_powers_gives_a_power_back(c, power):
    x = np.array([0.0, 1.0, 2.0, 5.0])
    y = c * x**power
    np.testing.assert_allclose(through_powers(x, x[[3, 1]], y[[3, 1]]), y, rtol=1e-9)
    np.testing.assert_allclose(through_powers(x, x[[2]], y[[2]]), x / 2 * y[2])


def test_networks_that_begin_alike_are_measured_as_each_alone():
    found, again = inherited("none"), inherit(made("none"), text("none"), batch_size=16)
    layers = list(product([(4, 32), (2, 8), (0, 0)], repeat=3))[:-1]
    archs = [LayerwiseArch(16, 4, one) for one in layers]
    together = again.errors_of(archs)
    alone = [found.error_of(found.layers(arch)) for arch in archs]
    np.testing.assert_allclose(together, alone, rtol=1e-5)


@given(values=st.lists(st.floats(0, 10), min_size=5, max_size=5))
def test_monotone_keeps_what_is_monotone_and_mends_what_is_not(values):
    options = OPTIONS[:5]
    found = monotone(np.array(values), options)
    pairs = [(j, k) for j in range(5) for k in range(5) if np.less(options[j], options[k]).any()]
    nested = [(j, k) for j, k in pairs if np.less_equal(options[j], options[k]).all()]
    assert all(found[j] >= found[k] for j, k in nested)
    np.testing.assert_array_equal(monotone(found, options), found)
    assert min(values) <= found.min() and found.max() <= max(values)


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
def test_the_measured_error_is_that_of_the_network_that_comes_out(head):
    found = inherited(head)
    arch = LayerwiseArch(16, 4, ((2, 16), (0, 0), (3, 8)))
    student = found.checkpoint(arch)
    added = sum(apart(head, found, student, batch) for batch in found.measure.rows)
    expected = found.base + added / found.measure.scale
    np.testing.assert_allclose(found.error(arch), expected, rtol=1e-3)


def apart(head: str, found, student, batch) -> float:
    flat = {name: batch[name].reshape(-1, batch[name].shape[-1]) for name in ("ids", "mask")}
    inputs = [flat["ids"], flat["mask"], *([batch["positions"]] if head == "masked_lm" else [])]
    both = [
        np.asarray(run(checkpoint.model, checkpoint.params, *inputs), np.float64)
        for checkpoint in (found.parent, student)
    ]
    if head in ("none", "regression"):
        weights = flat["mask"] if head == "none" else batch["there"]
        return (((both[0] - both[1]) ** 2).sum(-1) * weights).sum()
    if head == "choice":
        both = [logits.reshape(-1, 3) for logits in both]
    log_p, log_q = map(jax.nn.log_softmax, both)
    divergence = (np.exp(log_p) * (log_p - log_q)).sum(-1)
    there = batch["there"]
    return (
        divergence * (batch["weights"] * there[:, None] if head == "masked_lm" else there)
    ).sum()


def test_an_architecture_of_equal_layers_is_the_uniform_one():
    found = inherited("masked_lm")
    wide = found.checkpoint(Arch(3, 4, 16, 8))
    assert wide.config.arch == Arch(3, 4, 16, 8)
    assert trees_equal(wide.params, found.checkpoint(equal(4, 8)).params)
    narrow = found.checkpoint(Arch(3, 2, 16, 8))
    assert narrow.config.arch == equal(2, 8)
    assert trees_equal(narrow.params, found.checkpoint(equal(2, 8)).params)


def test_the_layers_of_a_shallower_network_are_the_best_set():
    found = inherited("none")
    kept = found.best_layers(2)
    errors = {}
    for skipped in range(3):
        layers = tuple((0, 0) if n == skipped else (4, 32) for n in range(3))
        errors[tuple(n for n in range(3) if n != skipped)] = found.error(
            LayerwiseArch(16, 4, layers)
        )
    assert kept == min(errors, key=errors.__getitem__)
    student = found.checkpoint(Arch(2, 4, 16, 8))
    assert student.config.arch == Arch(2, 4, 16, 8)
    assert student.model.init is not None and len(student.params["encoder"]) == 3


@pytest.mark.slow
@pytest.mark.parametrize("head", ("classification", "none"))
def test_refitting_on_its_own_inputs_is_kept_only_where_it_errs_less(head):
    found = inherit(made(head, seed=1), text(head, rows=200), batch_size=64)
    gains = []
    for arch in (equal(1, 4), equal(2, 16), LayerwiseArch(16, 4, ((2, 8), (0, 0), (2, 8)))):
        student, error = refine(found, arch)
        own = [(n, student.params["encoder"][f"layer_{k}"]) for k, n in enumerate(places(arch))]
        assert error == pytest.approx(found.error_of(own))
        gains.append(found.error(arch) - error)
        assert gains[-1] >= 0 and student.config.arch.sizes() == arch.sizes()
    assert max(gains) > 0.01 * found.base
    assert trees_equal(refine(found, FULL).checkpoint.params, found.parent.params)


def places(arch: LayerwiseArch) -> list[int]:
    return [n for n, layer in enumerate(arch.layers) if layer != (0, 0)]


def test_the_same_seed_gives_the_same_student_and_another_another():
    parent, rows, arch = made("none"), text("none"), equal(2, 16)
    first, second = (inherit(parent, rows, seed=1, batch_size=16) for _ in range(2))
    assert trees_equal(first.checkpoint(arch).params, second.checkpoint(arch).params)
    assert first.base == second.base
    other = inherited("none").checkpoint(arch)
    assert not trees_equal(first.checkpoint(arch).params, other.params)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [3, 8, 64])
def test_gram_matrices_do_not_depend_on_the_batches(batch_size):
    found = inherited("none")
    other = inherit(found.parent, text("none"), batch_size=batch_size)
    for one, two in zip(found.parts, other.parts, strict=True):
        for side in ("heads", "units"):
            expected, gram = getattr(one, side).gram, getattr(two, side).gram
            np.testing.assert_allclose(gram, expected, rtol=1e-4, atol=1e-4 * expected.max())
    np.testing.assert_allclose(other.base, found.base, rtol=0.5)  # dropout is drawn by batch


def test_gram_matrices_are_sums_over_tokens_alone():
    rows = text("none")
    noisy = {**rows, "ids": np.where(rows["mask"], rows["ids"], 7)}
    one, two = (inherit(made("none"), r, batch_size=16) for r in (rows, noisy))
    np.testing.assert_array_equal(one.parts[2].units.gram, two.parts[2].units.gram)
    tokens = sum(batch["mask"].sum() for batch in one.rows)
    assert one.parts[0].units.gram[0, 0] == one.parts[2].heads.gram[0, 0] == tokens
    assert tokens < rows["mask"].sum()  # the rest is held out


def test_devices_share_the_rows():
    found = inherited("classification")
    spread = inherit(found.parent, text("classification"), batch_size=16, map_fn=parallel_map)
    arch = equal(2, 16)
    np.testing.assert_allclose(spread.error(arch), found.error(arch), rtol=1e-3)
    np.testing.assert_allclose(
        spread.parts[1].units.gram, found.parts[1].units.gram, rtol=1e-3, atol=1e-2
    )


def test_memory_is_known_beforehand():
    found = inherited("none")
    at_rest = sum(part.heads.gram.nbytes + part.units.gram.nbytes for part in found.parts)
    largest = max(part.heads.gram.nbytes + part.units.gram.nbytes for part in found.parts)
    assert gram_bytes(CONFIG) == at_rest + 4 * largest


@pytest.mark.parametrize(
    "arch, words",
    [
        (Arch(3, 4, 32, 8), "H, head size"),
        (LayerwiseArch(16, 8, ((1, 8),) * 3), "head size"),
        (equal(2, 8, depth=2), "layers must be its own"),
        (equal(2, 33), "no part of"),
        (Arch(4, 4, 16, 8), "3 layers"),
        (LayerwiseArch(16, 4, ((0, 0),) * 3), "no part of"),
    ],
)
def test_what_is_no_part_of_the_parent_is_refused(arch, words):
    with pytest.raises(ValueError, match=words):
        inherited("none").checkpoint(arch)


def test_rows_and_shares_that_cannot_be_split_are_refused():
    for rows, heldout in ((1, 0.3), (9, 0.0), (9, 1.0)):
        with pytest.raises(ValueError, match="two rows"):
            inherit(made("none"), text("none", rows=rows), heldout=heldout)


# Vocabularies.


def wordpiece() -> Tokenizer:
    from tokenizers import BertWordPieceTokenizer

    words = " ".join(SENTENCES).split()
    letters = sorted(set("".join(words)))
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters)]
    pieces += sorted({*words, *(word[:3] for word in words), *(f"##{word[3:]}" for word in words)})
    vocab = {token: k for k, token in enumerate(dict.fromkeys(p for p in pieces if p != "##"))}
    return Tokenizer(BertWordPieceTokenizer(vocab)._tokenizer)


def bpe() -> Tokenizer:
    return Tokenizer.train(SENTENCES * 20, vocab_size=340)


TOKENIZERS = {"WordPiece": wordpiece, "BPE": bpe}


@cache
def vocabulary(kind: str):
    tokenizer = TOKENIZERS[kind]()
    separator = tokenizer.special.eos if kind == "WordPiece" else None
    config = replace(CONFIG, vocab_size=tokenizer.vocab_size, positions=96, separator=separator)
    empty = Checkpoint(config, None, tokenizer=tokenizer)
    params = random_params(empty.model, seed=0)
    params["head"]["bias"] = np.random.default_rng(0).normal(size=config.vocab_size)
    return empty.with_params(params)


def smaller(parent: Checkpoint, texts, n: int) -> tuple[Checkpoint, np.ndarray]:
    from tokenizers import Tokenizer as Backend

    tokenizer = parent.required_tokenizer
    spec = json.loads(tokenizer.backend.to_str())
    ids = [id for document in tokenizer.encode_documents(texts) for id in document]
    kept = tokens_to_keep(spec, np.bincount(ids, minlength=tokenizer.vocab_size), n)
    cut_down = Tokenizer(Backend.from_str(json.dumps(cut_tokenizer(spec, kept))))
    cut_down.check_ids()
    return replace(cut_vocabulary(parent, kept), tokenizer=cut_down), kept


@pytest.mark.parametrize("kind", TOKENIZERS)
@settings(max_examples=25)
@given(data=st.data())
def test_texts_of_kept_tokens_are_the_same_tokens(kind, data):
    words = sorted({*" ".join(SENTENCES).split(), "moonship", "catbook"})
    line = st.lists(st.sampled_from(words), min_size=1, max_size=6).map(" ".join)
    counted = data.draw(st.lists(line, min_size=1, max_size=3))
    parent = vocabulary(kind)
    n = parent.config.vocab_size - data.draw(st.sampled_from([1, 10, 30]))
    student, kept = smaller(parent, counted, n)
    assert len(kept) <= n and student.config.vocab_size == student.tokenizer.vocab_size == len(kept)
    for text in [*counted, *data.draw(st.lists(line, max_size=4))]:
        (old,), (new,) = (
            np.array(c.required_tokenizer.encode_documents([text]), int) for c in (parent, student)
        )
        if np.isin(old, kept).all():
            np.testing.assert_array_equal(kept[new], old)
        else:
            assert student.tokenizer.special.unk not in new  # it falls back to smaller pieces


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_texts_of_kept_tokens_have_the_same_states_and_logits(kind):
    parent, texts = vocabulary(kind), ["the cat sat on the mat", "the moon"]
    student, kept = smaller(parent, texts, parent.config.vocab_size - 20)
    outputs = []
    for checkpoint in (parent, student):
        ids, mask = checkpoint.required_tokenizer.encode([texts, texts], seq_len=96)
        places = np.tile(np.arange(3), (2, 1))
        both = jax.jit(states_and_logits, static_argnums=0)
        outputs.append(both(checkpoint.model, checkpoint.params, ids, mask, places))
    (states, logits), (same, cut_logits) = outputs
    np.testing.assert_array_equal(states, same)
    np.testing.assert_allclose(logits[..., kept], cut_logits, rtol=1e-5, atol=1e-6)
    assert len(kept) < parent.config.vocab_size


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_what_must_stay_stays(kind):
    parent = vocabulary(kind)
    spec = json.loads(parent.required_tokenizer.backend.to_str())
    names = [
        parent.required_tokenizer.backend.id_to_token(k) for k in range(parent.config.vocab_size)
    ]
    single = [k for k, name in enumerate(names) if len(name.removeprefix("##")) == 1]
    least = len({*single, *parent.required_tokenizer.special})
    none = np.zeros(len(names), int)
    kept = tokens_to_keep(spec, none, least)
    assert {*single, *parent.required_tokenizer.special} == {*kept.tolist()}
    with pytest.raises(ValueError, match=f"{least} of {len(names)} tokens must stay"):
        tokens_to_keep(spec, none, least - 1)
    with pytest.raises(ValueError, match="counts"):
        tokens_to_keep(spec, none[1:], least)


def test_other_tokenizers_are_refused():
    spec = {"model": {"type": "Unigram", "vocab": {}}}
    for act in (
        lambda: tokens_to_keep(spec, np.zeros(0, int), 3),
        lambda: cut_tokenizer(spec, np.arange(3)),
    ):
        with pytest.raises(ValueError, match="Unigram"):
            act()


@given(st.lists(st.floats(0.1, 9), min_size=2, max_size=5))
def test_depth_search_finds_the_best_sets_where_layers_add_up(lost):
    def errors(sets):
        return [1 + sum(e for n, e in enumerate(lost) if n not in kept) for kept in sets]

    search = DepthSearch(len(lost), errors)
    for depth in range(1, len(lost) + 1):
        every = errors(combinations(range(len(lost)), depth))
        assert errors([search.best(depth)])[0] == pytest.approx(min(every))

# SPDX-License-Identifier: Apache-2.0
"""Networks other than BERT, chains of widths, the AB^nC report, and fits to measurements."""

from itertools import product

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chain import solve_chain
from dense import article_count, dense_network
from helpers import few
from hypothesis import given
from hypothesis import strategies as st
from vit import VitArch, VitSpace, vit_network

from bort_jax.arch import Arch, SearchSpace, as_rows
from bort_jax.cost import (
    Network,
    Part,
    Polynomial,
    bert_network,
    designed_sample,
    fit_latency,
    fit_polynomial,
    network_cost,
)
from bort_jax.cost.latency import TERMS
from bort_jax.cost.network import zero
from bort_jax.ose import extract
from bort_jax.ose.abnc import is_abnc
from bort_jax.ose.fitted import fitted_error
from bort_jax.stages.extract.latency import forward_seconds

SIZES = {"vocab_size": 50265, "positions": 512, "seq_len": 128}


class Dense(nn.Module):
    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, x):
        for width in self.widths[1:]:
            x = nn.relu(nn.Dense(width)(x))
        return x


class Vit(nn.Module):
    """A vision transformer of its own kind, to count parameters on."""

    arch: VitArch
    labels: int = 10

    @nn.compact
    def __call__(self, images):
        arch = self.arch
        x = nn.Conv(arch.hidden, (arch.patch, arch.patch), (arch.patch, arch.patch))(images)
        x = x.reshape(len(x), -1, arch.hidden)
        token = self.param("class", nn.initializers.zeros, (1, 1, arch.hidden))
        x = jnp.concatenate([jnp.tile(token, (len(x), 1, 1)), x], axis=1)
        x = x + self.param("position", nn.initializers.zeros, (1, x.shape[1], arch.hidden))
        for _ in range(arch.depth):
            x = x + nn.MultiHeadDotProductAttention(arch.heads)(nn.LayerNorm()(x))
            wide = nn.gelu(nn.Dense(arch.intermediate)(nn.LayerNorm()(x)))
            x = x + nn.Dense(arch.hidden)(wide)
        return nn.Dense(self.labels)(nn.LayerNorm()(x)[:, 0])


def parameters(module, *inputs):
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def test_the_article_counts_72_and_40():
    assert article_count((2, 4, 3, 4, 4)) == 72
    assert article_count((2, 3, 3, 3, 2)) == 40


DENSE = network_cost(dense_network(4))


@few
@given(st.lists(st.integers(1, 40), min_size=5, max_size=5))
def test_dense_layers_count_as_the_module_does(widths):
    costs = DENSE(np.array([widths]))
    assert costs.params[0] == parameters(Dense(tuple(widths)), np.zeros((1, widths[0])))
    assert costs.macs[0] == sum(a * b for a, b in zip(widths, widths[1:], strict=False))


@pytest.mark.parametrize("arch", [VitArch(1, 2, 8, 12, 4), VitArch(3, 4, 16, 5, 8)])
def test_a_vision_transformer_counts_as_its_module_does(arch):
    costs = network_cost(vit_network(image=32))(np.array([arch]))
    assert costs.params[0] == parameters(Vit(arch), np.zeros((1, 32, 32, 3)))
    tokens = (32 // arch.patch) ** 2 + 1
    h, i = arch.hidden, arch.intermediate
    layer = tokens * (4 * h * h + 2 * h * i) + 2 * tokens * tokens * h
    patches = (tokens - 1) * 3 * arch.patch**2 * h
    assert costs.macs[0] == patches + arch.depth * layer + 10 * h


def test_overflow_is_seen_where_counts_fall_with_a_parameter():
    """The rows' largest patch has the fewest tokens, so the largest sizes say nothing."""
    cost_fn = network_cost(vit_network(image=1 << 20))
    fits, wraps = VitArch(12, 4, 1024, 4096, 1 << 18), VitArch(12, 4, 1024, 4096, 1)
    assert cost_fn(np.array([fits])).macs[0] > 0
    with pytest.raises(ValueError, match="2⁶³"):
        cost_fn(np.array([fits, wraps]))


def test_a_vision_transformer_is_extracted_like_a_bert():
    space = VitSpace((1, 2, 3), (2, 4), (8, 16), (16, 32), (4, 8))
    errors = {arch: 1 / (1 + arch.depth * arch.hidden) for arch in space.archs()}
    found = {
        search: extract(
            space,
            cost_fn=network_cost(vit_network(image=32)),
            error_fn=lambda archs: [errors[arch] for arch in archs],
            search=search,
            epsilon=0.05,
        )
        for search in ("exhaustive", "interval")
    }
    best = found["exhaustive"].w[found["exhaustive"].best]
    assert isinstance(found["interval"].best_arch, VitArch) and best > 0
    interval = found["interval"]
    assert interval.w[interval.best] * interval.certificate.rho >= 0.95 * best


@st.composite
def chains(draw):
    layers = draw(st.integers(2, 4))
    return [draw(st.lists(st.integers(1, 9), min_size=1, max_size=4)) for _ in range(layers + 1)]


def dense_pair(layer, before, width):
    return before * width + width


def products(layer, before, width):
    return before * width


def falling(layer, before, width):
    return before * (20 - width)


@given(choices=chains(), seed=st.integers(0, 10**6), params=st.sampled_from([dense_pair, falling]))
def test_the_chain_program_finds_the_optimum(choices, seed, params):
    error = lambda layer, width: [3, 1, 4, 1, 5, 9, 2, 6][(seed + 7 * layer * width) % 8] / width
    found = solve_chain(choices, params=params, macs=products, error=error, base_error=0.1)
    pairs = lambda widths: list(enumerate(zip(widths, widths[1:], strict=False), start=1))
    count = lambda fn, widths: sum(fn(n, *pair) for n, pair in pairs(widths))
    every = list(product(*choices))
    p, i = (np.array([count(fn, widths) for widths in every]) for fn in (params, products))
    e = [0.1 + sum(error(n, w) for n, w in enumerate(widths) if n) for widths in every]
    assert found.w == pytest.approx(((1 - p / p.max()) * (1 - i / i.max()) / e).max(), abs=1e-12)
    assert found.params == count(params, found.widths)
    if len(choices) == 5 and params is dense_pair:
        rows = np.array([found.widths])
        assert DENSE(rows).params[0] == found.params


def test_the_articles_own_network_is_solved_under_its_count():
    """Its count is a chain too: pairs (w1, w2) and (w3, w4), times the input width 2."""
    pair = lambda layer, before, width: (
        2 * (before * width + before) * (layer == 2) + 2 * (before * width + width) * (layer == 4)
    )
    choices = [[2], [3, 4], [3], [3, 4], [2, 4]]
    error = lambda layer, width: 0.1 / width
    found = solve_chain(choices, params=pair, macs=pair, error=error)
    counts = {w: article_count(w) for w in product(*choices)}
    assert counts[(2, 4, 3, 4, 4)] == max(counts.values()) == 72
    w = {
        x: (1 - n / 72) ** 2 / sum(error(k, v) for k, v in enumerate(x) if k)
        for x, n in counts.items()
    }
    assert found.widths == max(w, key=w.get) == (2, 3, 3, 3, 2) and found.params == 40


def test_chains_without_choices_or_with_an_error_of_zero_are_refused():
    arguments = dict(params=dense_pair, macs=products)
    with pytest.raises(ValueError, match="a choice of width"):
        solve_chain([[1], []], error=lambda layer, width: 1, **arguments)
    with pytest.raises(ValueError, match="W divides by it"):
        solve_chain([[1], [2]], error=lambda layer, width: 0, **arguments)
    arguments["macs"] = lambda layer, before, width: 0
    with pytest.raises(ValueError, match="must be positive at T"):
        solve_chain([[1], [2]], error=lambda layer, width: 1, **arguments)


def test_abnc_holds_for_the_encoder_and_not_with_a_dense_head():
    bare = is_abnc(bert_network(**SIZES))
    assert bare.is_weak and len(bare.findings) == 4
    assert [f.growth for f in bare.findings] == pytest.approx([1, 0, 0, 0])
    assert all(f.layer_growth == pytest.approx(2) for f in bare.findings)
    headed = is_abnc(bert_network(**SIZES, head="mlm"))
    assert not headed.is_weak
    assert [f.part for f in headed.findings if not f.holds] == ["C", "C"]
    assert "C, params: fails, it grows as t^2, B as t^2" in str(headed)


def test_abnc_of_counts_that_are_no_polynomials_is_measured():
    cubic = Part(lambda row: row[0] ** 3 + 10**9, lambda row: row[0] ** 3)
    square = Part(lambda row: 10**12 * row[0] ** 2, lambda row: row[0] ** 3)
    report = is_abnc(Network(square, cubic, Part(zero, zero), ("w",), lambda row: 1))
    by_name = {(f.part, f.cost): f for f in report.findings}
    assert by_name["A", "params"].holds and by_name["A", "params"].growth == pytest.approx(2)
    assert not by_name["A", "macs"].holds and not report.is_weak
    assert not is_abnc(dense_network(4)).is_weak  # every layer grows alike


def test_abnc_says_how_large_a_part_is():
    space = SearchSpace.published()
    report = is_abnc(bert_network(**SIZES), points=as_rows(space.archs()))
    smallest = 2 * (4 * 512**2 + 2 * 512 * 256 + 9 * 512 + 256)
    largest = 12 * (4 * 1024**2 + 2 * 1024 * 3072 + 9 * 1024 + 3072)
    words = 50265 + 512 + 2
    shares = words * 512 / (words * 512 + smallest), words * 1024 / (words * 1024 + largest)
    assert report.findings[0].shares == pytest.approx(shares)
    assert "its share is 9" in str(report)


def test_polynomials_in_other_letters():
    area = Polynomial.of("xy", xy=1, one=2)
    assert area((3, 5)) == 17
    with pytest.raises(ValueError, match="not among xy"):
        Polynomial.of("xy", z=1)


@given(st.lists(st.floats(0.1, 10), min_size=3, max_size=3), st.integers(0, 99))
def test_a_polynomial_is_recovered_from_its_values(coefficients, seed):
    rows = np.random.default_rng(seed).integers(1, 50, (40, 2))
    monomials = ((0, 0), (1, 0), (1, 1))
    values = coefficients[0] + coefficients[1] * rows[:, 0] + coefficients[2] * rows.prod(axis=1)
    fit = fit_polynomial(rows, values, monomials=monomials)
    np.testing.assert_allclose(fit.predict(rows), values, rtol=1e-6)
    assert fit.cross_validated.max() < 1e-5
    assert (fit.coefficients >= 0).all()


def test_cross_validation_sees_what_a_fit_to_all_points_hides():
    """Eight points on noise, eight terms: the fit is good, its predictions are not."""
    generator = np.random.default_rng(0)
    rows, values = generator.integers(1, 9, (9, 2)), generator.uniform(1, 9, 9)
    monomials = tuple(product(range(3), range(3)))
    fit = fit_polynomial(rows, values, monomials=monomials)
    seen = np.abs(fit.predict(rows) / values - 1)
    assert np.median(fit.cross_validated) > np.median(seen)


@pytest.mark.parametrize("values", [[1.0], [1.0, 0.0], [1.0, float("nan")]])
def test_what_cannot_be_fitted_is_refused(values):
    with pytest.raises(ValueError, match="two points|positive and finite"):
        fit_polynomial(np.ones((len(values), 1), int), np.array(values), monomials=((0,),))


def test_fitted_errors_are_those_measured_and_predict_the_rest():
    space = SearchSpace.published()
    truth = lambda arch: 0.3 + 0.5 / arch.depth + 20 / arch.hidden + 1e-5 * arch.intermediate
    points = designed_sample(space, size=24)
    errors = np.array([truth(arch) for arch in points])
    errors[3] = np.nan  # that training failed
    fitted = fitted_error(points, errors)
    assert fitted(points[:3]) == errors[:3].tolist()
    np.testing.assert_allclose(fitted(space.archs()), [truth(a) for a in space.archs()], rtol=1e-3)
    assert "23 trained" in str(fitted) and np.median(fitted.fit.cross_validated) < 1e-3
    with pytest.raises(ValueError, match="two points"):
        fitted_error(points[:1], errors[:1])


def test_a_designed_sample_spans_the_terms_and_is_deterministic():
    space = SearchSpace.published()
    sample = designed_sample(space, size=12)
    assert sample == designed_sample(space, size=12) and len(set(sample)) == 12
    terms = lambda archs: np.array(
        [[np.prod(np.array(a, float) ** t) for t in TERMS] for a in archs]
    )
    scale = np.linalg.norm(terms(space.archs()), axis=0)
    designed = np.linalg.slogdet((terms(sample) / scale).T @ (terms(sample) / scale))[1]
    generator = np.random.default_rng(0)
    for _ in range(20):
        drawn = [space.archs()[k] for k in generator.choice(300, 12, replace=False)]
        assert np.linalg.slogdet((terms(drawn) / scale).T @ (terms(drawn) / scale))[1] < designed


def test_latency_is_fitted_to_what_was_timed():
    space = SearchSpace.published()
    truth = lambda arch: 1e-3 + 1e-9 * arch.depth * arch.hidden * (arch.hidden + arch.intermediate)
    latency = fit_latency(space, lambda archs: [truth(a) for a in archs], size=20)
    np.testing.assert_allclose(
        latency.predict(as_rows(space.archs())), [1e3 * truth(a) for a in space.archs()], rtol=1e-3
    )
    assert "20 architectures" in str(latency)


def test_a_deeper_model_takes_longer():
    archs = [Arch(depth, 2, 64, 256) for depth in (1, 8)]
    shallow, deep = forward_seconds(archs, vocab_size=50, seq_len=64, batch=4, repeats=9)
    assert 0 < shallow < deep

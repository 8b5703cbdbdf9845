# SPDX-License-Identifier: Apache-2.0
"""The objective, and the interval scheme against brute force."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bort_jax.arch import BORT, Arch, SearchSpace, as_rows
from bort_jax.cost import bert_network, cost
from bort_jax.ose import break_even, check_abnc, extract, on_pareto_front, w_coefficient
from bort_jax.ose.interval import planned_trainings
from bort_jax.ose.objective import saving

axis = st.lists(st.integers(1, 12), min_size=1, max_size=3, unique=True)


@st.composite
def spaces(draw):
    hidden = [8 * n for n in draw(axis)]
    grid = [draw(axis), draw(st.sampled_from([[1], [2], [1, 4]])), hidden, draw(axis)]
    return SearchSpace(*map(tuple, grid), vocab_size=50, positions=128)


def monotone_error(space, cost_fn, steps):
    """An error that does not increase along the order by falling savings."""
    archs = space.archs()
    costs = cost_fn(as_rows(archs))
    savings = saving(costs.params, costs.steps)
    values = dict(zip(archs, savings, strict=True))
    levels = np.sort(np.array(steps))
    return lambda arch: float(levels[int(values[arch] * (len(levels) - 1))])


@given(
    space=spaces(),
    steps=st.lists(st.floats(0.01, 1), min_size=1, max_size=6),
    epsilon=st.sampled_from([0.01, 0.1, 0.3, 0.6, 0.95]),
)
def test_within_the_bound_of_brute_force_for_monotone_errors(space, steps, epsilon):
    cost_fn = cost(space)
    error_fn = monotone_error(space, cost_fn, steps)
    found = extract(space, cost_fn=cost_fn, error_fn=error_fn, epsilon=epsilon)
    everything = w_coefficient(
        found.params, found.steps, np.array([error_fn(arch) for arch in found.archs])
    )
    best = 0.0 if np.isnan(found.w[found.best]) else found.w[found.best]
    assert best >= (1 - epsilon) * everything.max() * (1 - 1e-9)
    assert found.certificate.violations == 0
    assert found.certificate.ratio == pytest.approx(1 - epsilon)


@given(space=spaces(), seed=st.integers(0, 99), epsilon=st.sampled_from([0.05, 0.5]))
def test_within_the_weaker_bound_for_any_error(space, seed, epsilon):
    """With the true ρ of the whole space in place of the measured one."""
    errors = dict(
        zip(
            space.archs(),
            np.random.default_rng(seed).uniform(0.1, 1, len(space.archs())),
            strict=True,
        )
    )
    found = extract(space, cost_fn=cost(space), error_fn=errors.__getitem__, epsilon=epsilon)
    ordered = np.array([errors[arch] for arch in found.archs])
    rho = max(1.0, (ordered[None] / ordered[:, None])[np.triu_indices(len(ordered))].max())
    w = w_coefficient(found.params, found.steps, ordered)
    best = np.nan_to_num(found.w[found.best])
    assert best >= (1 - epsilon) / rho * w.max() * (1 - 1e-9)


@given(space=spaces(), epsilon=st.sampled_from([0.1, 0.5, 0.9]))
def test_few_trainings_and_none_without_savings(space, epsilon):
    trained = []
    found = extract(
        space,
        cost_fn=cost(space),
        error_fn=lambda arch: trained.append(arch) or 0.5,
        epsilon=epsilon,
    )
    savings = saving(found.params, found.steps)
    positive = savings[savings > 0]
    assert trained == planned_trainings(space, cost_fn=cost(space), epsilon=epsilon)
    if len(positive):
        assert len(trained) <= 1 + np.log(positive.max() / positive.min()) / epsilon
    else:
        assert trained == [] and found.best_arch == found.maximum_point


def test_a_smaller_epsilon_of_published_space_finds_the_optimum():
    space = SearchSpace.published()
    error_fn = lambda arch: 1 / (1 + arch.depth * arch.hidden / 4096)
    found = extract(space, cost_fn=cost(space), error_fn=error_fn, epsilon=1e-6)
    everything = w_coefficient(
        found.params, found.steps, np.array([error_fn(arch) for arch in found.archs])
    )
    assert found.w[found.best] == everything.max()


def test_order_of_axes_changes_nothing():
    one = SearchSpace((1, 2, 3), (1, 2), (4, 8), (2, 9), vocab_size=9, positions=128)
    other = SearchSpace((3, 1, 2), (2, 1), (8, 4), (9, 2), vocab_size=9, positions=128)
    error_fn = lambda arch: 1 / sum(arch)
    found = [extract(s, cost_fn=cost(s), error_fn=error_fn) for s in (one, other)]
    assert found[0].archs == found[1].archs and found[0].best == found[1].best


@pytest.mark.parametrize("epsilon", [0, 1, -0.1, 2, float("nan")])
def test_epsilon_outside_its_interval_is_refused(epsilon):
    with pytest.raises(ValueError, match=r"epsilon must lie in \(0, 1\)"):
        extract(SearchSpace.published(), cost_fn=None, error_fn=None, epsilon=epsilon)


@pytest.mark.parametrize("error", [0.0, -1.0, 1.5, float("nan")])
def test_an_error_outside_its_interval_is_refused(error):
    space = SearchSpace((1, 2), (1,), (4,), (4,))
    with pytest.raises(ValueError, match=r"in \(0, 1\]"):
        extract(space, cost_fn=cost(space), error_fn=lambda arch: error)


def test_w_by_hand():
    w = w_coefficient(np.array([25, 100]), np.array([50, 200]), np.array([0.5, 0.1]))
    assert w.tolist() == [0.75 * 0.75 / 0.5, 0.0]


def test_w_of_an_error_of_zero_is_refused():
    with pytest.raises(ValueError, match="positive"):
        w_coefficient(np.array([1, 2]), np.array([1, 2]), np.array([0.0, 0.5]))


@given(st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=1, max_size=12))
def test_pareto_front_is_what_no_row_dominates(rows):
    objectives = np.array(rows, float)
    front = on_pareto_front(objectives)
    for k, row in enumerate(rows):
        dominated = any(
            all(a <= b for a, b in zip(other, row, strict=True)) and other != row for other in rows
        )
        assert front[k] == (not dominated)


@given(space=spaces(), seed=st.integers(0, 9))
def test_the_winner_is_pareto_optimal_where_it_saves(space, seed):
    errors = np.random.default_rng(seed)
    found = extract(
        space, cost_fn=cost(space), error_fn=lambda arch: errors.uniform(0.1, 1), epsilon=0.05
    )
    assume(len(found.trained) and found.w[found.best] > 0)
    assert found.front[found.best]


def test_break_even_is_where_the_two_w_meet():
    space = SearchSpace.published()
    costs = cost(space)(as_rows(space.archs()))
    savings = saving(costs.params, costs.steps)
    winner = space.archs().index(BORT)
    ratios = break_even(savings, winner)
    rival = int(savings.argmax())
    rival_error = 0.8
    errors = np.full(len(savings), rival_error)
    errors[winner] = rival_error * ratios[rival]
    w = w_coefficient(costs.params, costs.steps, errors)
    assert w[winner] == pytest.approx(w[rival])
    assert ratios[rival] == pytest.approx(0.57, abs=0.005)  # bort.md, section 1
    assert np.isinf(ratios[savings == 0]).all()


def test_rank_of_the_published_optimum_without_the_error():
    space = SearchSpace.published()
    costs = cost(space)(as_rows(space.archs()))
    savings = saving(costs.params, costs.steps)
    bort = savings[space.archs().index(BORT)]
    assert 175 <= 1 + (savings > bort + 1e-12).sum() <= 183


def test_abnc_holds_for_the_encoder_and_not_with_a_dense_head():
    sizes = {"vocab_size": 50265, "positions": 512, "seq_len": 128}
    bare = check_abnc(bert_network(**sizes))
    assert bare.weak and len(bare.findings) == 4
    headed = check_abnc(bert_network(**sizes, head="mlm"))
    assert not headed.weak
    assert [f.part for f in headed.findings if not f.holds] == ["C", "C"]
    assert "does not hold" in str(headed)


def test_one_candidate_is_its_own_maximum_point():
    arch = Arch(1, 1, 4, 4)
    space = SearchSpace.of(arch)
    found = extract(space, cost_fn=cost(space), error_fn=lambda arch: 0.5)
    assert found.best_arch == found.maximum_point == arch and len(found.trained) == 0

# SPDX-License-Identifier: Apache-2.0
"""The objective, and every search against brute force."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bort_jax.arch import BORT, Arch, SearchSpace, as_rows
from bort_jax.cost import bert_network, total
from bort_jax.ose import (
    Budget,
    Infeasible,
    break_even,
    extract,
    on_pareto_front,
    plan,
    resolve,
    w_coefficient,
)
from bort_jax.ose.objective import saving
from bort_jax.ose.search import SEARCHES

EPSILONS = st.sampled_from([0.01, 0.1, 0.3, 0.6, 0.95])
axis = st.lists(st.integers(1, 12), min_size=1, max_size=3, unique=True)


@st.composite
def spaces(draw):
    hidden = [8 * n for n in draw(axis)]
    grid = [draw(axis), draw(st.sampled_from([[1], [2], [1, 4]])), hidden, draw(axis)]
    return SearchSpace(*map(tuple, grid), vocab_size=50, positions=128)


def cost_function(space):
    """p and i from the polynomials in numpy: nothing to compile for each of many spaces."""
    network = bert_network(vocab_size=space.vocab_size, positions=space.positions, seq_len=128)

    def cost_fn(rows):
        return total(network, rows.T)

    return cost_fn


def each(fn):
    """An error function from one for a single architecture."""
    return lambda archs: [fn(arch) for arch in archs]


def falling_along_the_order(space, levels):
    """An error that does not increase along the order by falling savings."""
    costs = cost_function(space)(as_rows(space.archs()))
    values = dict(zip(space.archs(), saving(costs["params"], costs["macs"]), strict=True))
    levels = np.sort(np.array(levels))
    return lambda arch: float(levels[int(values[arch] * (len(levels) - 1))])


def falling_componentwise(space, seed):
    """Random, and not larger for anything componentwise larger."""
    generator, errors = np.random.default_rng(seed), {}
    for arch in sorted(space.archs(), reverse=True):  # whatever is larger comes first
        above = [e for a, e in errors.items() if all(x >= y for x, y in zip(a, arch, strict=True))]
        grows = generator.uniform() < 0.5
        errors[arch] = max(above, default=0.1) * (1 + grows * generator.uniform(0, 0.5))
    return errors


def arbitrary(space, seed):
    values = np.random.default_rng(seed).uniform(0.1, 1, len(space.archs()))
    return dict(zip(space.archs(), values, strict=True))


def all_w(found, errors):
    return w_coefficient(
        found.params, found.inference_cost, np.array([errors[a] for a in found.archs])
    )


def best_w(found):
    return float(np.nan_to_num(found.w[found.best]))


@given(
    space=spaces(), levels=st.lists(st.floats(0.01, 1), min_size=1, max_size=6), epsilon=EPSILONS
)
def test_interval_is_within_its_bound_for_errors_that_fall_along_the_order(space, levels, epsilon):
    error = falling_along_the_order(space, levels)
    found = extract(space, cost_fn=cost_function(space), error_fn=each(error), epsilon=epsilon)
    everything = all_w(found, {arch: error(arch) for arch in found.archs})
    assert best_w(found) >= (1 - epsilon) * everything.max() * (1 - 1e-9)
    assert found.certificate.violations == 0 and found.certificate.rho == 1
    assert found.certificate.bound >= everything.max() * (1 - 1e-9)
    assert found.certificate.ratio >= (1 - epsilon) * (1 - 1e-9)


@given(space=spaces(), seed=st.integers(0, 10**6), epsilon=EPSILONS)
def test_bounded_is_within_its_bound_for_errors_that_fall_componentwise(space, seed, epsilon):
    errors = falling_componentwise(space, seed)
    found = extract(
        space,
        cost_fn=cost_function(space),
        error_fn=each(errors.get),
        epsilon=epsilon,
        search="bounded",
    )
    everything = all_w(found, errors)
    assert best_w(found) >= (1 - epsilon) * everything.max() * (1 - 1e-9)
    assert found.certificate.violations == 0
    assert found.certificate.bound >= everything.max() * (1 - 1e-9)
    assert (found.upper >= everything * (1 - 1e-9)).all()


@given(space=spaces(), seed=st.integers(0, 99), epsilon=EPSILONS)
def test_interval_is_within_the_weaker_bound_for_any_error(space, seed, epsilon):
    """With the true ρ of the whole space in place of the measured one."""
    errors = arbitrary(space, seed)
    found = extract(space, cost_fn=cost_function(space), error_fn=each(errors.get), epsilon=epsilon)
    ordered = np.array([errors[arch] for arch in found.archs])
    rho = max(1.0, (ordered[None] / ordered[:, None])[np.triu_indices(len(ordered))].max())
    assert best_w(found) >= (1 - epsilon) / rho * all_w(found, errors).max() * (1 - 1e-9)


@given(space=spaces(), seed=st.integers(0, 99))
def test_exhaustive_finds_the_optimum_of_any_error(space, seed):
    errors = arbitrary(space, seed)
    found = extract(
        space, cost_fn=cost_function(space), error_fn=each(errors.get), search="exhaustive"
    )
    assert best_w(found) == all_w(found, errors).max()
    assert found.certificate.bound == best_w(found) and found.certificate.ratio == 1


@st.composite
def budgets(draw, space):
    """Limits at the costs of members, so that equality occurs."""
    costs = cost_function(space)(as_rows(space.archs()))
    pick = lambda column: float(draw(st.sampled_from(sorted(set(column.tolist())))))
    ceilings = {}
    for name in ("params", "macs"):
        if draw(st.booleans()):
            ceilings[name] = pick(costs[name])
    if draw(st.booleans()):
        ceilings["error"] = draw(st.floats(0.1, 1))
    floors = {"params": pick(costs["params"]) * 0.5} if draw(st.booleans()) else {}
    return Budget(ceilings, floors)


@given(data=st.data(), space=spaces(), seed=st.integers(0, 10**6), epsilon=EPSILONS)
@pytest.mark.parametrize("search", SEARCHES)
def test_a_budget_is_kept_and_costs_no_more_than_it_must(search, data, space, seed, epsilon):
    """For errors that fall along both orders: every search keeps its promise within a budget."""
    ordered = extract(space, cost_fn=cost_function(space), error_fn=each(lambda a: 0.5)).archs
    levels = np.sort(np.random.default_rng(seed).uniform(0.1, 1, len(ordered)))[::-1]
    errors = dict(zip(ordered, levels, strict=True))
    assume(search != "bounded" or _falls_componentwise(errors))
    budget = data.draw(budgets(space))
    costs = cost_function(space)(as_rows(ordered))
    columns = {**costs, "error": levels}
    met = budget.allows(columns)
    arguments = dict(
        cost_fn=cost_function(space), error_fn=each(errors.get), epsilon=epsilon, search=search
    )
    if not met.any():
        with pytest.raises(Infeasible, match="the nearest is D"):
            extract(space, **arguments, budget=budget)
        return
    found = extract(space, **arguments, budget=budget)
    allowed = dict(zip(ordered, met, strict=True))
    optimum = max(
        w for w, arch in zip(all_w(found, errors), found.archs, strict=True) if allowed[arch]
    )
    assert best_w(found) >= (1 - epsilon) * optimum * (1 - 1e-9)
    assert found.certificate.bound >= optimum * (1 - 1e-9)
    assert allowed[found.best_arch]
    assert all(
        budget.allows(found.candidates.columns | {"error": np.full(len(ordered), np.nan)})[
            found.asked
        ]
    )


def _falls_componentwise(errors):
    rows = np.array(list(errors))
    values = np.array(list(errors.values()))
    above = (rows[None] >= rows[:, None]).all(axis=-1)
    return not (above & (values[None] > values[:, None])).any()


@given(data=st.data(), space=spaces(), seed=st.integers(0, 999))
def test_resolving_a_table_equals_solving_afresh(data, space, seed):
    errors = arbitrary(space, seed)
    budget = data.draw(budgets(space))
    arguments = dict(cost_fn=cost_function(space), error_fn=each(errors.get), search="exhaustive")
    table = extract(space, **arguments)
    try:
        afresh = extract(space, **arguments, budget=budget)
    except Infeasible as refused:
        if len(table.trained_rows):
            with pytest.raises(Infeasible) as again:
                resolve(table, budget=budget)
            assert str(again.value)[:40] == str(refused)[:40]
        return
    again = resolve(table, budget=budget)
    assert again.best_arch == afresh.best_arch and best_w(again) == best_w(afresh)
    assert again.runner_up == afresh.runner_up
    assert again.certificate.bound == pytest.approx(afresh.certificate.bound)


def test_infeasible_names_the_nearest_and_what_binds():
    space = SearchSpace.published()
    with pytest.raises(Infeasible) as refused:
        extract(
            space,
            cost_fn=cost_function(space),
            error_fn=None,
            budget=Budget({"params": 20e6, "macs": 1e12}),
        )
    # The least p of the space, counted by hand: D2, H512, I256.
    least = (50265 + 512 + 2) * 512 + 2 * (4 * 512**2 + 2 * 512 * 256 + 9 * 512 + 256)
    assert "the nearest is D2-A4-H512-I256" in str(refused.value)
    missed = f"binding: params ≤ 2e+07 (missed by a factor of {least / 20e6:.3g})"
    assert missed in str(refused.value)
    assert "macs ≤ 1e+12 (" not in str(refused.value)


def test_about_n_parameters_is_within_a_tenth():
    space = SearchSpace.published()
    found = extract(
        space,
        cost_fn=cost_function(space),
        error_fn=each(lambda a: 0.5),
        budget=Budget.about(params=60e6),
    )
    assert 54e6 <= found.params[found.best] <= 66e6


def test_budgets_together_keep_the_tighter_limit():
    both = Budget({"params": 5, "macs": 7}, {"params": 1}) & Budget({"params": 4}, {"params": 2})
    assert both == Budget({"params": 4, "macs": 7}, {"params": 2})


@pytest.mark.parametrize("limit", [{"parameters": 3.0}, {"params": float("nan")}])
def test_a_limit_on_what_is_not_a_cost_is_refused(limit):
    space = SearchSpace.published()
    with pytest.raises(ValueError, match="no cost 'parameters'|not a number"):
        extract(space, cost_fn=cost_function(space), error_fn=None, budget=Budget(limit))


@given(space=spaces(), epsilon=st.sampled_from([0.1, 0.5, 0.9]))
def test_few_trainings_and_none_without_savings(space, epsilon):
    trained = []
    found = extract(
        space,
        cost_fn=cost_function(space),
        error_fn=lambda archs: trained.extend(archs) or [0.5] * len(archs),
        epsilon=epsilon,
    )
    savings = found.candidates.savings
    positive = savings[savings > 0]
    assert trained == plan(space, cost_fn=cost_function(space), epsilon=epsilon)
    if len(positive):
        assert len(trained) <= 1 + np.log(positive.max() / positive.min()) / epsilon
    else:
        assert trained == [] and found.best_arch == found.maximum_point


def test_a_smaller_epsilon_of_published_space_finds_the_optimum():
    space = SearchSpace.published()
    error = lambda arch: 1 / (1 + arch.depth * arch.hidden / 4096)
    everything = {arch: error(arch) for arch in space.archs()}
    for search in SEARCHES:
        found = extract(
            space, cost_fn=cost_function(space), error_fn=each(error), epsilon=1e-6, search=search
        )
        assert best_w(found) == all_w(found, everything).max()
    bounded = extract(space, cost_fn=cost_function(space), error_fn=each(error), search="bounded")
    assert len(bounded.trained_rows) < 0.5 * len(bounded.archs)


class Shuffled:
    """The same Ξ in another order."""

    def __init__(self, space, seed):
        self.order = np.random.default_rng(seed).permutation(len(space.archs()))
        self.space = space

    def archs(self):
        return [self.space.archs()[k] for k in self.order]


@given(space=spaces(), seed=st.integers(0, 99), search=st.sampled_from(list(SEARCHES)))
def test_the_order_of_candidates_changes_nothing(space, seed, search):
    errors = {arch: round(e, 1) for arch, e in arbitrary(space, seed).items()}  # with ties
    arguments = dict(cost_fn=cost_function(space), error_fn=each(errors.get), search=search)
    one, other = (extract(s, **arguments) for s in (space, Shuffled(space, seed)))
    assert one.archs == other.archs and one.best == other.best
    np.testing.assert_array_equal(one.errors, other.errors)


@pytest.mark.parametrize("epsilon", [0, 1, -0.1, 2, float("nan")])
def test_epsilon_outside_its_interval_is_refused(epsilon):
    with pytest.raises(ValueError, match=r"epsilon must lie in \(0, 1\)"):
        extract(SearchSpace.published(), cost_fn=None, error_fn=None, epsilon=epsilon)


def test_an_unknown_search_is_refused():
    with pytest.raises(ValueError, match="interval, bounded, exhaustive; got 'greedy'"):
        extract(SearchSpace.published(), cost_fn=None, error_fn=None, search="greedy")


@pytest.mark.parametrize("error", [0.0, -1.0, float("inf")])
def test_an_error_that_w_cannot_divide_by_is_refused(error):
    space = SearchSpace((1, 2), (1,), (4,), (4,))
    with pytest.raises(ValueError, match="positive and finite"):
        extract(space, cost_fn=cost_function(space), error_fn=each(lambda arch: error))


def test_errors_of_another_number_are_refused():
    space = SearchSpace((1, 2), (1,), (4,), (4,))
    with pytest.raises(ValueError, match="one number for each of 1 architectures"):
        extract(space, cost_fn=cost_function(space), error_fn=lambda archs: [0.5, 0.5])


@pytest.mark.parametrize("search", SEARCHES)
def test_a_failed_training_is_left_out_and_the_bound_stays_true(search):
    space = SearchSpace.published()
    truth = {arch: 1 / (1 + sum(arch)) for arch in space.archs()}
    fails = {arch for k, arch in enumerate(space.archs()) if k % 3 == 0}
    error_fn = each(lambda arch: float("nan") if arch in fails else truth[arch])
    found = extract(space, cost_fn=cost_function(space), error_fn=error_fn, search=search)
    assert found.best_arch not in fails
    assert found.certificate.failed == len(
        fails & {found.archs[k] for k in np.flatnonzero(found.asked)}
    )
    assert found.certificate.bound >= all_w(found, truth).max() * (1 - 1e-9)


def test_when_every_training_fails_it_is_said():
    space = SearchSpace((1, 2), (1,), (4,), (4,))
    with pytest.raises(ValueError, match="every training failed"):
        extract(space, cost_fn=cost_function(space), error_fn=each(lambda arch: float("nan")))


def test_an_empty_space_is_refused():
    class Empty:
        def archs(self):
            return []

    with pytest.raises(ValueError, match="empty"):
        extract(Empty(), cost_fn=cost_function(SearchSpace.published()), error_fn=None)


def test_equal_costs_give_the_maximum_point_untrained():
    """Members that differ in heads only: nothing saves anything."""
    space = SearchSpace((2,), (1, 2, 4), (8,), (8,))
    found = extract(space, cost_fn=cost_function(space), error_fn=None)
    assert found.best_arch == Arch(2, 4, 8, 8) and found.runner_up is None


def test_the_certificate_says_where_the_assumption_failed():
    space = SearchSpace((1, 2, 3), (1,), (8,), (8,))
    errors = {1: 0.2, 2: 0.4, 3: 0.3}
    found = extract(
        space,
        cost_fn=cost_function(space),
        error_fn=each(lambda arch: errors[arch.depth]),
        search="bounded",
        epsilon=0.01,
    )
    broken = {(small[:2], large[:2]): ratio for small, large, ratio in found.certificate.worst}
    assert found.certificate.violations == len(broken) > 0
    assert found.certificate.rho == max(broken.values())
    assert broken[("D1", "D3")] == pytest.approx(1.5)


def test_the_runner_up_is_the_second_largest_w():
    space = SearchSpace.published()
    errors = arbitrary(space, 1)
    found = extract(
        space, cost_fn=cost_function(space), error_fn=each(errors.get), search="exhaustive"
    )
    assert np.sort(found.w[~np.isnan(found.w)])[-2] == found.w[found.runner_up]


def test_it_is_seen_when_p_and_i_decided():
    space = SearchSpace.published()
    flat = extract(
        space, cost_fn=cost_function(space), error_fn=each(lambda a: 0.9 + 1e-4 * a.depth)
    )
    assert flat.costs_decided and flat.spread[0] < 1.01 < flat.spread[1]
    steep = extract(
        space,
        cost_fn=cost_function(space),
        error_fn=each(lambda a: 0.01 if a.depth > 3 else 1.0),
        epsilon=0.01,
    )
    assert not steep.costs_decided


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
        space,
        cost_fn=cost_function(space),
        error_fn=each(lambda a: errors.uniform(0.1, 1)),
        epsilon=0.05,
    )
    assume(len(found.trained_rows) and found.w[found.best] > 0)
    assert found.front[found.best]


def test_break_even_is_where_the_two_w_meet():
    space = SearchSpace.published()
    costs = cost_function(space)(as_rows(space.archs()))
    savings = saving(costs["params"], costs["macs"])
    winner = space.archs().index(BORT)
    ratios = break_even(savings, winner)
    rival = int(savings.argmax())
    rival_error = 0.8
    errors = np.full(len(savings), rival_error)
    errors[winner] = rival_error * ratios[rival]
    w = w_coefficient(costs["params"], costs["macs"], errors)
    assert w[winner] == pytest.approx(w[rival])
    assert ratios[rival] == pytest.approx(0.57, abs=0.005)  # bort.md, section 1
    assert np.isinf(ratios[savings == 0]).all()


def test_rank_of_the_published_optimum_without_the_error():
    space = SearchSpace.published()
    costs = cost_function(space)(as_rows(space.archs()))
    savings = saving(costs["params"], costs["macs"])
    bort = savings[space.archs().index(BORT)]
    assert 175 <= 1 + (savings > bort + 1e-12).sum() <= 183


def test_one_candidate_is_its_own_maximum_point():
    arch = Arch(1, 1, 4, 4)
    space = SearchSpace.of(arch)
    found = extract(space, cost_fn=cost_function(space), error_fn=None)
    assert found.best_arch == found.maximum_point == arch and len(found.trained_rows) == 0

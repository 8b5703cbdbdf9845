# SPDX-License-Identifier: Apache-2.0
"""The layerwise program against brute force: never worse than it says, bound never too low."""

from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bort_jax.ose.layerwise import LayerChoices, solve_layerwise

SHAPES = [(1, 5), (2, 3), (3, 4), (5, 3)]  # few, since each is compiled


@st.composite
def instances(draw):
    """One or two hidden sizes of random options: ties, zeros, absent options, rough errors."""
    layers, options = draw(st.sampled_from(SHAPES))
    generator = np.random.default_rng(draw(st.integers(0, 10**6)))
    largest = draw(st.sampled_from([3, 50, 10**6]))
    return [
        one_problem(generator, layers, options, largest) for _ in range(draw(st.integers(1, 2)))
    ]


def one_problem(generator, layers, options, largest):
    errors = generator.uniform(0, 1, (layers, options)).round(generator.integers(1, 6))
    errors[:, 1:][generator.uniform(size=(layers, options - 1)) < 0.1] = np.inf
    return LayerChoices(
        params=generator.integers(0, largest, (layers, options)),
        inference_cost=generator.integers(0, largest, (layers, options)),
        errors=errors,
        base_params=int(generator.integers(0, largest)),
        base_inference_cost=int(generator.integers(0, largest)),
        base_error=0.05,
    )


def every_choice(problems, combine):
    """(W, p, i, e) of all choices, in plain numpy."""
    rows, maximum = [], [0, 0]
    for problem in problems:
        layers = np.arange(len(problem.params))
        for choice in product(range(problem.params.shape[1]), repeat=len(layers)):
            errors = problem.errors[layers, choice]
            if np.isinf(errors).any():
                continue
            e = problem.base_error + errors.sum()
            e = e if combine == "sum" else max(problem.base_error, errors.max())
            p = problem.base_params + problem.params[layers, choice].sum()
            i = problem.base_inference_cost + problem.inference_cost[layers, choice].sum()
            rows.append((p, i, e))
            maximum = [max(maximum[0], p), max(maximum[1], i)]
    p, i, e = np.array(rows, float).T
    with np.errstate(invalid="ignore"):
        w = np.nan_to_num(1 - p / maximum[0]) * np.nan_to_num(1 - i / maximum[1]) / e
    return w, p, i, e


@given(
    problems=instances(),
    combine=st.sampled_from(["sum", "max"]),
    epsilon=st.sampled_from([0.0, 0.01, 0.1, 0.5]),
)
def test_within_epsilon_of_brute_force_and_bounded(problems, combine, epsilon):
    w, *_ = every_choice(problems, combine)
    if w.max() <= 0:
        with pytest.raises(ValueError, match="W > 0"):
            solve_layerwise(problems, combine=combine, epsilon=epsilon)
        return
    found = solve_layerwise(problems, combine=combine, epsilon=epsilon)
    assert found.w >= (1 - epsilon) * w.max() * (1 - 1e-8)
    assert found.bound >= w.max() * (1 - 1e-9)
    assert found.w >= (1 - epsilon) * found.bound * (1 - 1e-8)
    assert found.w >= found.sweep_w * (1 - 1e-9)


@given(
    problems=instances(),
    combine=st.sampled_from(["sum", "max"]),
    at=st.integers(0, 10**6),
    binding=st.lists(st.booleans(), min_size=3, max_size=3),
)
def test_ceilings_are_kept_and_cost_no_more_than_they_must(problems, combine, at, binding):
    w, *costs = every_choice(problems, combine)
    point = np.array([column[at % len(w)] for column in costs])
    ceilings = tuple(float(c) if b else np.inf for c, b in zip(point, binding, strict=True))
    meets = np.all([c <= top * (1 + 1e-12) for c, top in zip(costs, ceilings, strict=True)], axis=0)
    if w[meets].max() <= 0:
        with pytest.raises(ValueError, match="W > 0"):
            solve_layerwise(problems, combine=combine, ceilings=ceilings)
        return
    found = solve_layerwise(problems, combine=combine, ceilings=ceilings)
    assert (found.params, found.inference_cost) <= (
        ceilings[0],
        np.inf,
    ) and found.inference_cost <= ceilings[1]
    assert found.error <= ceilings[2] * (1 + 1e-9)
    assert found.w >= w[meets].max() * (1 - 1e-8)
    assert found.bound >= w[meets].max() * (1 - 1e-9)


@settings(max_examples=30)
@given(problems=instances(), seed=st.integers(0, 99))
def test_the_order_of_options_changes_nothing(problems, seed):
    generator = np.random.default_rng(seed)
    shuffled = []
    for problem in problems:
        order = generator.permutation(problem.params.shape[1])
        shuffled.append(
            problem._replace(
                **{n: getattr(problem, n)[:, order] for n in ("params", "inference_cost", "errors")}
            )
        )
    assume(every_choice(problems, "sum")[0].max() > 0)
    one, other = solve_layerwise(problems), solve_layerwise(shuffled)
    assert one.w == pytest.approx(other.w, rel=1e-9)


def test_ceilings_that_nothing_meets_are_refused():
    problem = one_problem(np.random.default_rng(0), 3, 4, 100)
    with pytest.raises(ValueError, match="no choice of layers within the ceilings"):
        solve_layerwise([problem], ceilings=(-1, np.inf, np.inf))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"errors": np.full((3, 4), np.nan)}, "must be numbers"),
        ({"params": np.full((3, 4), -1)}, "not negative"),
        ({"errors": np.full((3, 4), np.inf)}, "no option"),
        ({"errors": np.zeros((3, 4)), "base_error": 0.0}, "W divides by it"),
    ],
)
def test_what_is_wrong_with_a_problem_is_said(change, message):
    problem = one_problem(np.random.default_rng(0), 3, 4, 100)._replace(**change)
    with pytest.raises(ValueError, match=message):
        solve_layerwise([problem])


@pytest.mark.parametrize("epsilon", [-0.1, 1.0, float("nan")])
def test_epsilon_outside_its_interval_is_refused(epsilon):
    with pytest.raises(ValueError, match="epsilon must lie"):
        solve_layerwise([], epsilon=epsilon)

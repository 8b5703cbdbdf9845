# SPDX-License-Identifier: Apache-2.0
"""The layerwise program against brute force: never worse than it says, bound never too low."""

from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bort_jax.ose import LayerChoices, solve_layerwise

SHAPES = [  # layers and options: few, since each is compiled
    (3, 4),
    *(pytest.param(shape, marks=pytest.mark.slow) for shape in [(1, 5), (2, 3), (5, 3)]),
]


@st.composite
def instances(draw, shape):
    """One or two hidden sizes of random options: ties, zeros, absent options, rough errors."""
    layers, options = shape
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


def every_choice(problems):
    """(W, p, i, e) of all choices, in plain numpy."""
    rows, maximum = [], [0, 0]
    for problem in problems:
        layers = np.arange(len(problem.params))
        for choice in product(range(problem.params.shape[1]), repeat=len(layers)):
            e = problem.base_error + problem.errors[layers, choice].sum()
            if np.isinf(e):
                continue
            p = problem.base_params + problem.params[layers, choice].sum()
            i = problem.base_inference_cost + problem.inference_cost[layers, choice].sum()
            rows.append((p, i, e))
            maximum = [max(maximum[0], p), max(maximum[1], i)]
    p, i, e = np.array(rows, float).T
    with np.errstate(invalid="ignore"):
        w = np.nan_to_num(1 - p / maximum[0]) * np.nan_to_num(1 - i / maximum[1]) / e
    return w, p, i, e


@pytest.mark.parametrize("shape", SHAPES)
@given(data=st.data())
def test_solve_layerwise_is_brute_force(shape, data):
    problems = data.draw(instances(shape))
    w, *_ = every_choice(problems)
    if w.max() <= 0:
        with pytest.raises(ValueError, match="W > 0"):
            solve_layerwise(problems)
        return
    found = solve_layerwise(problems)
    assert found.w >= w.max() * (1 - 1e-8)
    assert found.bound >= w.max() * (1 - 1e-9)
    assert found.w >= found.bound * (1 - 1e-8)
    assert found.w >= found.sweep_w * (1 - 1e-9)


@pytest.mark.parametrize("shape", SHAPES)
@given(
    data=st.data(),
    at=st.integers(0, 10**6),
    binding=st.lists(st.booleans(), min_size=3, max_size=3),
)
def test_solve_layerwise_keeps_ceilings_and_loses_no_more_than_it_must(shape, data, at, binding):
    """Ceilings at the costs of a choice, so that equality occurs."""
    problems = data.draw(instances(shape))
    w, *costs = every_choice(problems)
    point = np.array([column[at % len(w)] for column in costs])
    ceilings = tuple(float(c) if b else np.inf for c, b in zip(point, binding, strict=True))
    meets = np.all([c <= top * (1 + 1e-12) for c, top in zip(costs, ceilings, strict=True)], axis=0)
    if w[meets].max() <= 0:
        with pytest.raises(ValueError, match="W > 0"):
            solve_layerwise(problems, ceilings=ceilings)
        return
    found = solve_layerwise(problems, ceilings=ceilings)
    assert found.params <= ceilings[0] and found.inference_cost <= ceilings[1]
    assert found.error <= ceilings[2] * (1 + 1e-9)
    assert found.w >= w[meets].max() * (1 - 1e-8)
    assert found.bound >= w[meets].max() * (1 - 1e-9)


@settings(max_examples=8)
@given(problems=instances((3, 4)), seed=st.integers(0, 99))
def test_solve_layerwise_whatever_the_order_of_options(problems, seed):
    generator = np.random.default_rng(seed)
    shuffled = []
    for problem in problems:
        order = generator.permutation(problem.params.shape[1])
        shuffled.append(
            problem._replace(
                **{n: getattr(problem, n)[:, order] for n in ("params", "inference_cost", "errors")}
            )
        )
    assume(every_choice(problems)[0].max() > 0)
    one, other = solve_layerwise(problems), solve_layerwise(shuffled)
    assert one.w == pytest.approx(other.w, rel=1e-9)


def test_solve_layerwise_refuses_ceilings_that_nothing_meets():
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
def test_solve_layerwise_says_what_is_wrong_with_a_problem(change, message):
    problem = one_problem(np.random.default_rng(0), 3, 4, 100)._replace(**change)
    with pytest.raises(ValueError, match=message):
        solve_layerwise([problem])

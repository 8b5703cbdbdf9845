# SPDX-License-Identifier: Apache-2.0
"""τ retrieve: exact search, picking by doubt, a pool text used once, a budget that is kept."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bort_jax.agora import (
    Agora,
    Dataset,
    Mistakes,
    Retrieval,
    Window,
    agora,
    ball_tau,
    euclidean,
    generator,
    grid,
    hard_labels,
    retriever,
    row_keys,
    spread_budget,
    start,
)
from bort_jax.agora.retrieve import pick
from bort_jax.stages.agora.curve import agora_curve, random_curve
from bort_jax.stages.agora.pool.search import search

# Multiples of 1/8: sums and products are exact, so that equals are equal in every order.
eighths = st.integers(-8, 8).map(lambda n: n / 8)
vectors = lambda least, most: st.lists(
    st.lists(eighths, min_size=3, max_size=3), min_size=least, max_size=most
)


@settings(max_examples=60)
@given(
    queries=vectors(1, 4),
    pool=vectors(1, 30),
    free=st.lists(st.booleans(), min_size=30, max_size=30),
    k=st.integers(1, 8),
    window=st.tuples(eighths, eighths).map(sorted),
)
def test_search_is_brute_force(queries, pool, free, k, window):
    low, high = window
    q, v, free = np.array(queries, np.float32), np.array(pool, np.float16), np.array(free)
    blocks = [(at, v[at : at + 8]) for at in range(0, len(v), 8)]
    window = dict(min_distance=low, max_distance=high)
    found = search(q, blocks, free=free[: len(v)], k=k, block=8, **window)
    for one, rows, distances in zip(q, *found, strict=True):
        away = 1 - v.astype(np.float32) @ one
        inside = [n for n in range(len(v)) if free[n] and low <= away[n] <= high]
        best = sorted(inside, key=lambda n: (away[n], n))[:k]
        missing = k - len(best)
        assert rows.tolist() == best + [-1] * missing
        assert distances.tolist() == [*away[best].tolist(), *[np.inf] * missing]


def on_disk(pool, *, near=0.0, far=np.inf):
    """Retrieval from points of the plane."""

    def search_fn(dev):
        def found(rows, k, used):
            away = np.linalg.norm(dev[rows][:, None] - pool[None], axis=-1)
            away[:, list(used)] = np.inf
            away = np.pad(away, ((0, 0), (0, k)), constant_values=np.inf)
            away[(away < near) | (away > far)] = np.inf
            order = np.argsort(away, axis=1, kind="stable")[:, :k]
            best = np.take_along_axis(away, order, axis=1)
            return np.where(np.isinf(best), -1, order), best

        return found

    return search_fn


def retrieval(pool, dev, **window):
    return Retrieval(
        search_fn=on_disk(pool, **window)(dev),
        read_fn=lambda rows: pool[rows],
        doubt_fn=lambda model, x: np.abs(x[:, 0]),
        samples_per_error=2,
    )


@given(
    parents=st.lists(st.integers(0, 3), max_size=30),
    wanted=st.integers(0, 35),
    seed=st.integers(0, 9),
)
def test_pick_takes_turns_and_the_most_doubted(parents, wanted, seed):
    rng = np.random.default_rng(seed)
    parents, doubt = np.array(parents, int), rng.permutation(len(parents)).astype(float)
    picked = pick(parents, doubt, wanted, rng.permutation(4))
    assert len(picked) == len(set(picked)) == min(wanted, len(parents))
    took = np.bincount(parents[picked], minlength=4)
    for parent in range(4):
        mine = parents == parent
        chosen, rest = np.isin(np.arange(len(parents)), picked) & mine, mine.copy()
        rest[picked] = False
        assert not chosen.any() or not rest.any() or doubt[chosen].max() < doubt[rest].min()
        assert not rest.any() or took[parent] >= took.max() - 1  # who has more waits for no one


def mistakes_of(dev, rows, **rest):
    return Mistakes(dev[rows], np.array(rows), dev[:0], **rest)


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), most=st.none() | st.integers(1, 40), known=st.integers(0, 5))
def test_retriever_gives_texts_of_the_pool_once_and_none_that_is_held_out(seed, most, known):
    rng = np.random.default_rng(seed)
    pool, dev = rng.integers(0, 6, (40, 2)).astype(float), rng.integers(0, 6, (9, 2)).astype(float)
    used, rows = frozenset(rng.permutation(40)[:10].tolist()), [1, 4, 7]
    make = retriever(retrieval(pool, dev, far=3), keys_fn=row_keys, forbidden=set(row_keys(dev)))
    mistakes = mistakes_of(dev, rows, used=used, most=most, model=())._replace(known=pool[:known])
    made = make(mistakes, np.random.default_rng(0))
    assert len(made.x) <= (6 if most is None else most)
    assert np.array_equal(made.x, pool[made.origin.sources])
    assert not used & set(made.origin.sources.tolist())
    keys = row_keys(made.x)
    assert len(set(keys)) == len(keys) and not set(keys) & {*row_keys(dev), *row_keys(pool[:known])}
    away = np.linalg.norm(made.x - dev[made.origin.parents], axis=1)
    assert np.array_equal(away, made.origin.distances) and (away <= 3).all()


def test_retriever_leaves_to_other_taus_what_the_window_does_not_hold():
    dev, pool = np.array([[0.0, 0.0], [9.0, 9.0]]), np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    other = generator(ball_tau(0.1), samples_per_error=3, window=Window(distance_fn=euclidean))
    source = retrieval(pool, dev, far=2)
    made = retriever(source, keys_fn=row_keys, otherwise=other)(
        mistakes_of(dev, [0, 1], most=5), np.random.default_rng(0)
    )
    assert made.origin.parents.tolist() == [0, 0, 0, 1, 1]
    assert sorted(made.origin.sources.tolist()) == [-1, -1, 0, 1, 2]
    assert [tau.partition(" ")[0] for tau in made.origin.taus] == ["retrieve"] * 3 + ["ball"] * 2
    assert made.refused["no pool text in the window"] == 1
    alone = retriever(source, keys_fn=row_keys)
    assert len(alone(mistakes_of(dev, [1]), np.random.default_rng(0)).x) == 0


def rounds_on(pool, calls, *, sets=3):
    """Agora with a pool in the plane whose classes are two halves of it."""
    rng = np.random.default_rng(0)
    dev, truth = rng.uniform(-1, 1, (40, 2)), lambda x: (x[:, 0] > 0).astype(int)
    train = rng.uniform(-1, 1, (6, 2))
    asked = []

    def label(x):
        asked.extend(row_keys(x))
        return hard_labels(truth)(x)

    parts = Agora(
        fit_fn=lambda thetas, data: (dict(theta).get("n", 0) for theta in thetas),
        score_fn=lambda n, data: np.arange(40) % 5 != n % 5,  # eight mistakes
        generate_fn=retriever(retrieval(pool, dev), keys_fn=row_keys),
        label_fn=label,
        allowance_fn=spread_budget(calls),
    )
    first = start(Dataset(train, truth(train)), grid(n=list(range(sets))))
    return list(agora(first, Dataset(dev, truth(dev)), calls=parts)), asked


@pytest.mark.parametrize("calls, sets", [(1, 3), (5, 3), (30, 3), (31, 1), (29, 6), (300, 3)])
def test_a_budget_is_spent_and_never_exceeded(calls, sets):
    pool = np.random.default_rng(1).uniform(-1, 1, (60, 2))
    states, asked = rounds_on(pool, calls, sets=sets)
    assert len(asked) == len(set(asked)) == states[-1].asked == min(calls, 60)
    assert len(states[-1].used) == len(asked)  # each text of the pool once
    assert len(states[-1].train.y) == 6 + len(asked)


@pytest.mark.parametrize("share", [0.5, 1])
@pytest.mark.parametrize("seed", range(2))
def test_a_perfect_socrates_and_a_pool_that_covers_the_task_reach_the_whole_pool(share, seed):
    """1-NN on a chequered square, given rows from one corner of it. With a budget of the whole pool
    the last set is the pool; with half of it, near mistakes, it is two points short at the most,
    and no worse than half of it at random."""
    rng = np.random.default_rng(seed)
    truth = lambda x: np.floor(4 * x).astype(int).sum(axis=1) % 2
    of = lambda x: Dataset(x, truth(x))
    nearest = lambda data, x: data.y[
        np.linalg.norm(x[:, None] - data.x[None], axis=-1).argmin(axis=1)
    ]
    given, pool, dev = rng.uniform(0, 0.3, (20, 2)), rng.random((600, 2)), rng.random((300, 2))
    test, calls = rng.random((1000, 2)), int(share * len(pool))
    source = retrieval(pool, dev)._replace(doubt_fn=lambda data, x: np.zeros(len(x)))
    parts = Agora(
        fit_fn=lambda thetas, data: (data for _ in thetas),
        score_fn=lambda data, points: nearest(data, points.x) == points.y,
        generate_fn=retriever(source, keys_fn=row_keys),
        label_fn=hard_labels(truth),
        allowance_fn=spread_budget(calls),
        first_fraction=0.25,
    )
    *_, last = agora(start(of(given), grid(n=list(range(8)))), of(dev), calls=parts)
    accuracy = lambda data: (nearest(data, test) == truth(test)).mean()
    whole, random = of(given).append(of(pool)), of(given).append(of(pool[:calls]))
    assert last.asked == calls and accuracy(of(given)) < accuracy(random) - 0.3
    assert accuracy(random) <= accuracy(last.train) <= accuracy(whole)
    assert accuracy(last.train) >= accuracy(whole) - 0.02 * (share < 1)


@pytest.mark.parametrize("calls", [0, -3])
def test_a_budget_of_nothing_is_refused(calls):
    with pytest.raises(ValueError, match="calls must be at least 1"):
        spread_budget(calls)


def test_the_curve_ends_with_the_runs_score_and_has_as_many_calls_on_both_sides():
    pool = np.random.default_rng(1).uniform(-1, 1, (60, 2))
    states, _ = rounds_on(pool, 30)
    score_fn = lambda train: [len(train.y) / 100, 0.0]
    drawn = agora_curve(states[-1], score_fn, first=[0.1, 0.2], last=[0.8, 0.9])
    assert [point.calls for point in drawn] == [0, *np.cumsum([r.asked for r in states[-1].rounds])]
    assert drawn[0] == (0, 6, [0.1, 0.2]) and drawn[-1] == (30, 36, [0.8, 0.9])
    assert drawn[1].scores == [drawn[1].train_rows / 100, 0.0] and drawn[1].train_rows == 16
    parts = Agora(None, None, None, hard_labels(lambda x: np.zeros(len(x), int)))
    beside = random_curve(states[-1], pool, score_fn, calls=parts, beside=drawn)
    assert [(one.calls, one.train_rows) for one in beside] == [
        (one.calls, one.train_rows) for one in drawn
    ]
    assert beside[0] == drawn[0] and beside[-1].scores == [0.36, 0.0]

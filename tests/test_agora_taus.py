# SPDX-License-Identifier: Apache-2.0
"""τ: what may change changes, what must stay stays; the window; what is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bort_jax.agora import (
    Mistakes,
    Parents,
    Tau,
    Window,
    ball_tau,
    changed_fraction,
    euclidean,
    generator,
    mix_tau,
    mlm_tau,
    neighbour_tau,
)

SPECIAL = (0, 1, 2, 3, 4)
VOCABULARY = 40
TABLE = np.random.default_rng(0).standard_normal((VOCABULARY, 6))


def cycling(x, positions, seed):
    """Always another token than the one that stands there."""
    return 5 + (np.take_along_axis(x, positions, 1) - 4) % (VOCABULARY - 5)


def of_first_token(x):
    """A Socrates who looks at one token."""
    return np.eye(2)[x.reshape(len(x), -1)[:, 1] % 2]


def taus(share, sides):
    return {
        "mlm": mlm_tau(cycling, edit_fraction=share, sides=sides),
        "neighbour": neighbour_tau(
            TABLE, special=SPECIAL, edit_fraction=share, nearest_tokens=3, sides=sides
        ),
        "mix": mix_tau(of_first_token, edit_fraction=share, sides=sides),
    }


def framed(rng, kind, s=20):
    """A row `<s> a </s>` or `<s> a </s></s> b </s>`, padded, and its sides; some tokens must
    stay."""
    a, b = rng.integers(2, 7, 2)
    first, second = (rng.integers(5, VOCABULARY, n) for n in (a, b))
    tokens, sides = [0, *first, 2], [0, *[1] * a, 0]
    if kind != "single":
        tokens, sides = [*tokens, 2, *second, 2], [*sides, 0, *[2] * b, 0]
    sides = np.array(sides) * (rng.random(len(sides)) > 0.2)
    pad = s - len(tokens)
    return np.array([*tokens, *[1] * pad]), np.array([*sides, *[0] * pad])


def points(seed, kind, n=6):
    rng = np.random.default_rng(seed)
    if kind != "choice":
        rows = [framed(rng, kind) for _ in range(n)]
        return Parents(*(np.stack(part).astype(np.int32) for part in zip(*rows, strict=True)))
    x, sides = [], []
    for _ in range(n):
        row, side = framed(rng, "pair")
        other = np.where(side == 2, 5 + (row + 3) % 30, row)
        x.append(np.stack([row, other]))
        sides.append(np.stack([side, np.where(side == 1, -1, side)]))
    return Parents(np.stack(x).astype(np.int32), np.stack(sides))


kinds = st.sampled_from(["single", "pair", "choice"])
names = st.sampled_from(["mlm", "neighbour", "mix"])


@given(
    seed=st.integers(0, 1000),
    kind=kinds,
    name=names,
    share=st.floats(0.01, 1),
    sides=st.sampled_from([(1, 2), (1,), (2,)]),
)
def test_every_tau_keeps_what_must_stay(seed, kind, name, share, sides):
    parents = points(seed, kind)
    before = parents.x.copy()
    which = np.array([0, 0, 1, 3, 5])
    x = taus(share, sides)[name].make(parents, which, np.random.default_rng(seed))
    own = parents.take(which)
    assert x.shape == own.x.shape and np.array_equal(parents.x, before)
    may = np.isin(own.sides, sides) | ((own.sides < 0) & (1 in sides))
    assert np.array_equal(np.where(may, 0, x), np.where(may, 0, own.x))
    assert not np.isin(x[may], SPECIAL).any()
    if kind == "choice":  # what the choices shared they share still
        assert ((own.sides[:, 1] >= 0) | (x[:, 0] == x[:, 1])).all()


@given(seed=st.integers(0, 200), share=st.floats(0.05, 1), passes=st.integers(1, 4))
def test_mlm_and_neighbour_change_the_share_of_each_row(seed, share, passes):
    parents = points(seed, "pair")
    for tau in (
        mlm_tau(cycling, edit_fraction=share, passes=passes),
        neighbour_tau(TABLE, special=SPECIAL, edit_fraction=share, nearest_tokens=3),
    ):
        x = tau.make(parents, np.arange(6), np.random.default_rng(seed))
        free = (parents.sides > 0).sum(axis=1)
        wanted = np.minimum(np.maximum(1, np.rint(share * free)), free)
        assert ((x != parents.x).sum(axis=1) == wanted).all()


def test_later_passes_see_what_earlier_ones_drew():
    seen = []

    def watch(x, positions, seed):
        seen.append((x != parents.x).sum())
        return cycling(x, positions, seed)

    parents = points(0, "single", n=1)
    mlm_tau(watch, edit_fraction=1, passes=3).make(parents, np.array([0]), np.random.default_rng(0))
    assert seen == sorted(seen) and seen[0] == 0 and seen[-1] > 0


def test_positions_have_one_width_so_that_a_model_is_compiled_once():
    widths = set()

    def watch(x, positions, seed):
        widths.add(positions.shape[1])
        return cycling(x, positions, seed)

    for seed in range(10):
        parents = points(seed, "pair")
        mlm_tau(watch, edit_fraction=0.5, passes=2).make(
            parents, np.arange(6), np.random.default_rng(seed)
        )
    assert widths == {5}  # half of 20, in two passes


def test_neighbours_are_the_nearest_by_cosine():
    parents = Parents(np.array([[0, 7, 2]]), np.array([[0, 1, 0]]))
    tau = neighbour_tau(TABLE, special=SPECIAL, edit_fraction=1, nearest_tokens=2)
    rng = np.random.default_rng(0)
    drawn = {int(tau.make(parents, np.array([0]), rng)[0, 1]) for _ in range(50)}
    unit = TABLE / np.linalg.norm(TABLE, axis=1, keepdims=True)
    cosine = unit @ unit[7]
    cosine[[*SPECIAL, 7]] = -np.inf
    assert drawn == set(np.argsort(-cosine)[:2])


def test_mix_takes_spans_of_mistakes_of_the_same_label_and_side():
    x = np.array([[0, 11, 12, 13, 2, 2, 14, 2], [0, 21, 22, 23, 2, 2, 25, 2],
                  [0, 8, 30, 31, 2, 2, 32, 2]])  # fmt: skip
    sides = np.tile([0, 1, 1, 1, 0, 0, 2, 0], (3, 1))
    tau = mix_tau(of_first_token, edit_fraction=0.5, sides=(1,))
    rng = np.random.default_rng(0)
    for _ in range(20):
        child = tau.make(Parents(x, sides), np.array([0]), rng)[0]
        foreign = np.flatnonzero(child != x[0])
        assert len(foreign) == 2 and np.diff(foreign)[0] == 1  # half of four, in one piece
        assert np.isin(child[foreign], x[1, 1:4]).all()
        assert child[foreign[1]] - child[foreign[0]] == 1
    alone = tau.make(Parents(x, sides), np.array([2]), rng)[0]
    assert np.array_equal(alone, x[2])  # no other mistake has its label


@given(st.integers(0, 100), st.floats(0, 2), st.floats(0, 2))
def test_a_ball_has_its_radii_and_every_direction(seed, one, two):
    nearest, farthest = sorted((one, two))
    x = np.random.default_rng(seed).standard_normal((5, 3))
    tau = ball_tau(farthest, min_distance=nearest)
    children = tau.make(Parents(x), np.repeat(np.arange(5), 40), np.random.default_rng(seed))
    away = children - np.repeat(x, 40, axis=0)
    lengths = np.linalg.norm(away, axis=1)
    assert (lengths >= nearest - 1e-9).all() and (lengths <= farthest + 1e-9).all()
    if nearest > 0.1:
        mean = (away / lengths[:, None]).mean(axis=0)
        assert np.linalg.norm(mean) < 0.3  # 200 directions: 0.07 is expected


def mistakes_of(parents, known=None):
    known = parents.x[:0] if known is None else known
    return Mistakes(parents.x, np.arange(10, 10 + len(parents.x)), known)


def made(parents, tau, **settings):
    sides = None if parents.sides is None else np.concatenate([parents.sides[:1]] * 10
                                                              + [parents.sides])  # fmt: skip
    known = settings.pop("known", None)
    rng = np.random.default_rng(settings.pop("seed", 0))
    return generator(tau, sides=sides, **settings)(mistakes_of(parents, known), rng)


@given(seed=st.integers(0, 100), low=st.floats(0, 0.6), high=st.floats(0, 1))
def test_points_lie_in_the_window_and_the_others_are_counted(seed, low, high):
    low, high = min(low, high), max(low, high)
    parents = points(seed, "pair")
    tau = mlm_tau(cycling, edit_fraction=0.4)
    got = made(parents, tau, samples_per_error=3, window=Window(low, high), tries=2, seed=seed)
    rows = got.origin.parents - 10
    distances = changed_fraction(got.x, parents.take(rows))
    assert np.array_equal(distances, got.origin.distances)
    assert ((distances >= low) & (distances <= high)).all()
    assert len(got.x) <= 18 and sum(got.refused.values()) + len(got.x) <= 36
    assert list(got.distances) == sorted(got.distances) and len(got.distances) == 7
    assert set(got.refused) <= {"too near", "too far", "duplicate", "unchanged"}


def test_what_is_outside_the_window_is_named():
    parents = points(0, "pair")
    near = made(
        parents,
        mlm_tau(cycling, edit_fraction=0.01),
        samples_per_error=1,
        window=Window(0.9),
        tries=1,
    )
    far = made(
        parents,
        mlm_tau(cycling, edit_fraction=1),
        samples_per_error=1,
        window=Window(0, 0.5),
        tries=1,
    )
    assert near.refused == {"too near": 6} and far.refused == {"too far": 6}
    assert len(near.x) == len(far.x) == 0 and near.x.shape == (0, 20)


def test_copies_of_dev_of_test_of_train_and_of_each_other_are_refused():
    x = np.arange(4)[:, None] * 10
    offsets = iter([1, 2, 3, 4, 1, 1, 1, 1])
    tau = Tau("next", lambda parents, which, rng: parents.x[which] + next(offsets))
    keys = lambda x: [int(value) for value in x[:, 0]]
    got = made(
        Parents(x), tau, samples_per_error=1, window=Window(distance_fn=euclidean), keys_fn=keys,
        forbidden={1, 11, 12}, known=np.array([[21], [3]]), tries=3,
    )  # fmt: skip
    # First try: 1 and 11 are held out, 21 is in train, 31 is new. Second: 2 and 22 are new.
    assert sorted(got.x[:, 0]) == [2, 13, 22, 31]
    assert got.refused == {"copy of dev or test": 3, "duplicate": 1}
    same = Tau("same", lambda parents, which, rng: np.full((len(which), 1), 7))
    twice = made(
        Parents(x),
        same,
        samples_per_error=2,
        window=Window(distance_fn=euclidean),
        keys_fn=keys,
        tries=1,
    )
    assert len(twice.x) == 1 and twice.refused == {"duplicate": 7}
    none = Tau("none", lambda parents, which, rng: parents.x[which])
    assert made(
        Parents(x), none, samples_per_error=1, window=Window(distance_fn=euclidean), tries=1
    ).refused == {"unchanged": 4}


def test_several_taus_share_the_work():
    parents = Parents(np.arange(200)[:, None].astype(float) * 100)
    one, two = ball_tau(1.0), ball_tau(9.0, min_distance=5.0)
    got = made(parents, {one: 3, two: 1}, samples_per_error=4, window=Window(distance_fn=euclidean))
    by = {name: np.array([tau == name for tau in got.origin.taus]) for name in map(str, (one, two))}
    assert 0.7 < by[str(one)].mean() < 0.8 and sum(map(sum, by.values())) == 800
    assert (
        got.origin.distances[by[str(one)]].max()
        <= 1
        < 5
        <= got.origin.distances[by[str(two)]].min()
    )
    assert str(two) == "ball min_distance=5.0 max_distance=9.0"


def test_the_same_random_state_makes_the_same_points():
    parents = points(3, "choice")
    for name, tau in taus(0.3, (1, 2)).items():
        first, again = (made(parents, tau, samples_per_error=2, seed=5) for _ in range(2))
        assert np.array_equal(first.x, again.x), name
        assert not np.array_equal(first.x, made(parents, tau, samples_per_error=2, seed=6).x), name


@pytest.mark.parametrize("share", [0, -1, 1.1])
def test_a_share_outside_its_interval_is_refused(share):
    for build in (
        lambda: mlm_tau(cycling, edit_fraction=share),
        lambda: mix_tau(of_first_token, edit_fraction=share),
        lambda: neighbour_tau(TABLE, special=SPECIAL, edit_fraction=share),
    ):
        with pytest.raises(ValueError, match="edit_fraction"):
            build()


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"samples_per_error": 0}, "samples per error and tries"),
        ({"samples_per_error": 1, "window": Window(0.5, 0.4)}, "min distance ≤ max distance"),
        ({"samples_per_error": 1, "window": Window(-1)}, "min distance ≤ max distance"),
        ({"samples_per_error": 1, "tries": 0}, "samples per error and tries"),
    ],
)
def test_settings_that_make_nothing_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        generator(ball_tau(1.0), **settings)
    with pytest.raises(ValueError, match="positive weight"):
        generator({ball_tau(1.0): 0.0}, samples_per_error=1)


def test_text_without_sides_is_refused():
    parents = points(0, "single")._replace(sides=None)
    for tau in taus(0.5, (1, 2)).values():
        with pytest.raises(ValueError, match="sides"):
            tau.make(parents, np.array([0]), np.random.default_rng(0))

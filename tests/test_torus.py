# SPDX-License-Identifier: Apache-2.0
"""The torus is one, its samples are what they say, its networks are trained one by one alike, and
its homology is read right on clouds whose Betti numbers are known."""

import jax
import numpy as np
import pytest
import torus

from bort_jax.agora import Dataset, grid


def distance(x):
    """From the surface, by its equation."""
    tube = np.hypot(np.hypot(x[:, 0], x[:, 1]) - torus.MAJOR, x[:, 2])
    return np.abs(tube - torus.MINOR)


def test_class_1_is_on_the_surface_and_class_0_is_not(rng):
    points = torus.sample(rng, 2001)
    away = distance(points.x)
    assert abs(points.y.sum() - 1000) <= 1
    assert away[points.y == 1].max() < 1e-6
    assert away[points.y == 0].min() > torus.OFF[0] - 1e-6


def test_the_surface_is_sampled_by_area(rng):
    x = torus.near_surface(rng, 40_000, azimuth=2 * np.pi, moved=0.0)
    outer = np.hypot(x[:, 0], x[:, 1]) > torus.MAJOR
    # By Pappus the outer half's area is ½ + MINOR / (π·MAJOR) of the whole.
    assert outer.mean() == pytest.approx(0.5 + torus.MINOR / (np.pi * torus.MAJOR), abs=0.01)


def test_the_train_set_covers_a_patch(rng):
    points = torus.sample(rng, 2000, azimuth=torus.PATCH)
    on = points.x[points.y == 1]
    azimuth = np.arctan2(on[:, 1], on[:, 0])
    assert 0 <= azimuth.min() < 0.05 and torus.PATCH - 0.05 < azimuth.max() <= torus.PATCH


@pytest.mark.slow
def test_a_member_is_trained_as_it_would_be_alone(rng):
    train = torus.sample(rng, 100)
    thetas = grid(**torus.CHOICES, seed=(0, 7))
    together = torus.fit_population(thetas, train, steps=20)
    for theta, params in zip(thetas, together, strict=True):
        alone = torus.fit_population([theta], train, steps=20)[0]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), params, alone)


def test_rows_that_only_fill_up_are_not_trained_on(rng):
    """65 points are padded to 128; what stands in the padding must not matter."""
    train = torus.sample(rng, 65)
    theta = grid(**torus.CHOICES, seed=(0, 1))[:1]
    hyper = {name: np.array([value]) for name, value in theta[0]}
    padded = lambda filler: (
        np.concatenate([train.x, np.full((63, 3), filler, np.float32)]),
        np.concatenate([train.y, np.full(63, filler)]).astype(np.float32),
    )
    a, b = (torus.train_networks(hyper, *padded(filler), 65, 20) for filler in (0, 1))
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.slow
def test_socrates_is_acceptable_and_not_perfect():
    rng = np.random.default_rng(0)
    socrates, test = torus.learn_socrates(rng), torus.sample(rng, 2000)
    assert 2 / 3 < torus.correct_points(socrates, test).mean() < 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "cloud, numbers", [("surface", (1, 2, 1)), ("patch", (1, 1, 0)), ("two patches", (2, 2, 0))]
)
def test_betti_numbers_of_known_clouds(rng, cloud, numbers):
    pytest.importorskip("ripser", reason="the extra `homology`")
    patch = torus.near_surface(rng, 800, azimuth=torus.PATCH, moved=0.0)
    x = {
        "surface": torus.near_surface(rng, 3000, azimuth=2 * np.pi, moved=0.0),
        "patch": patch,
        "two patches": np.concatenate([patch, patch * np.array([-1, -1, 1])]),
    }[cloud]
    assert torus.betti(x) == numbers


def test_the_picture_has_a_panel_for_each_set(rng):
    train = torus.sample(rng, 50, azimuth=torus.PATCH)
    drawn = torus.picture({"train": train, "dev": torus.sample(rng, 50), "after": train})
    assert [axis.get_title() for axis in drawn.axes] == [
        f"{name}: 50 points" for name in ("train", "dev", "after")
    ]
    counts = [sum(len(c.get_offsets()) for c in axis.collections) for axis in drawn.axes]
    assert counts == [50, 50, 50]


@pytest.mark.slow
def test_points_around_dev_are_as_many_as_agoras_and_near_dev(rng):
    train, dev = torus.sample(rng, 60, azimuth=torus.PATCH), torus.sample(rng, 40)
    calls = torus.calls_of(torus.fit_population([torus.SOCRATES], dev, steps=50)[0])
    state = torus.start(Dataset(*(np.repeat(part, 2, axis=0) for part in train)), [()])
    found = torus.augment_around_dev(state, train, dev, calls=calls, rng=rng)
    assert len(found.y) == 120
    np.testing.assert_array_equal(found.x[:60], train.x)
    gaps = np.linalg.norm(found.x[60:, None] - dev.x[None], axis=-1)
    assert 0 < gaps.min() and gaps.min(axis=1).max() <= torus.RADIUS + 1e-6
    assert (gaps <= torus.RADIUS + 1e-6).any(axis=0).sum() > 30  # 60 points near 40 rows of dev

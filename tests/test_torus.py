# SPDX-License-Identifier: Apache-2.0
"""The torus is one, its samples are what they say, and
its homology is read right on clouds whose Betti numbers are known."""

import sys
from importlib import util
from pathlib import Path

import numpy as np
import pytest

FILE = Path(__file__).parent.parent / "tools" / "torus.py"


@pytest.fixture(scope="module")
def torus():
    spec = util.spec_from_file_location("torus", FILE)
    assert spec and spec.loader
    module = util.module_from_spec(spec)
    sys.modules["torus"] = module
    spec.loader.exec_module(module)
    return module


def distance(torus, x):
    """From the surface, by its equation."""
    tube = np.hypot(np.hypot(x[:, 0], x[:, 1]) - torus.MAJOR, x[:, 2])
    return np.abs(tube - torus.MINOR)


def test_class_1_is_on_the_surface_and_class_0_is_not(torus, rng):
    points = torus.sample(rng, 2001)
    away = distance(torus, points.x)
    assert abs(points.y.sum() - 1000) <= 1
    assert away[points.y == 1].max() < 1e-6
    assert away[points.y == 0].min() > torus.OFF[0] - 1e-6


def test_the_surface_is_sampled_by_area(torus, rng):
    x = torus.near_surface(rng, 40_000, azimuth=2 * np.pi, moved=0.0)
    outer = np.hypot(x[:, 0], x[:, 1]) > torus.MAJOR
    # By Pappus the outer half's area is ½ + MINOR / (π·MAJOR) of the whole.
    assert outer.mean() == pytest.approx(0.5 + torus.MINOR / (np.pi * torus.MAJOR), abs=0.01)


def test_the_train_set_covers_a_patch(torus, rng):
    points = torus.sample(rng, 2000, azimuth=torus.PATCH)
    on = points.x[points.y == 1]
    azimuth = np.arctan2(on[:, 1], on[:, 0])
    assert 0 <= azimuth.min() < 0.05 and torus.PATCH - 0.05 < azimuth.max() <= torus.PATCH


@pytest.mark.parametrize(
    "cloud, numbers", [("surface", (1, 2, 1)), ("patch", (1, 1, 0)), ("two patches", (2, 2, 0))]
)
def test_betti_numbers_of_known_clouds(torus, rng, cloud, numbers):
    pytest.importorskip("ripser", reason="the extra `homology`")
    patch = torus.near_surface(rng, 800, azimuth=torus.PATCH, moved=0.0)
    x = {
        "surface": torus.near_surface(rng, 3000, azimuth=2 * np.pi, moved=0.0),
        "patch": patch,
        "two patches": np.concatenate([patch, patch * np.array([-1, -1, 1])]),
    }[cloud]
    assert torus.betti(x) == numbers


def test_the_picture_has_a_panel_for_each_set(torus, rng):
    train = torus.sample(rng, 50, azimuth=torus.PATCH)
    drawn = torus.picture({"train": train, "dev": torus.sample(rng, 50), "after": train})
    assert [axis.get_title() for axis in drawn.axes] == [
        f"{name}: 50 points" for name in ("train", "dev", "after")
    ]
    counts = [sum(len(c.get_offsets()) for c in axis.collections) for axis in drawn.axes]
    assert counts == [50, 50, 50]

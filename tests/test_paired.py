# SPDX-License-Identifier: Apache-2.0
"""Paired differences: against scipy's own interval, and how often the interval holds the truth."""

import numpy as np
import pytest
from scipy import stats

from bort_jax.report.paired import Gain, gain


def test_it_is_the_interval_of_the_paired_t_test(rng):
    ours, theirs = rng.normal(2, 1, 9), rng.normal(0, 3, 9)
    low, high = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    found = gain(ours, theirs)
    np.testing.assert_allclose((found.mean - found.margin, found.mean + found.margin), (low, high))


def test_what_both_sides_share_does_not_widen_it(rng):
    shared, own = rng.normal(0, 50, 6), rng.normal(1, 0.1, 6)
    assert gain(shared + own, shared).margin == pytest.approx(gain(own, np.zeros(6)).margin)


def test_it_holds_the_truth_as_often_as_it_says(rng):
    found = [gain(rng.normal(3, 2, 5), np.zeros(5)) for _ in range(2000)]
    held = np.mean([abs(one.mean - 3) <= one.margin for one in found])
    assert held == pytest.approx(0.95, abs=0.02)


def test_sure_is_an_interval_without_zero():
    assert Gain(2.0, 1.9).sure and Gain(-2.0, 1.9).sure and not Gain(2.0, 2.1).sure
    assert str(Gain(2.04, 1.96)) == "+2.0 ± 2.0"


@pytest.mark.parametrize("ours, theirs", [([1.0], [2.0]), ([1.0, 2.0], [1.0]), ([], [])])
def test_no_interval_without_pairs(ours, theirs):
    with pytest.raises(ValueError, match="pairs of two seeds"):
        gain(ours, theirs)

# SPDX-License-Identifier: Apache-2.0
"""A parent of twice the depth."""

import numpy as np
import pytest
from stack_layers import stacked

from bort_jax.arch import LayerwiseArch
from bort_jax.model import forward


def test_stacked_has_each_layer_twice_and_runs(tiny):
    made = stacked(tiny)
    depth = tiny.config.arch.depth
    assert made.config.arch == tiny.config.arch._replace(depth=2 * depth)
    for n in range(depth):
        one, other = (made.params["encoder"][f"layer_{k}"] for k in (n, n + depth))
        np.testing.assert_equal(one, other)
    ids = np.ones((1, 4), np.int32)
    logits = forward(made.model, made.params, ids, ids > 0, np.zeros((1, 1), np.int32))
    assert np.isfinite(np.asarray(logits)).all()


def test_stacked_refuses_layers_of_their_own_sizes(tiny):
    from dataclasses import replace

    own = replace(tiny, config=replace(tiny.config, arch=LayerwiseArch(16, 8, ((2, 24), (1, 8)))))
    with pytest.raises(ValueError, match="only layers of one size are stacked"):
        stacked(own)

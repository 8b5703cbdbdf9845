# SPDX-License-Identifier: Apache-2.0
"""The parameters of a layer, its heads and units in another order, or fewer of them."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

QKV = ("query", "key", "value")


def projection(layer: Mapping[str, Any], name: str) -> Float[np.ndarray, "f h"]:
    """F of a layer's `heads` or `units`."""
    dense = layer["attention"]["out"] if name == "heads" else layer["feed_forward"]["down"]
    kernel = np.asarray(dense["kernel"])
    return np.vstack([dense["bias"], kernel.reshape(-1, kernel.shape[-1])])


def permute(layer: Mapping[str, Any], heads: Int[np.ndarray, " a"], units: Int[np.ndarray, " i"]):
    """A layer with its heads and units in another order, which computes the same."""
    attention, forward = layer["attention"], layer["feed_forward"]
    qkv = {
        name: {
            "kernel": np.asarray(attention[name]["kernel"])[:, heads],
            "bias": np.asarray(attention[name]["bias"])[heads],
        }
        for name in QKV
    }
    out = attention["out"] | {"kernel": np.asarray(attention["out"]["kernel"])[heads]}
    up = {
        "kernel": np.asarray(forward["up"]["kernel"])[:, units],
        "bias": np.asarray(forward["up"]["bias"])[units],
    }
    down = forward["down"] | {"kernel": np.asarray(forward["down"]["kernel"])[units]}
    return {
        **layer,
        "attention": {**qkv, "out": out},
        "feed_forward": {"up": up, "down": down},
    }


def cut(
    layer: Mapping[str, Any],
    out: Float[np.ndarray, "a_times_k_plus_1 h"],
    down: Float[np.ndarray, "i_plus_1 h"],
):
    """The first heads and units of a layer, with refitted projections of as many rows."""
    attention, up = layer["attention"], layer["feed_forward"]["up"]
    k, h = attention["out"]["kernel"].shape[-2:]
    a, i = (len(out) - 1) // k, len(down) - 1
    qkv = {
        name: {
            "kernel": attention[name]["kernel"][:, :a],
            "bias": attention[name]["bias"][:a],
        }
        for name in QKV
    }
    return {
        **layer,
        "attention": {**qkv, "out": {"kernel": out[1:].reshape(a, k, h), "bias": out[0]}},
        "feed_forward": {
            "up": {"kernel": up["kernel"][:, :i], "bias": up["bias"][:i]},
            "down": {"kernel": down[1:], "bias": down[0]},
        },
    }


def pad(layer: Mapping[str, Any], like: Mapping[str, Any]):
    """A smaller layer at the size of `like`, which computes the same: what is absent is 0."""

    def widen(x, wide):
        missing = [(0, n - m) for m, n in zip(x.shape, wide.shape, strict=True)]
        return np.pad(x, missing) if x.shape != wide.shape else x

    return jax.tree.map(widen, dict(layer), dict(like))


def in_order(encoder: Mapping[str, Any]) -> list[Any]:
    """The layers of an encoder, from the first to the last."""
    names = [name for name in encoder if name.startswith("layer_")]
    return [encoder[name] for name in sorted(names, key=lambda name: int(name[6:]))]

# SPDX-License-Identifier: Apache-2.0
"""Numbers and texts of JSON files, refused at the boundary where they cannot be."""

import math
from collections.abc import Mapping
from typing import Any

LARGEST = 2**31  # sizes are below it


def int_of(of: Mapping, name: str, source: str, *, least: int = 1, default: Any = None) -> int:
    """A whole number in [least, 2³¹)."""
    value = of.get(name, default)
    if type(value) is not int or not least <= value < LARGEST:
        raise ValueError(f"{source}: {name} must be in [{least}, 2³¹); got {value!r}")
    return value


def fraction_of(of: Mapping, name: str, source: str, *, default: float) -> float:
    """A number in [0, 1), such as dropout or ε."""
    value = of.get(name, default)
    if type(value) not in (int, float) or not (0 <= value < 1 and math.isfinite(value)):
        raise ValueError(f"{source}: {name} must be in [0, 1); got {value!r}")
    return float(value)


def check_texts(value: Any, name: str, source: str) -> dict[str, str]:
    """An object whose values are texts."""
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise ValueError(f"{source}: {name} must be an object of texts; got {value!r}")
    return value


def check_depth(depth: int, tensors: int, source: str) -> None:
    """A layer has 16 tensors: says so before a model of absurd depth is traced."""
    if 16 * depth > tensors:
        raise ValueError(f"{source}: {depth} layers with only {tensors} tensors")

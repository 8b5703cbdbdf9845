# SPDX-License-Identifier: Apache-2.0
"""Checks annotations that are arrays, with their dtypes and shapes; pyright checks the others."""

from collections.abc import Callable
from functools import reduce
from operator import or_
from types import UnionType
from typing import Any, Union, get_args, get_origin

import jax
import numpy as np
from beartype import beartype
from jaxtyping import AbstractArray

EITHER = jax.Array | np.ndarray  # jax takes numpy's arrays wherever it takes its own


def array_part(annotation: Any) -> Any:
    """The annotation where it is an array, of jax or numpy, or a union with one; else None."""
    if isinstance(annotation, type) and issubclass(annotation, AbstractArray):
        kind = EITHER if annotation.array_type is jax.Array else annotation.array_type
        return annotation.dtype[kind, annotation.dim_str]
    parts = get_args(annotation)
    if get_origin(annotation) in (Union, UnionType) and any(map(array_part, parts)):
        return reduce(or_, (array_part(part) or part for part in parts))
    return annotation if any(map(array_part, parts)) else None


def check_arrays(function: Callable) -> Callable:
    """`beartype` for the arrays alone: what a test passes wrongly on purpose is refused by us."""
    found = {name: array_part(one) for name, one in function.__annotations__.items()}
    function.__annotations__ = {name: one for name, one in found.items() if one is not None}
    return beartype(function) if function.__annotations__ else function

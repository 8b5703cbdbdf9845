# SPDX-License-Identifier: Apache-2.0
"""One table of names for each family of files; strict in both directions."""

import math
from typing import NamedTuple

import numpy as np
from flax import traverse_util

from bort_jax.interop.checkpoint import Checkpoint
from bort_jax.model import flat_shapes


class Layout(NamedTuple):
    """The names that a family of files has for our parameters.

    Tensors are in torch's order, [out, in], which is GluonNLP's too.

    Attributes:
      title: what error messages call it.
      names: our module or parameter to theirs; `{n}` is the number of a layer.
      leaves: our last name to theirs, where the table names a module; `norm.bias` for the bias
        of a LayerNorm, where that has a name of its own.
      copies: tensors of theirs that may be there and must equal another.
      aside: beginnings of names of theirs that our model has no place for, and what they are.
    """

    title: str
    names: dict[str, str]
    leaves: dict[str, str] = {"kernel": "weight", "scale": "weight", "bias": "bias"}
    copies: dict[str, str] = {}
    aside: dict[str, str] = {}

    def full_names(self, shapes: dict[str, tuple[int, ...]]) -> dict[str, str]:
        """Our full parameter names to theirs."""
        return {name: self._theirs(name) for name in shapes}

    def _theirs(self, name: str) -> str:
        if not name.startswith("encoder.layer_"):
            return self._look_up(name)
        n, _, rest = name.removeprefix("encoder.layer_").partition(".")
        return self._look_up(f"encoder.layer_{{n}}.{rest}").format(n=n)

    def _look_up(self, name: str) -> str:
        if name in self.names:
            return self.names[name]
        module, _, last = name.rpartition(".")
        leaf = self.leaves[last]
        if module.endswith("norm"):
            leaf = self.leaves.get(f"norm.{last}", leaf)
        return f"{self.names[module]}.{leaf}"


def to_tensors(checkpoint: Checkpoint, layout: Layout) -> dict[str, np.ndarray]:
    """Parameters under the names of `layout`, in torch's order, contiguous."""
    ours = traverse_util.flatten_dict(checkpoint.params, sep=".")
    names = layout.full_names(flat_shapes(checkpoint.model))
    return {
        theirs: np.ascontiguousarray(_to_torch(name, np.asarray(ours[name], np.float32)))
        for name, theirs in names.items()
    }


def from_tensors(tensors: dict[str, np.ndarray], like: Checkpoint, layout: Layout, *, source: str):
    """The parameter tree of `like`, and a note for each thing that was left aside.

    Raises:
      ValueError: a tensor is missing, has no place, has another shape, or is a copy that
        differs from what it should equal; all missing and all placeless ones are named.
    """
    shapes = flat_shapes(like.model)
    names = layout.full_names(shapes)
    tensors = _name_originals(tensors, layout)
    aside = {name for name in tensors if name.startswith(tuple(layout.aside))}
    missing = set(names.values()) - tensors.keys()
    extra = tensors.keys() - set(names.values()) - layout.copies.keys() - aside
    if extra or missing:
        raise ValueError(
            f"{source} does not fit {layout.title} {like.config.arch}: "
            f"only in the file: {sorted(extra) or 'nothing'}; "
            f"only in the model: {sorted(missing) or 'nothing'}"
        )
    _check_copies(tensors, layout, source)
    flat = {}
    for name, theirs in names.items():
        expected, got = _torch_shape(name, shapes[name]), tensors[theirs].shape
        if got != expected:
            raise ValueError(f"{source}: {theirs} has shape {got}, expected {expected}")
        if tensors[theirs].dtype.kind != "f":
            raise ValueError(f"{source}: {theirs} holds {tensors[theirs].dtype}, expected floats")
        flat[name] = _from_torch(name, tensors[theirs], shapes[name])
    wide = sorted(t for t in names.values() if tensors[t].dtype == np.float64)
    notes = [f"digits beyond float32 of {', '.join(wide)}"] * bool(wide)
    notes += [
        f"{what}: {', '.join(here)}"
        for start, what in layout.aside.items()
        if (here := sorted(name for name in aside if name.startswith(start)))
    ]
    return traverse_util.unflatten_dict(flat, sep="."), tuple(notes)


def _name_originals(tensors: dict[str, np.ndarray], layout: Layout) -> dict[str, np.ndarray]:
    """With a shared tensor under its own name too, where only its copy was written."""
    copied = {
        original: tensors[copy]
        for copy, original in layout.copies.items()
        if copy in tensors and original not in tensors
    }
    return tensors | copied


def _check_copies(tensors, layout: Layout, source: str) -> None:
    for copy, original in layout.copies.items():
        if copy in tensors and not np.array_equal(tensors[copy], tensors[original]):
            raise ValueError(
                f"{source}: {copy} differs from {original}; only models that share them are known"
            )


def _to_torch(name: str, array: np.ndarray) -> np.ndarray:
    """[h, a, k] or [a, k, h] to [out, in]; a bias [a, k] to [out]."""
    shape = _torch_shape(name, array.shape)
    return array.reshape(shape[::-1]).T if name.endswith(".kernel") else array.reshape(shape)


def _torch_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    if name.endswith(".kernel"):
        inner = 2 if name.endswith("out.kernel") else 1
        return math.prod(shape[inner:]), math.prod(shape[:inner])
    return (math.prod(shape),) if name.endswith(".bias") else shape


def _from_torch(name: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    array = (array.T if name.endswith(".kernel") else array).reshape(shape)
    return np.ascontiguousarray(array, dtype=np.float32)

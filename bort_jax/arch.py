# SPDX-License-Identifier: Apache-2.0
"""Architectures and search spaces: the one place that knows the order <D, A, H, I>."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

PATTERN = re.compile(r"D(\d+)-A(\d+)-H(\d+)-I(\d+)")
LAYERWISE = re.compile(r"H(\d+)-K(\d+)\[((?:(?:skip|A\d+-I\d+) ?)+)\]")
LARGEST = 1 << 16  # of every field: counts of what is larger would not fit into 64 bits


class Arch(NamedTuple):
    """Architectural parameters ξ of a BERT (arXiv 2010.10499, section 3).

    To a model an `Arch` is static: it fixes shapes. To a cost function it is data: a
    row of four integers in the order of the fields.

    Attributes:
      depth: number of encoder layers, D.
      heads: attention heads in a layer, A; must divide `hidden`.
      hidden: width of the residual stream, H.
      intermediate: width of the feed-forward layer, I.
    """

    depth: int
    heads: int
    hidden: int
    intermediate: int

    def __str__(self) -> str:
        return "D{}-A{}-H{}-I{}".format(*self)

    @classmethod
    def parse(cls, text: str) -> "Arch":
        """Reads `D4-A8-H1024-I768`, or a name from `NAMED` such as `bert-base`.

        Raises:
          ValueError: the text is neither, or the tuple is not valid.
        """
        if text in NAMED:
            return NAMED[text]
        match = PATTERN.fullmatch(text)
        if not match:
            raise ValueError(
                f"expected an architecture such as D4-A8-H1024-I768 or one of "
                f"{', '.join(NAMED)}; got {text!r}"
            )
        return cls(*map(int, match.groups())).validate()

    @property
    def head_size(self) -> int:
        return self.hidden // self.heads

    def sizes(self) -> tuple[tuple[int, int], ...]:
        """(heads, intermediate) of each layer, from the first to the last."""
        return ((self.heads, self.intermediate),) * self.depth

    @property
    def is_valid(self) -> bool:
        return min(self) >= 1 and max(self) <= LARGEST and self.hidden % self.heads == 0

    def validate(self) -> "Arch":
        """Returns the same tuple, or raises ValueError if it is not valid."""
        if min(self) < 1 or max(self) > LARGEST:
            raise ValueError(f"{self}: every field must lie between 1 and {LARGEST:,}")
        if self.hidden % self.heads:
            raise ValueError(
                f"{self}: heads must divide hidden; {self.hidden} is not a multiple "
                f"of {self.heads}, the nearest that divide it are "
                f"{_nearest_divisors(self.hidden, self.heads)}"
            )
        return self


def _nearest_divisors(number: int, wanted: int) -> str:
    small = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    divisors = {*small, *(number // d for d in small)}
    return " and ".join(map(str, sorted(sorted(divisors, key=lambda d: abs(d - wanted))[:2])))


class LayerwiseArch(NamedTuple):
    """An encoder in which every layer has its own heads and intermediate size, or is skipped.

    Stock BERT classes cannot express it. Our reading of the layers that the dynamic program of
    arXiv 2010.08512 chooses; the published space is uniform.

    Attributes:
      hidden: H, the same in all layers.
      head_size: width of a head; A·head_size may be less than H.
      layers: (heads, intermediate) of each layer; (0, 0) where the layer is skipped.
    """

    hidden: int
    head_size: int
    layers: tuple[tuple[int, int], ...]

    def __str__(self) -> str:
        spelled = [f"A{heads}-I{wide}" if heads or wide else "skip" for heads, wide in self.layers]
        return f"H{self.hidden}-K{self.head_size}[{' '.join(spelled)}]"

    @property
    def depth(self) -> int:
        """Layers that are not skipped."""
        return len(self.sizes())

    def sizes(self) -> tuple[tuple[int, int], ...]:
        """(heads, intermediate) of each layer that is not skipped, from the first to the last."""
        return tuple(layer for layer in self.layers if layer != (0, 0))

    @classmethod
    def parse(cls, text: str) -> "LayerwiseArch":
        """Reads what `str` writes, such as `H64-K16[A4-I128 skip A2-I64]`.

        Raises:
          ValueError: the text is no such architecture, or not a valid one.
        """
        match = LAYERWISE.fullmatch(text)
        if not match:
            raise ValueError(
                f"expected an architecture such as H64-K16[A4-I128 skip A2-I64]; got {text!r}"
            )
        layers = tuple(
            (0, 0) if layer == "skip" else _layer_sizes(layer) for layer in match[3].split()
        )
        return cls(int(match[1]), int(match[2]), layers).validate()

    def validate(self) -> "LayerwiseArch":
        """Returns the same tuple, or raises ValueError if it is not valid."""
        if min(self.hidden, self.head_size, *map(min, self.sizes())) < 1:
            raise ValueError(f"{self}: every size must be at least 1; a layer is whole or skipped")
        return self


def _layer_sizes(text: str) -> tuple[int, int]:
    heads, intermediate = text[1:].split("-I")
    return int(heads), int(intermediate)


BORT = Arch(depth=4, heads=8, hidden=1024, intermediate=768)
BORT_SMALL = Arch(depth=2, heads=16, hidden=1024, intermediate=512)
BERT_BASE = Arch(depth=12, heads=12, hidden=768, intermediate=3072)
BERT_LARGE = Arch(depth=24, heads=16, hidden=1024, intermediate=4096)
NAMED = {
    "bort": BORT,
    "bort-small": BORT_SMALL,
    "bert-base": BERT_BASE,
    "bert-large": BERT_LARGE,
}


@dataclass(frozen=True)
class SearchSpace:
    """A finite grid Ξ of architectures, and the two sizes that all of them share.

    Attributes:
      depth, heads, hidden, intermediate: the choices along each axis.
      vocab_size: tokens in the vocabulary, a constant of the cost polynomials.
      positions: learned positions, the longest sequence a member can read.
    """

    depth: tuple[int, ...]
    heads: tuple[int, ...]
    hidden: tuple[int, ...]
    intermediate: tuple[int, ...]
    vocab_size: int = 50265
    positions: int = 512

    @classmethod
    def published(cls) -> "SearchSpace":
        """The 300 valid tuples of arXiv 2010.10499, with RoBERTa's vocabulary."""
        return cls(
            depth=(2, 4, 6, 8, 10, 12),
            heads=(4, 8, 12, 16),
            hidden=(512, 768, 1024),
            intermediate=(256, 512, 768, 1024, 3072),
        )

    @classmethod
    def of(cls, arch: Arch, *, vocab_size: int = 50265, positions: int = 512) -> "SearchSpace":
        """The space whose only member is `arch`."""
        return cls(
            depth=(arch.validate().depth,),
            heads=(arch.heads,),
            hidden=(arch.hidden,),
            intermediate=(arch.intermediate,),
            vocab_size=vocab_size,
            positions=positions,
        )

    def archs(self) -> list[Arch]:
        """Every valid tuple, in lexical order.

        Raises:
          ValueError: no tuple of the grid is valid.
        """
        grid = product(self.depth, self.heads, self.hidden, self.intermediate)
        valid = [arch for arch in map(Arch._make, grid) if arch.is_valid]
        if not valid:
            raise ValueError(
                f"the search space is empty: heads {self.heads} divide none of hidden "
                f"{self.hidden}, or an axis has no positive choice"
            )
        return valid


def as_rows(archs: Iterable[Arch]) -> Int[np.ndarray, "n 4"]:
    """The array a cost function takes: one row <D, A, H, I> for each architecture."""
    return np.array(list(archs), dtype=np.int64).reshape(-1, len(Arch._fields))

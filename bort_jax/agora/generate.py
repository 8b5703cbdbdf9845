# SPDX-License-Identifier: Apache-2.0
"""τ: new points near given ones. For text: mask a share of the tokens, resample them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int


@dataclass(frozen=True)
class Tau:
    """Settings of τ for text.

    Attributes:
      copies: new points for each mistake.
      share: share of the ordinary tokens that are resampled: the distance to the parent.
      passes: the share is resampled in this many passes, each seeing the
        last one's result, so that neighbouring new tokens agree.
      seed: of the positions and the draws.
    """

    copies: int = 2
    share: float = 0.2
    passes: int = 2
    seed: int = 0


def mlm_tau(
    tau: Tau,
    *,
    resample_fn: Callable,
    special: tuple[int, ...],
    forbidden: Int[np.ndarray, "d s"],
) -> Callable[[Int[np.ndarray, "n s"], int], Int[np.ndarray, "m s"]]:
    """Builds `generate_fn(points, round)`, τ by a masked LM.

    Args:
      tau: settings.
      resample_fn: (x, positions, seed) to tokens, never the token that stands there.
      special: ids that are not text; their positions are kept.
      forbidden: rows that must not be generated: all of dev and test.

    Returns:
      a function whose rows differ from their parents in at least one token, from each
      other and from every forbidden row.

    Raises:
      ValueError: share is outside (0, 1].
    """
    if not 0 < tau.share <= 1:
        raise ValueError(f"τ's share must lie in (0, 1]; got {tau.share}")
    taken = {row.tobytes() for row in np.ascontiguousarray(forbidden, np.int32)}

    def generate(points: Int[np.ndarray, "n s"], number: int) -> Int[np.ndarray, "m s"]:
        x = np.repeat(np.asarray(points, np.int32), tau.copies, axis=0)
        rng = np.random.default_rng((tau.seed, number))
        for one_pass in range(tau.passes):
            positions = _positions(x, special, share=tau.share / tau.passes, rng=rng)
            tokens = resample_fn(x, positions, int(rng.integers(2**31)))
            # A row without ordinary tokens has nothing to resample: it stays, and is dropped.
            old = np.take_along_axis(x, positions, axis=1)
            tokens = np.where(np.isin(old, special), old, tokens).astype(np.int32)
            np.put_along_axis(x, positions, tokens, axis=1)
        parents = {row.tobytes() for row in np.ascontiguousarray(points, np.int32)}
        return _fresh(x, taken | parents)

    return generate


def _positions(x, special, *, share: float, rng) -> Int[np.ndarray, "n m"]:
    """For each row a share of its ordinary positions, one at least; the first fills up."""
    ordinary = ~np.isin(x, special)
    wanted = np.maximum(1, np.round(share * ordinary.sum(axis=1)).astype(int))
    order = np.argsort(np.where(ordinary, rng.random(x.shape), 2.0), axis=1)
    order = order[:, : max(1, round(share * x.shape[1]))]
    chosen = np.arange(order.shape[1]) < np.minimum(wanted, ordinary.sum(axis=1))[:, None]
    return np.where(chosen, order, order[:, :1])


def _fresh(x: Int[np.ndarray, "n s"], taken: set[bytes]) -> Int[np.ndarray, "m s"]:
    """The rows that are not taken, each once."""
    unique: dict[bytes, int] = {}
    for index, row in enumerate(x):
        key = row.tobytes()
        if key not in taken:
            unique.setdefault(key, index)
    return x[sorted(unique.values())]

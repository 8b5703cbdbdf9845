# SPDX-License-Identifier: Apache-2.0
"""τ *retrieve*: real texts of a pool near mistakes, those that the student doubts most.

"Similar, but neither too similar nor too distinct" (arXiv 2010.07990) is a window of cosine
distance, as in MiniMax-kNN (arXiv 2105.13608). That the smallest margin of the best copy picks
among the candidates is *our reading*: it costs no call of Socrates.
"""

from collections import Counter
from collections.abc import Callable, Collection, Hashable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from bort_jax.agora.generate import QUANTILES, KeysFn, ProposalFilter, Window
from bort_jax.agora.records import AgoraState, Generated, Mistakes, Origin

BREADTH = 4  # candidates for each text that is picked
ROUNDS = 3  # over which a budget is spread, at the most


class Candidates(NamedTuple):
    """Pool texts near parents, each near one of them.

    Attributes:
      rows: of the pool.
      parents: which of the mistakes each is near.
      distances: from it.
    """

    rows: Int[np.ndarray, " m"]
    parents: Int[np.ndarray, " m"]
    distances: Float[np.ndarray, " m"]

    def take(self, which) -> "Candidates":
        return Candidates(*(values[which] for values in self))


class Retrieval(NamedTuple):
    """τ *retrieve*.

    Attributes:
      search_fn: (rows of dev [q], k, pool rows that are used) to the nearest k pool rows of each
        inside the window and their distances, both [q, k], nearest first; row −1 where there are
        no more.
      read_fn: pool rows to points.
      doubt_fn: (model, points) to the margin between its two likeliest classes.
      samples_per_error: texts wanted near each mistake, where no budget says how many in all.
      name: for lineage, with the settings.
    """

    search_fn: Callable[[np.ndarray, int, Collection[int]], tuple[np.ndarray, np.ndarray]]
    read_fn: Callable[[Int[np.ndarray, " m"]], np.ndarray]
    doubt_fn: Callable[[object, np.ndarray], Float[np.ndarray, " m"]]
    samples_per_error: int
    name: str = "retrieve"


def retriever(
    retrieval: Retrieval,
    *,
    keys_fn: KeysFn,
    forbidden: Collection[Hashable] = frozenset(),
    otherwise: Callable[[Mistakes, np.random.Generator], Generated] | None = None,
) -> Callable[[Mistakes, np.random.Generator], Generated]:
    """Builds `generate_fn`.

    A pool text is retrieved once in a run, and never where its key is forbidden or in train.

    Args:
      keys_fn: points to what makes two of them the same.
      forbidden: keys of what is held out: all of dev and test.
      otherwise: another `generate_fn`, for what the pool cannot give.
    """

    def generate(mistakes: Mistakes, rng: np.random.Generator) -> Generated:
        wanted = mistakes.most
        if wanted is None:
            wanted = retrieval.samples_per_error * len(mistakes.rows)
        found, refused = find_candidates(mistakes, wanted, retrieval)
        x = retrieval.read_fn(found.rows)
        accept = ProposalFilter(Window(), keys_fn, set(keys_fn(mistakes.known)), forbidden)
        # No text is its own parent's: dev is forbidden.
        passed = accept(x, mistakes.x[found.parents], found.distances)
        x, found = x[passed], found.take(passed)
        doubt = found.distances
        if mistakes.model is not None and len(x):
            doubt = retrieval.doubt_fn(mistakes.model, x)
        picked = pick(found.parents, doubt, wanted, rng.permutation(len(mistakes.rows)))
        made = retrieved(x[picked], found.take(picked), mistakes, retrieval.name)
        made = made._replace(refused=dict(accept.refused + refused), distances=quantiles(found))
        return fill(made, mistakes, wanted, otherwise, rng)

    return generate


def find_candidates(
    mistakes: Mistakes, wanted: int, retrieval: Retrieval
) -> tuple[Candidates, Counter[str]]:
    """The nearest unused pool texts of each mistake inside the window, each once: near the nearest
    mistake. More of them where many mistakes are near the same texts."""
    each = BREADTH * -(-wanted // len(mistakes.rows))
    while True:
        rows, distances = retrieval.search_fn(mistakes.rows, each, mistakes.used)
        real = rows >= 0
        found = each_once(rows, distances)
        if len(found.rows) >= wanted or not real[:, -1].any():
            empty = int((~real.any(axis=1)).sum())
            return found, Counter({"no pool text in the window": empty} if empty else {})
        each *= 2


def each_once(rows: Int[np.ndarray, "q k"], distances: Float[np.ndarray, "q k"]) -> Candidates:
    """Every row that was found, near the parent that it is nearest to; nearest rows first."""
    real = rows >= 0
    every = Candidates(rows[real], np.nonzero(real)[0], distances[real])
    every = every.take(np.lexsort((every.parents, every.distances)))
    return every.take(np.sort(np.unique(every.rows, return_index=True)[1]))


def pick(
    parents: Int[np.ndarray, " m"],
    doubt: Float[np.ndarray, " m"],
    wanted: int,
    turns: Int[np.ndarray, " q"],
) -> Int[np.ndarray, " k"]:
    """The most doubted candidates: parents take turns, each with its next one, until all have had
    as many or there are no more.

    Args:
      parents: of each candidate.
      turns: parents in the order in which they take their turn.
    """
    order = np.argsort(doubt, kind="stable")
    seen, turn = Counter(), np.zeros(len(order), int)
    for k in order:
        turn[k] = seen[parents[k]]
        seen[parents[k]] += 1
    place = np.argsort(turns)[parents]
    return np.sort(np.lexsort((place, turn))[:wanted])


def retrieved(x: np.ndarray, found: Candidates, mistakes: Mistakes, name: str) -> Generated:
    unasked = np.full(len(x), np.nan)
    parents, taus = mistakes.rows[found.parents], (name,) * len(x)
    return Generated(x, Origin(parents, taus, found.distances, unasked, found.rows))


def fill(
    made: Generated, mistakes: Mistakes, wanted: int, otherwise: Callable | None,
    rng: np.random.Generator,
) -> Generated:  # fmt: skip
    """What the pool could not give is made by other τ, near the parents that got least."""
    missing = wanted - len(made.x)
    if not missing or otherwise is None:
        return made
    got = Counter(made.origin.parents.tolist())
    fewest = min(got[row] for row in mistakes.rows)
    short = np.array([got[row] == fewest for row in mistakes.rows])
    known = np.concatenate([mistakes.known, made.x])
    rest = mistakes._replace(
        x=mistakes.x[short], rows=mistakes.rows[short], known=known, most=missing
    )
    return made.append(otherwise(rest, rng))


def quantiles(found: Candidates) -> tuple[float, ...]:
    return tuple(map(float, np.quantile(found.distances, QUANTILES))) if len(found.rows) else ()


def spread_budget(calls: int, *, rounds: int = ROUNDS) -> Callable[[AgoraState], int]:
    """Builds `allowance_fn`: in each round an equal part of what is left of the budget, all of it
    in the last one (our reading: the paper knows no budget).

    Args:
      calls: points that Socrates may be asked about in the whole run.
      rounds: how many are expected; fewer where fewer sets are left.

    Raises:
      ValueError: `calls` is below 1.
    """
    if calls < 1:
        raise ValueError(f"calls must be at least 1; got {calls}")

    def allowance(state: AgoraState) -> int:
        left = max(0, calls - state.asked)
        return -(-left // max(1, min(rounds - len(state.rounds), len(state.thetas))))

    return allowance

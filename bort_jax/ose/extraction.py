# SPDX-License-Identifier: Apache-2.0
"""Extraction: search Ξ, measure e, keep the largest W, and say how far from the optimum it is."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from bort_jax.ose.budget import Budget
from bort_jax.ose.candidates import ASSUMPTIONS, Candidates
from bort_jax.ose.objective import break_even, on_pareto_front, w_coefficient
from bort_jax.ose.search import SEARCHES, Progress, upper_bounds

ErrorFn = Callable[[Sequence[Any]], Sequence[float]]
TRAINED = "trained"
WORST = 5  # broken assumptions that a certificate lists


@dataclass(frozen=True)
class Certificate:
    """The guarantee about the winner, and exactly what it rests on.

    Attributes:
      search: name of the search.
      epsilon: the ε that was asked for.
      assumption: the sentence that the bound needs.
      bound: no member of Ξ within the budget has a larger W if the assumption holds up to ρ;
        ∞ where too little was measured to say.
      ratio: W(best)/bound.
      pairs: measured pairs that the assumption speaks of.
      violations: of these, the pairs that break it.
      rho: the largest e(larger)/e(smaller) among them, 1 if none; the bound allows for it.
      worst: the pairs that break it most: smaller, larger, ratio of their errors.
      trained: members that were measured; failed: trainings that gave NaN; members: of Ξ.
      evidence: how the errors were had; "trained", or what they were predicted from.
    """

    search: str
    epsilon: float
    assumption: str
    bound: float
    ratio: float
    pairs: int
    violations: int
    rho: float
    worst: tuple[tuple[str, str, float], ...]
    trained: int
    failed: int
    members: int
    evidence: str = TRAINED


@dataclass(frozen=True)
class Extraction:
    """The outcome; arrays are [n], in the order of `candidates`: falling g.

    Attributes:
      candidates: all of Ξ with its costs.
      asked: handed to the error function.
      errors: e, NaN where not trained or where training failed.
      seconds: spent on each, 0 where not trained.
      w: W, NaN where e is.
      upper: the largest W possible under the assumption of the search: W itself where measured.
      front: on the Pareto front of (p, i, e) among the trained.
      break_even: e(best)/e(ξ) below which `best` beats ξ.
      best, runner_up: indices of the largest two W within the budget; the second may be None.
      budget: the limits that `best` meets.
    """

    candidates: Candidates
    asked: Bool[np.ndarray, " n"]
    errors: Float[np.ndarray, " n"]
    seconds: Float[np.ndarray, " n"]
    w: Float[np.ndarray, " n"]
    upper: Float[np.ndarray, " n"]
    front: Bool[np.ndarray, " n"]
    break_even: Float[np.ndarray, " n"]
    best: int
    runner_up: int | None
    budget: Budget
    certificate: Certificate

    @property
    def archs(self) -> list[Any]:
        return self.candidates.archs

    @property
    def params(self) -> np.ndarray:
        return self.candidates.params

    @property
    def inference_cost(self) -> np.ndarray:
        """i, in the unit of the cost that was chosen for it."""
        return self.candidates.inference_cost

    @property
    def best_arch(self) -> Any:
        return self.archs[self.best]

    @property
    def maximum_point(self) -> Any:
        return self.archs[self.candidates.maximum_point]

    @property
    def trained_rows(self) -> Int[np.ndarray, " t"]:
        """Indices of the architectures whose error was measured."""
        return np.flatnonzero(~np.isnan(self.errors))

    @property
    def spread(self) -> tuple[float, float]:
        """Largest over smallest e, and largest over smallest g, of the trained with g > 0.

        Where the first is small beside the second, W follows p and i and picks a small network.
        """
        trained = self.trained_rows[self.candidates.savings[self.trained_rows] > 0]
        if not len(trained):
            return 1.0, 1.0
        errors, savings = self.errors[trained], self.candidates.savings[trained]
        return float(errors.max() / errors.min()), float(savings.max() / savings.min())

    @property
    def costs_decided(self) -> bool:
        """Whether the winner would be the same with one error for all: p and i decided alone."""
        columns = {**self.candidates.columns, "error": self.errors}
        allowed = self.trained_rows[self.budget.allows(columns)[self.trained_rows]]
        savings = self.candidates.savings
        return len(allowed) > 1 and savings[self.best] >= savings[allowed].max()


def extract(
    space,
    *,
    cost_fn: Callable,
    error_fn: ErrorFn,
    epsilon: float = 0.25,
    search: str = "interval",
    budget: Budget | None = None,
    inference: str = "macs",
) -> Extraction:
    """Finds the architecture of nearly largest W with few trainings (arXiv 2010.08512, 4).

    T has the largest p in all of Ξ, whatever the budget, so that W means the same under every
    budget; members that save no parameters or no inference cost have W = 0, and are trained only
    to bound others. Ties in W go to the fewest parameters, then to the least i, then to the
    smallest tuple. See `bort_jax.ose.search` for the searches and what each assumes.

    Args:
      space: Ξ: has `archs()`, a list of tuples of integers.
      cost_fn: int[n, k] to named columns [n] (a mapping or a NamedTuple), at least `params`.
      error_fn: a list of architectures to their errors e > 0. NaN: that training failed; the
        architecture is left out, and the bound treats it as not trained.
      epsilon: ε in (0, 1); smaller means more trainings.
      search: `interval`, `bounded` or `exhaustive`.
      budget: limits on the columns and on `error`. Only architectures within the limits known
        beforehand are trained.
      inference: the column that is i.

    Raises:
      ValueError: ε is outside (0, 1), Ξ is empty, an unknown search, column or limit, an
        error that is zero, negative or infinite (W divides by e), or every training failed.
      Infeasible: no architecture meets the budget; names the nearest, and which limit binds.
    """
    _check(epsilon, search)
    candidates = Candidates.of(list(space.archs()), cost_fn, inference=inference)
    budget = budget or Budget()
    progress = start(candidates, budget, epsilon=epsilon)
    seconds = np.zeros(len(candidates.archs))
    while len(chosen := SEARCHES[search].rule(progress)):
        begun = time.monotonic()
        progress.asked[chosen] = True
        progress.errors[chosen] = _measure(error_fn, [candidates.archs[k] for k in chosen])
        seconds[chosen] = (time.monotonic() - begun) / len(chosen)
    return conclude(progress, seconds, search=search, budget=budget)


def resolve(
    extraction: Extraction, *, budget: Budget | None = None, epsilon: float | None = None
) -> Extraction:
    """The answer under another budget, from what was measured: nothing is trained.

    Equal to a fresh extraction that measures the same architectures. The bound covers what
    was not trained too, under the assumption of the search.

    Raises:
      ValueError, Infeasible: as `extract`.
    """
    certificate, budget = extraction.certificate, budget or Budget()
    progress = start(extraction.candidates, budget, epsilon=epsilon or certificate.epsilon)
    progress = progress._replace(asked=extraction.asked, errors=extraction.errors)
    found = conclude(progress, extraction.seconds, search=certificate.search, budget=budget)
    return with_evidence(found, certificate.evidence)


def with_evidence(extraction: Extraction, evidence: str) -> Extraction:
    """The same extraction, its certificate saying how the errors were had."""
    certificate = replace(extraction.certificate, evidence=evidence)
    return replace(extraction, certificate=certificate)


def plan(
    space,
    *,
    cost_fn: Callable,
    epsilon: float,
    search: str = "interval",
    budget: Budget | None = None,
    inference: str = "macs",
) -> list[Any]:
    """The architectures that `extract` would train first, in its order: all of them, save for
    `bounded`, which decides as it goes, and where a training fails."""
    _check(epsilon, search)
    candidates = Candidates.of(list(space.archs()), cost_fn, inference=inference)
    progress = start(candidates, budget or Budget(), epsilon=epsilon)
    return [candidates.archs[k] for k in SEARCHES[search].rule(progress)]


def start(candidates: Candidates, budget: Budget, *, epsilon: float) -> Progress:
    """Nothing asked yet; raises `Infeasible` if the costs alone already rule everything out."""
    n = len(candidates.archs)
    unmeasured = np.full(n, np.nan)
    budget.check([*candidates.columns, "error"])
    columns = {**candidates.columns, "error": unmeasured}
    eligible = budget.allows(columns)
    if not eligible.any():
        raise budget.infeasible(candidates.archs, columns)
    return Progress(
        candidates=candidates,
        eligible=eligible,
        asked=np.zeros(n, dtype=bool),
        errors=unmeasured.copy(),
        max_error=budget.ceilings.get("error", np.inf),
        epsilon=epsilon,
    )


def conclude(progress: Progress, seconds, *, search: str, budget: Budget) -> Extraction:
    """The extraction that follows from what was measured.

    Raises:
      Infeasible: the errors rule out all that the costs allow.
      ValueError: every training failed.
    """
    candidates, errors = progress.candidates, progress.errors
    w = w_coefficient(candidates.params, candidates.inference_cost, errors)
    best, runner_up = _best_two(progress, w, budget)
    objectives = np.stack([candidates.params, candidates.inference_cost, errors], axis=1)
    return Extraction(
        candidates=candidates,
        asked=progress.asked,
        errors=errors,
        seconds=seconds,
        w=w,
        upper=upper_bounds(progress, SEARCHES[search].relation),
        front=on_pareto_front(objectives),
        break_even=break_even(candidates.savings, best),
        best=best,
        runner_up=runner_up,
        budget=budget,
        certificate=_certify(progress, float(np.nan_to_num(w[best])), search=search),
    )


def _best_two(progress: Progress, w, budget: Budget) -> tuple[int, int | None]:
    candidates = progress.candidates
    columns = {**candidates.columns, "error": progress.errors}
    measured = np.flatnonzero(~np.isnan(w))
    allowed = measured[budget.allows(columns)[measured]]
    if len(allowed):
        order = np.lexsort(
            (allowed, candidates.inference_cost[allowed], candidates.params[allowed], -w[allowed])
        )
        ranked = allowed[order]
        return int(ranked[0]), int(ranked[1]) if len(ranked) > 1 else None
    if len(measured):
        raise budget.infeasible(
            [candidates.archs[k] for k in measured], {n: c[measured] for n, c in columns.items()}
        )
    if progress.asked.any():
        raise ValueError("every training failed: no error is a number")
    # Where nothing saves anything every W is 0, and the answer is T, or the largest allowed.
    return int(np.flatnonzero(progress.eligible)[-1]), None


def _certify(progress: Progress, best_w: float, *, search: str) -> Certificate:
    relation = SEARCHES[search].relation
    broken, pairs = _violations(progress, relation)
    rho = max([ratio for *_, ratio in broken], default=1.0)
    upper = upper_bounds(progress, relation)
    bound = float(np.max(rho * upper, where=np.isnan(progress.errors), initial=best_w))
    archs = progress.candidates.archs
    return Certificate(
        search=search,
        epsilon=progress.epsilon,
        assumption=ASSUMPTIONS[relation],
        bound=bound,
        ratio=best_w / bound if bound > 0 else 1.0,
        pairs=pairs,
        violations=len(broken),
        rho=rho,
        worst=tuple((str(archs[s]), str(archs[k]), ratio) for s, k, ratio in broken[:WORST]),
        trained=int((~np.isnan(progress.errors)).sum()),
        failed=int((progress.asked & np.isnan(progress.errors)).sum()),
        members=len(archs),
    )


def _violations(progress: Progress, relation) -> tuple[list[tuple[int, int, float]], int]:
    """Measured pairs (smaller, larger, e(larger)/e(smaller) > 1), worst first; pairs in all."""
    errors, broken, pairs = progress.errors, [], 0
    measured = np.flatnonzero(~np.isnan(errors))
    for smaller in measured:
        above = progress.candidates.above(int(smaller), relation)[measured] & (measured != smaller)
        pairs += int(above.sum())
        ratios = errors[measured] / errors[smaller]
        broken += [(int(smaller), int(measured[k]), float(ratios[k]))
                   for k in np.flatnonzero(above & (ratios > 1))]  # fmt: skip
    return sorted(broken, key=lambda pair: -pair[2]), pairs


def _measure(error_fn: ErrorFn, archs: list[Any]) -> Float[np.ndarray, " m"]:
    errors = np.asarray(error_fn(archs), dtype=float)
    if errors.shape != (len(archs),):
        raise ValueError(
            f"error_fn must return one number for each of {len(archs)} architectures; "
            f"got shape {list(errors.shape)}"
        )
    for error, arch in zip(errors, archs, strict=True):
        if error <= 0 or np.isinf(error):
            raise ValueError(
                f"an error must be positive and finite, or NaN; got {error} for {arch}"
            )
    return errors


def _check(epsilon: float, search: str) -> None:
    if not 0 < epsilon < 1:
        raise ValueError(f"epsilon must lie in (0, 1); got {epsilon}")
    if search not in SEARCHES:
        raise ValueError(f"search must be one of {', '.join(SEARCHES)}; got {search!r}")

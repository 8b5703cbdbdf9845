# SPDX-License-Identifier: Apache-2.0
"""Layerwise extraction beside its peers: the same instances, the same seconds, one table.

    python tools/bench_extract.py --budget-seconds 2 --instances 6

Instances: BERT layers at H = 1024 with heads of 64, costs exact, errors drawn:

  smooth      decaying in heads and intermediate size, times an importance of the layer
  rough       that, times noise of each option
  random      parameters, multiply-adds and errors of each option at random

Peers, each with one process and the same seconds; what they report later does not count:

  Optuna TPE, NSGA-II  one categorical of all options a layer; W, or (p, i, e) and its best W
  pymoo GA, NSGA-II    one integer a layer; W, or (p, i, e) and its best W
  HiGHS (scipy)        W is not linear, so one MILP after another: log(1 − p) and log(1 − i) by
                       tangents. −log e by its tangent at some e₀, which
                       is below it, so that the MILP at the optimum's own e₀ has the optimum:
                       e₀ climbs from a start until nothing improves, then from the next, over
                       the whole range of e
  Lagrange sweep       arg-min of a·p + b·i + e in each layer, over a grid of (a, b) and then
                       around its best

A gap is 1 − W/bound with the bound that `solve_layerwise` proved. "Compiling" is after a
clearing of JAX's caches. Seconds are those until the best W for peers, and until the end for
ours. No method can have a larger W than the bound; if one does, this program stops with an error.
"""

import argparse
import itertools
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from bort_jax.cost.bert import embedding_params
from bort_jax.ose import LayerChoices, LayerwiseSolution, solve_layerwise
from bort_jax.report.terminal import say, show_table

HIDDEN, HEAD_SIZE, SEQ_LEN, VOCAB_SIZE, POSITIONS = 1024, 64, 128, 30522, 512
HEADS = (0, 2, 4, 8, 12, 16)  # 0: no attention
INTERMEDIATE = (0, 256, 512, 768, 1024, 1536, 2048, 2560, 3072, 4096)  # 0: no feed-forward
OPTIONS = np.array(list(itertools.product(HEADS, INTERMEDIATE)))  # [j, 2]; (0, 0): no layer
SHAPES = {"smooth": 0, "rough": 1, "random": 3}  # and the number that seeds them
ROUNDOFF = 1e-9
HEADER = ("errors", "method", "W", "gap, %", "seconds")


class Instance(NamedTuple):
    name: str
    shape: str
    problem: LayerChoices


class Result(NamedTuple):
    """The W of a method, and the seconds until it was found or the method ended."""

    shape: str
    method: str
    w: float
    gap: float
    seconds: float


# Instances.


def make_instance(shape: str, seed: int, *, layers: int) -> Instance:
    generator = np.random.default_rng([SHAPES[shape], seed])
    params, macs = layer_costs(generator, layers) if shape == "random" else bert_costs(layers)
    errors = layer_errors(generator, shape, layers) / layers
    base = embedding_params(HIDDEN, vocab_size=VOCAB_SIZE, positions=POSITIONS)
    problem = LayerChoices(params, macs, errors, base_params=base, base_error=0.05)
    return Instance(f"{shape} {seed}", shape, problem)


def bert_costs(layers: int):
    """Exact parameters and multiply-adds [l, j]; a part of no size has no LayerNorm either."""
    heads, i = OPTIONS.T
    h, width = HIDDEN, heads * HEAD_SIZE
    params = np.where(width, 4 * h * width + 3 * width + 3 * h, 0)
    params += np.where(i, 2 * h * i + i + 3 * h, 0)
    macs = SEQ_LEN * (4 * h * width + 2 * SEQ_LEN * width + 2 * h * i)
    return np.tile(params, (layers, 1)), np.tile(macs, (layers, 1))


def layer_costs(generator, layers: int):
    return generator.integers(0, 13_000_000, (2, layers, len(OPTIONS)))


def layer_errors(generator, shape: str, layers: int):
    if shape == "random":
        return generator.uniform(0.02, 1, (layers, len(OPTIONS)))
    heads, i = OPTIONS.T / np.array([[max(HEADS)], [max(INTERMEDIATE)]])
    importance = generator.lognormal(0, 0.7, (2, layers, 1))
    rates = generator.uniform(2, 6, (2, layers, 1))
    errors = (importance * np.exp(-rates * np.stack([heads, i])[:, None])).sum(axis=0)
    noise = 0.0 if shape == "smooth" else 0.3
    return errors * np.exp(noise * generator.normal(size=errors.shape))


# The judge: scores choices, and remembers the best one found in time.


class Judge:
    """W of choices in plain numpy, and the best of them before the time is up."""

    def __init__(self, instance: Instance, seconds: float):
        problem = instance.problem
        self.base = np.array([problem.base_params, problem.base_inference_cost, problem.base_error])
        costs = np.stack([problem.params, problem.inference_cost, problem.errors], axis=-1)
        scale = np.append((self.base + costs.max(axis=1).sum(axis=0))[:2], 1.0)
        self.costs, self.base = costs / scale, self.base / scale  # [l, j, 3], [3]
        self.w, self.at, self.seconds = 0.0, 0.0, seconds
        self.start = time.perf_counter()

    @property
    def left(self) -> float:
        return self.seconds - (time.perf_counter() - self.start)

    def __call__(self, choices) -> tuple[np.ndarray, np.ndarray]:
        """(p/P, i/I, e) and W of choices [n, l]."""
        rows = self.costs[np.arange(len(self.costs)), choices]
        totals = self.base + rows.sum(axis=1)
        w = (1 - totals[:, 0]) * (1 - totals[:, 1]) / totals[:, 2]
        if w.max() > self.w and self.left > 0:
            self.w, self.at = float(w.max()), self.seconds - self.left
        return totals, w


# Peers: each calls the judge until the time is up.


def optuna_tpe(judge: Judge, optuna) -> None:
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
    study.optimize(lambda trial: judge(suggested(trial, judge))[1][0], timeout=judge.left)


def optuna_nsga2(judge: Judge, optuna) -> None:
    sampler = optuna.samplers.NSGAIISampler(seed=0)
    study = optuna.create_study(directions=["minimize"] * 3, sampler=sampler)
    study.optimize(lambda trial: judge(suggested(trial, judge))[0][0], timeout=judge.left)


def suggested(trial, judge: Judge) -> np.ndarray:
    layers, options, _ = judge.costs.shape
    return np.array([[trial.suggest_categorical(f"{l}", range(options)) for l in range(layers)]])


def pymoo_ga(judge: Judge, pymoo) -> None:
    algorithm = import_module("pymoo.algorithms.soo.nonconvex.ga").GA
    pymoo_minimise(judge, algorithm, 1, lambda totals, w: -w)


def pymoo_nsga2(judge: Judge, pymoo) -> None:
    algorithm = import_module("pymoo.algorithms.moo.nsga2").NSGA2
    pymoo_minimise(judge, algorithm, 3, lambda totals, w: totals)


def pymoo_minimise(judge: Judge, algorithm, objectives: int, of: Callable) -> None:
    """As pymoo's guide has integers: random integers, SBX, polynomial mutation, rounding."""
    from pymoo.core.problem import Problem
    from pymoo.operators.crossover.sbx import SBX
    from pymoo.operators.mutation.pm import PM
    from pymoo.operators.repair.rounding import RoundingRepair
    from pymoo.operators.sampling.rnd import IntegerRandomSampling
    from pymoo.optimize import minimize

    class Choices(Problem):
        def _evaluate(self, x, out, *args, **kwargs):
            out["F"] = of(*judge(x.astype(int)))

    layers, options, _ = judge.costs.shape
    problem = Choices(n_var=layers, n_obj=objectives, xl=0, xu=options - 1, vtype=int)
    operators: dict[str, Any] = dict(
        sampling=IntegerRandomSampling(),
        crossover=SBX(vtype=float, repair=RoundingRepair()),
        mutation=PM(vtype=float, repair=RoundingRepair()),
    )
    minimize(problem, algorithm(**operators), ("time", judge.left), seed=0)


def highs(judge: Judge, optimize) -> None:
    errors = judge.costs[..., 2]
    low, high = (judge.base[2] + e.sum() for e in (errors.min(axis=1), errors.max(axis=1)))
    tangents = first_tangents()
    for start in itertools.count(1):
        e0, climbs = low * (high / low) ** halton(start), True
        while climbs:
            before = judge.w
            totals = one_milp(judge, optimize, tangents, slope=1 / e0)
            if totals is None:
                return
            tangents.append(totals[:2])
            e0, climbs = totals[2], judge.w > before


def halton(n: int) -> float:
    """1/2, 1/4, 3/4, 1/8, …: the binary digits of n behind the point, back to front."""
    return int(f"{n:b}"[::-1], 2) / 2 ** n.bit_length()


def first_tangents() -> list[np.ndarray]:
    return list(np.repeat(1 - np.geomspace(1e-2, 1, 64)[:, None], 2, axis=1))


def one_milp(judge: Judge, optimize, tangents, *, slope: float):
    """(p, i, e) with the least slope·e − log(1 − p) − log(1 − i).

    None when the time is up.
    """
    left = judge.left  # once: by the call below it may be negative, which scipy refuses
    if left <= 0:
        return None
    layers, options, _ = judge.costs.shape
    n = layers * options  # columns: all options, then p, i, e, log(1 − p), log(1 − i)
    found = optimize.milp(
        np.append(np.zeros(n + 2), [slope, -1, -1]),
        integrality=np.append(np.ones(n), np.zeros(5)),
        bounds=optimize.Bounds(
            np.append(np.zeros(n + 3), [-np.inf, -np.inf]),
            np.append(np.ones(n), [1, 1, np.inf, 0, 0]),
        ),
        constraints=[
            optimize.LinearConstraint(*rows) for rows in milp_rows(judge, np.array(tangents))
        ],
        options={"time_limit": 0.9 * left},
    )
    if found.x is None:
        return None
    return judge(found.x[:n].reshape(1, layers, options).argmax(axis=-1))[0][0]


def milp_rows(judge: Judge, tangents: np.ndarray):
    """(rows, least, largest) of: one option a layer, what p, i and e add up to, the tangents."""
    layers, options, _ = judge.costs.shape
    n = layers * options
    yield np.pad(np.kron(np.eye(layers), np.ones(options)), ((0, 0), (0, 5))), 1, 1
    totals = np.pad(-judge.costs.reshape(n, 3).T, ((0, 0), (0, 5)))
    totals[:, n : n + 3] = np.eye(3)
    yield totals, judge.base, judge.base
    for column in (0, 1):
        at = tangents[:, column]
        rows = np.zeros((len(at), n + 5))
        rows[:, n + column], rows[:, n + 3 + column] = 1 / (1 - at), 1
        yield rows, -np.inf, np.log1p(-at) + at / (1 - at)


def lagrange_sweep(judge: Judge, _) -> None:
    generator = np.random.default_rng(0)
    line = np.geomspace(1e-3, 1e3, 32)
    pairs = np.array(list(itertools.product(line, line)))
    center, before = pairs[0], -1.0
    for width in itertools.cycle((2.0, 1.0, 0.3, 0.1, 0.03)):
        weighed = judge.costs @ np.append(pairs, np.ones((len(pairs), 1)), axis=1).T  # [l, j, n]
        _, w = judge(weighed.argmin(axis=1).T)
        if w.max() > before:
            center, before = pairs[w.argmax()], w.max()
        if judge.left <= 0:
            return
        pairs = center * np.exp(width * generator.normal(size=(256, 2)))


PEERS: dict[str, tuple[str, Callable[[Judge, Any], None]]] = {
    "Optuna TPE": ("optuna", optuna_tpe),
    "Optuna NSGA-II": ("optuna", optuna_nsga2),
    "pymoo GA": ("pymoo", pymoo_ga),
    "pymoo NSGA-II": ("pymoo", pymoo_nsga2),
    "HiGHS (scipy)": ("scipy.optimize", highs),
    "Lagrange sweep": ("numpy", lagrange_sweep),
}


def loaded(name: str):
    """The module; says how to get it where it is missing."""
    try:
        module = import_module(name)
    except ImportError:
        raise SystemExit(f"{name} is missing: pip install 'bort-jax[bench]'") from None
    if name == "optuna":
        module.logging.set_verbosity(module.logging.ERROR)
    return module


# The run.


def run_ours(instance: Instance) -> tuple[LayerwiseSolution, list[Result]]:
    """The solution, and a row for each of compiling first and compiled."""
    results, solution = [], None
    jax.clear_caches()
    for when in ("compiling", "compiled"):
        start = time.perf_counter()
        solution = solve_layerwise([instance.problem])
        seconds = time.perf_counter() - start
        results.append(Result(instance.shape, f"ours, {when}", solution.w, solution.gap, seconds))
    assert solution is not None
    return solution, results


def run_peer(instance: Instance, name: str, bound: float, seconds: float) -> Result:
    needs, peer = PEERS[name]
    module = loaded(needs)
    judge = Judge(instance, seconds)
    peer(judge, module)
    if judge.w > bound * (1 + ROUNDOFF):
        raise SystemExit(f"{instance.name}: {name} has W {judge.w!r} above the bound {bound!r}")
    return Result(instance.shape, name, judge.w, 1 - judge.w / bound, judge.at)


def run(instances: list[Instance], seconds: float) -> list[Result]:
    results = []
    for instance in instances:
        solution, ours = run_ours(instance)
        peers = [run_peer(instance, name, solution.bound, seconds) for name in PEERS]
        say(f"{instance.name}: W {solution.w:.6g}, gap {solution.gap:.2g}")
        results += [*ours, *peers]
    return results


def table(results: list[Result]) -> list[tuple[str, ...]]:
    """Median (smallest to largest) of each method over the instances of each shape."""
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.shape, result.method), []).append(result)
    return [
        (
            *key,
            f"{np.median([r.w for r in rows]):.4g}",
            spread([100 * max(r.gap, 0) for r in rows]),
            spread([r.seconds for r in rows]),
        )
        for key, rows in groups.items()
    ]


def spread(values: list[float]) -> str:
    low, middle, high = (f"{round(x, 3):.3g}" for x in np.percentile(values, [0, 50, 100]))
    return f"{middle} ({low} to {high})"


def claims(results: list[Result]) -> list[tuple[str, str]]:
    """Counts of instances that meet what is asked of the program, once compiled."""

    def of(method: str) -> list[Result]:
        return [r for r in results if r.method == method]

    exact = of("ours, compiled")
    pairs = list(zip(exact, of("Lagrange sweep"), strict=True))
    counts = {
        "optimum proved in ≤ 2 s": [r.gap <= 2 * ROUNDOFF and r.seconds <= 2 for r in exact],
        "optimum proved": [r.gap <= 2 * ROUNDOFF for r in exact],
        "W not below the sweep's": [r.w >= s.w * (1 - ROUNDOFF) for r, s in pairs],
        "W above the sweep's": [r.w > s.w * (1 + ROUNDOFF) for r, s in pairs],
    }
    return [(name, f"{sum(met)} of {len(met)}") for name, met in counts.items()]


def markdown(header, rows) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--budget-seconds", type=float, default=2.0, help="for each peer")
    parser.add_argument("--instances", type=int, default=6, help="of each shape")
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=SHAPES)
    parser.add_argument("--out", type=Path, help="markdown file for the tables")
    args = parser.parse_args()
    for needs, _ in PEERS.values():
        loaded(needs)
    seeds = range(args.instances)
    instances = [make_instance(s, n, layers=args.layers) for s in args.shapes for n in seeds]
    results = run(instances, args.budget_seconds)
    rows, met = table(results), claims(results)
    title = f"{len(instances)} instances, {args.layers} layers × {len(OPTIONS)} options, "
    show_table(title + f"{args.budget_seconds:g} s a peer", HEADER, rows)
    show_table("once compiled", ("ours", "instances"), met)
    if args.out:
        args.out.write_text(markdown(HEADER, rows) + "\n" + markdown(("ours", "instances"), met))


if __name__ == "__main__":
    main()

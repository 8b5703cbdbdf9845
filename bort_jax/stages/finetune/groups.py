# SPDX-License-Identifier: Apache-2.0
"""Trains populations: in groups that the devices hold, segment by segment, with early stopping."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from time import perf_counter
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int
from tqdm import tqdm

from bort_jax.engine.parallel import at_a_time
from bort_jax.engine.processes import dealt, gathered
from bort_jax.stages.finetune.plan import (
    MOST,
    Planner,
    halved,
    largest_group,
    memory_limit,
    out_of_memory,
    rounded,
)
from bort_jax.stages.finetune.population import (
    Member,
    Population,
    begun,
    stacked,
    tree_bytes,
    unstacked,
)

SEGMENT = 32  # steps in one call of the program
TRIAL = 4  # steps of a timing
SMALL = 1 << 27  # bytes of an encoder; two larger ones on one CPU are in each other's way
DEV_ROWS = 64  # held-out rows that are scored at a time


class Job(NamedTuple):
    """A fine-tuning that is to be done.

    Attributes:
      member: makes what tells it from its neighbours; of hundreds of jobs only those at hand have
        a head in memory.
      batches: makes its endless batches, from the first on; all jobs' batches have one shape.
      steps: how many of them it takes.
    """

    member: Callable[[], Member]
    batches: Callable[[], Iterator[dict[str, np.ndarray]]]
    steps: int


class Stopping(NamedTuple):
    """When to stop early, and what for: the parameters that score best are kept.

    Attributes:
      x: the held-out points, `[n, s]`, or `[n, c, s]` for choices.
      score_fn: outputs of their rows of tokens, `[n, k]` or `[n * c, 1]`, to a number that should
        be large; NaN: no score, which is below any.
      every: steps from one evaluation to the next.
      patience: evaluations without a new best, in a row, after which a run ends.
    """

    x: Int[np.ndarray, "*rows s"]
    score_fn: Callable[[Float[np.ndarray, "m k"]], float]
    every: int
    patience: int


class Tuned(NamedTuple):
    """A finished fine-tuning: its parameters on the host, and the steps that made them."""

    params: Any
    steps: int


class Group(NamedTuple):
    """How jobs are put together: the mapping, the members of a device, and the groups that run side
    by side on the same devices."""

    mapping: str
    members: int
    beside: int = 1

    def capacity(self, jobs: int) -> int:
        return self.members * devices_for(jobs) * self.beside


class Tuning:
    """Trains jobs whose batches have one shape.

    Args:
      programs: a mapping to its population's programs.
      encoder: what every member starts from, on the host.
      planner: knows the fastest mapping.
      mapping: `loop`, `vmap` or `map`; None: ask the planner.
    """

    def __init__(
        self,
        programs: Callable[[str], Population],
        encoder: Any,
        *,
        planner: Planner,
        mapping: str | None = None,
    ):
        self.encoder, self.planner, self.fixed = encoder, planner, mapping
        self.build, self.built = programs, {}
        self.chosen: dict[str, str] = {}  # mapping by the shapes of a batch
        self.most = MOST  # members of a device; fewer once it has run out of memory

    def first(self, jobs: Sequence[Job], *, stopping: Stopping | None = None) -> list[Tuned]:
        """The first of the jobs, as many as the devices of all processes hold at a time."""
        tuned = gathered(self.own(dealt(jobs), stopping))[: len(jobs)]
        return [Tuned(params, int(steps)) for params, steps in tuned]

    def own(self, jobs: Sequence[Job], stopping: Stopping | None) -> list[Tuned]:
        """As `first`, on the devices of this process."""
        group = self.group_for(jobs)
        while True:
            try:
                return self._in_groups(jobs[: group.capacity(len(jobs))], group, stopping)
            except jax.errors.JaxRuntimeError as error:
                if not out_of_memory(error) or group == Group(group.mapping, 1):
                    raise
                self.most = halved(group.members)
                group = Group(group.mapping, self.most)

    def group_for(self, jobs: Sequence[Job]) -> Group:
        """How so many jobs run best here."""
        share = -(-len(jobs) // devices_for(len(jobs)))
        mapping = self.fixed or ("loop" if share == 1 else self._fastest(jobs, share))
        if mapping == "loop":
            return Group("loop", 1, beside=self._side_by_side() if share > 1 else 1)
        return Group(mapping, self._largest(mapping, jobs, share))

    def programs(self, mapping: str) -> Population:
        if mapping not in self.built:
            self.built[mapping] = self.build(mapping)
        return self.built[mapping]

    def _side_by_side(self) -> int:
        return at_a_time() if tree_bytes(self.encoder) < SMALL else 1

    def _fastest(self, jobs: Sequence[Job], share: int) -> str:
        sizes = str([x.shape for x in next(jobs[0].batches()).values()])
        if sizes in self.chosen:
            return self.chosen[sizes]

        def trial(mapping: str) -> float:
            members = 1 if mapping == "loop" else self._largest(mapping, jobs, share)
            group = Group(mapping, members, self._side_by_side() if mapping == "loop" else 1)
            some = [job._replace(steps=TRIAL) for job in jobs[: group.capacity(len(jobs))]]
            self._in_groups([job._replace(steps=1) for job in some], group, None)  # compiles
            start = perf_counter()
            self._in_groups(some, group, None)
            return (perf_counter() - start) / (TRIAL * len(some))

        members = f"{2 ** (min(share, MOST).bit_length() - 1)} members"
        work = sum(job.steps for job in jobs)
        self.chosen[sizes] = self.planner.mapping(f"{sizes}, {members}", trial=trial, work=work)
        return self.chosen[sizes]

    def _largest(self, mapping: str, jobs: Sequence[Job], share: int) -> int:
        """Members of a device, found by what the compiler says they need."""
        program, devices, limit = self.programs(mapping), devices_for(len(jobs)), memory_limit()

        def needed(members: int) -> int:
            over = lambda tree: jax.tree.map(
                lambda x: jax.ShapeDtypeStruct((devices, members, *x.shape), x.dtype), tree
            )
            member, batches = jobs[0].member(), segment(jobs[0].batches(), SEGMENT)
            trainee = jax.eval_shape(begun, self.encoder, member)
            return program.train.bytes(over(trainee), over(member), over(batches), np.int32(0))

        # Parameters, their moments and their gradients: more than these allow need not be tried.
        state = 4 * tree_bytes(jax.eval_shape(begun, self.encoder, jobs[0].member()).params)
        most = max(1, min(rounded(share), self.most, limit // state))
        return largest_group(needed, limit=limit, most=most)

    def _in_groups(self, jobs: Sequence[Job], group: Group, stopping) -> list[Tuned]:
        size = group.members * devices_for(len(jobs))
        parts = [jobs[start : start + size] for start in range(0, len(jobs), size)]
        with ThreadPoolExecutor(group.beside) as pool:
            tuned = pool.map(lambda part: self._one_group(part, group, stopping), parts)
            return [one for part in tuned for one in part]

    def _one_group(self, jobs: Sequence[Job], group: Group, stopping) -> list[Tuned]:
        """Trains jobs together, a device's share each; places left over hold copies of the last."""
        program, devices = self.programs(group.mapping), -(-len(jobs) // group.members)
        filled = [jobs[min(k, len(jobs) - 1)] for k in range(devices * group.members)]
        members = stacked([job.member() for job in filled], devices)
        streams = [job.batches() for job in filled]
        trainees = program.begin(self.encoder, members)
        watch = Watch(stopping, program, filled, devices) if stopping else None
        total = jobs[0].steps
        every = stopping.every if stopping else total
        with tqdm(total=total, desc=title(jobs), unit="step", leave=False, disable=None) as bar:
            for done, n in segments(total, every=every):
                batches = stacked([segment(s, n) for s in streams], devices)
                trainees = program.train(trainees, members, batches, np.int32(n))
                jax.block_until_ready(trainees.step)
                bar.update(n)
                if watch and watch.is_over(trainees.params, done):
                    break
        if watch:
            return watch.kept(len(jobs))
        return [Tuned(params, total) for params in unstacked(trainees.params, len(jobs))]


class Watch:
    """Scores a group's members now and then, and keeps the best parameters of each."""

    def __init__(self, stopping: Stopping, program: Population, jobs: Sequence[Job], devices: int):
        self.stopping, self.program, self.devices = stopping, program, devices
        self.total = jobs[0].steps
        self.best = np.full(len(jobs), -np.inf)
        self.step, self.worse = np.zeros(len(jobs), int), np.zeros(len(jobs), int)
        self.params: Any = None

    def is_over(self, params, done: int) -> bool:
        """Looks at the members, where it is time to; whether none of them goes on."""
        if done % self.stopping.every and done != self.total:
            return False
        scores = np.array([self.stopping.score_fn(outputs) for outputs in self.outputs(params)])
        scores = np.where(np.isnan(scores), -np.inf, scores)  # diverged: below any score
        going = self.worse < self.stopping.patience
        # A first look always counts, so that a run without a finite score has parameters too.
        better = going & (scores > self.best) | (self.step == 0)
        chosen = better.reshape(self.devices, -1)
        old = params if self.params is None else self.params
        self.params = self.program.better(params, old, chosen)
        self.best[better], self.step[better] = scores[better], done
        self.worse = np.where(better, 0, self.worse + going)
        return bool((self.worse >= self.stopping.patience).all())

    def outputs(self, params) -> list[np.ndarray]:
        """Outputs of the held-out rows of tokens for each member, `[rows, k]`."""
        x, parts = self.stopping.x, []
        for start in range(0, len(x), DEV_ROWS):
            at = np.arange(start, start + DEV_ROWS)
            ids = x[np.where(at < len(x), at, start)]
            parts.append(np.asarray(self.program.outputs(params, ids)))
        outputs = np.concatenate(parts, axis=2)[:, :, : len(x)]
        devices, members, *_, k = outputs.shape
        return list(outputs.reshape(devices * members, -1, k))  # choices are rows of tokens too

    def kept(self, count: int) -> list[Tuned]:
        params = unstacked(self.params, count)
        return [Tuned(p, int(step)) for p, step in zip(params, self.step, strict=False)]


def devices_for(jobs: int) -> int:
    """Devices of this process that have a member."""
    return min(jobs, jax.local_device_count())


def segments(total: int, *, every: int) -> Iterator[tuple[int, int]]:
    """(steps done afterwards, steps of this call) until `total`, with a stop at each multiple of
    `every`."""
    done = 0
    while done < total:
        n = min(SEGMENT, total - done, every - done % every)
        done += n
        yield done, n


def segment(batches: Iterator[dict], n: int) -> dict[str, np.ndarray]:
    """The next n batches in a stack of SEGMENT; what is behind them is never looked at."""
    picked = list(islice(batches, n))
    picked += [picked[-1]] * (SEGMENT - n)
    return {name: np.stack([batch[name] for batch in picked]) for name in picked[0]}


def title(jobs: Sequence[Job]) -> str:
    return f"fine-tune {len(jobs)} at once" if len(jobs) > 1 else "fine-tune"

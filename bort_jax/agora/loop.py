# SPDX-License-Identifier: Apache-2.0
"""The Agora loop (arXiv 2010.07990, algorithm 1): six steps, six functions.

Timaeus, the student, is fine-tuned once for each hyperparameter set θ of Θ. Near the best copy's
mistakes on dev, data augmentation by τ makes new points. Socrates, the teacher, gives them
pseudo-labels; they join the train set, and the worst hyperparameter sets leave. Dev points
themselves are never trained on.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import Float, Int

from bort_jax.agora.dataset import Dataset
from bort_jax.agora.lift import Lift, mistake_lift
from bort_jax.agora.records import AgoraState, Copy, Generated, Mistakes, Origin, Round
from bort_jax.agora.theta import Run, Theta, describe, worst_run

PARENTS = ("lift", "mistakes", "all")


def no_limit(state: AgoraState) -> None:
    """Lets Socrates be asked about every point."""


def keep_all(train: np.ndarray, labels: np.ndarray, confidences: np.ndarray) -> np.ndarray:
    """Lets every pseudo-labelled point join the train set."""
    return np.ones(len(labels), bool)


class Agora(NamedTuple):
    """The callables.

    Attributes:
      fit_fn: (Θ, train) to an iterable of models in the order of Θ. It is read one by one, and
        only the best model is kept.
      score_fn: (model, dev) to bool[n], which points are classified correctly; NaN where the model
        has no score, since its training diverged.
      generate_fn: (`Mistakes`, random generator) to `Generated`, new points near them by τ: data
        augmentation.
      label_fn: points to probabilities float32[m, c]: Socrates, the teacher. The likeliest class is
        the pseudo-label, its probability the confidence; points with NaN do not join.
      keep_fn: (labels of train, new labels, confidences) to bool[m], which new points join.
      soft_labels: the probabilities are trained on; otherwise the likeliest class alone.
      parents: the points are near `mistakes`, or near as many rows drawn from `all` of dev; `lift`:
        near mistakes where these are neighbours more often than by chance. *Our reading:* the
        paper has mistakes alone.
      neighbours: rows of dev that are nearest to each, for the lift; None: there is none, and the
        points are near mistakes.
      first_fraction: the share of dev near which points are made before the first fine-tuning, so
        that no round is without new points (our reading); 0: none, as in the paper.
      allowance_fn: the state before a round to the number of points that Socrates may be asked
        about in it; None: no limit.
    """

    fit_fn: Callable[[Sequence[Theta], Dataset], Any]
    score_fn: Callable[[Any, Dataset], np.ndarray]
    generate_fn: Callable[[Mistakes, np.random.Generator], Generated]
    label_fn: Callable[[np.ndarray], Float[np.ndarray, "m c"]]
    keep_fn: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray] = keep_all
    soft_labels: bool = True
    parents: str = "lift"
    neighbours: Int[np.ndarray, "n k"] | None = None
    first_fraction: float = 0.0
    allowance_fn: Callable[[AgoraState], int | None] = no_limit


class Journal(Protocol):
    """Keeps the copies that a round has finished, should it be cut off."""

    def read_copies(self, number: int) -> list[Copy]:
        """Copies of round `number`, in the order of Θ; only the best of them needs its model."""
        ...

    def record(self, number: int, copy: Copy) -> None:
        """Keeps a copy; it has its model where it is the round's best so far."""
        ...


class NoJournal:
    """Without a journal a round that is cut off starts anew."""

    def read_copies(self, number: int) -> list[Copy]:
        return []

    def record(self, number: int, copy: Copy) -> None:
        pass


def start(train: Dataset, thetas: Sequence[Theta], *, seed: int = 0) -> AgoraState:
    """The state before the first round.

    Args:
      seed: of every draw that τ makes.

    Raises:
      ValueError: Θ is empty, or names a set twice.
    """
    return AgoraState(train, check_thetas(thetas), best_rows=len(train.y), seed=seed)


def replay(state: AgoraState, thetas: Sequence[Theta] = ()) -> AgoraState:
    """A state from which rounds are redone with new draws of τ.

    The author of arXiv 2010.07990 found it necessary to redo some rounds to converge. *Our
    reading:* a replay after round r starts from the data set that round r left behind, with what is
    left of Θ then, or with a fresh Θ; the best copy seen up to r stays to be beaten.

    Args:
      state: as it was after round r; r = 0 is the state from `start`.
      thetas: a fresh Θ; none: what the state has left.

    Raises:
      ValueError: no set is left and none is given, or one is named twice.
    """
    return state._replace(thetas=check_thetas(thetas or state.thetas), replays=state.replays + 1)


def check_thetas(thetas: Sequence[Theta]) -> tuple[Theta, ...]:
    """Θ; raises ValueError where it is empty or names a set twice."""
    thetas = tuple(thetas)
    if not thetas or len(set(thetas)) < len(thetas):
        raise ValueError(f"Θ must hold at least one set and none twice; got {len(thetas)} sets")
    return thetas


def agora(
    state: AgoraState, dev: Dataset, *, calls: Agora, journal: Journal | None = None
) -> Iterator[AgoraState]:
    """Runs rounds until no hyperparameter set is left, yielding the state after each.

    At least one set leaves each round, so there are at most |Θ| rounds. The best model seen in
    any round is `state.champion.model`, and `state.best_train` is what it was trained on.

    Args:
      state: from `start`, `replay`, or any state that this function yielded.
      dev: the points that steer. Accuracy on them is no evidence of success.
      calls: the callables.
      journal: where finished copies of the present round are kept and found again.

    Raises:
      ValueError: `calls.parents` or `calls.first_fraction` is none, or every fine-tuning of a round
        diverged.
    """
    if calls.parents not in PARENTS:
        raise ValueError(f"parents must be one of {', '.join(PARENTS)}; got {calls.parents!r}")
    if not 0 <= calls.first_fraction <= 1:
        raise ValueError(f"first_fraction must lie in [0, 1]; got {calls.first_fraction:g}")
    while state.thetas:
        state = one_round(state, dev, calls=calls, journal=journal or NoJournal())
        yield state


def one_round(state: AgoraState, dev: Dataset, *, calls: Agora, journal: Journal) -> AgoraState:
    """The six steps."""
    number, most = len(state.rounds) + 1, calls.allowance_fn(state)
    first = first_points(state, dev, most, calls=calls)
    begun, first_origin = label_and_append(state.train, first, calls=calls)
    copies, best = fine_tune_copies(state._replace(train=begun), dev, calls=calls, journal=journal)
    rng = np.random.default_rng((state.seed, state.replays, number))
    rows, lift, near = choose_parents(best, rng, calls=calls)
    used = state.used | {int(row) for row in first.origin.sources if row >= 0}
    left = None if most is None else max(0, most - len(first.x))
    mistakes = Mistakes(dev.x[rows], rows, begun.x, used, best.model, left)
    made = generate_points(mistakes, rng, calls=calls)
    train, origin = label_and_append(begun, made, calls=calls)
    made, origin = first.append(made), first_origin.append(origin)
    leaving = worst_run(sort_by_accuracy(copies))
    record = record_round(number, copies, best, made, leaving, before=state.train, after=train)
    record = record._replace(
        passed_over=passed_over(made.origin, origin),
        fitted_rows=len(begun.y),
        lift=lift,
        near=near,
    )
    improved = best.beats(state.best)
    return state._replace(
        train=train,
        thetas=tuple(theta for theta in state.thetas if theta not in leaving.removed),
        best=best if improved else state.best,
        best_rows=record.fitted_rows if improved else state.best_rows,
        rounds=(*state.rounds, record),
        origins=(*state.origins, origin),
    )


def first_points(state: AgoraState, dev: Dataset, most: int | None, *, calls: Agora) -> Generated:
    """Points near random rows of dev before the first round: no model is wrong yet. They take half
    of what Socrates may be asked about in it."""
    wanted = 0 if state.rounds else round(calls.first_fraction * len(dev.y))
    rng = np.random.default_rng((state.seed, state.replays, 0))
    rows = np.sort(rng.choice(len(dev.y), wanted, replace=False))
    half = None if most is None else most // 2
    return generate_points(Mistakes(dev.x[rows], rows, state.train.x, most=half), rng, calls=calls)


def fine_tune_copies(
    state: AgoraState, dev: Dataset, *, calls: Agora, journal: Journal
) -> tuple[list[Copy], Copy]:
    """Step 1: fine-tunes one copy for each θ, and scores it on dev.

    Returns:
      the copies, and the best of them (of equals the first), the only one with its model.

    Raises:
      ValueError: none has a score.
    """
    number = len(state.rounds) + 1
    copies = journal.read_copies(number)
    best = None
    for copy in copies:
        best = copy if copy.beats(best) else best
    left = state.thetas[len(copies) :]
    for theta, model in zip(left, calls.fit_fn(left, state.train) if left else (), strict=True):
        copy = Copy(theta, model, np.asarray(calls.score_fn(model, dev)))
        if copy.beats(best):
            best = copy
        else:
            copy = copy._replace(model=None)
        journal.record(number, copy)
        copies.append(copy._replace(model=None))
    if best is None:
        raise ValueError(
            f"all {len(copies)} fine-tunings of round {number} diverged: none has a finite loss; "
            "give smaller learning rates"
        )
    return copies, best


def find_mistakes(best: Copy) -> Int[np.ndarray, " n"]:
    """Step 2: finds the dev points that the best copy misclassifies."""
    return np.flatnonzero(~best.correct.astype(bool))


def choose_parents(
    best: Copy, rng: np.random.Generator, *, calls: Agora
) -> tuple[Int[np.ndarray, " n"], Lift | None, str]:
    """The rows of dev that new points are near, the lift of the mistakes, and what the rows are."""
    mistakes, lift = find_mistakes(best), None
    if calls.neighbours is not None:
        lift = mistake_lift(calls.neighbours, ~best.correct.astype(bool))
    scattered = calls.parents == "lift" and lift is not None and not lift.clustered
    if calls.parents == "mistakes" or calls.parents == "lift" and not scattered:
        return mistakes, lift, "mistakes"
    every = len(best.correct)
    return np.sort(rng.choice(every, len(mistakes), replace=False)), lift, "all"


def generate_points(mistakes: Mistakes, rng: np.random.Generator, *, calls: Agora) -> Generated:
    """Step 3: augments the mistakes; none where there is no mistake or nothing may be asked."""
    if len(mistakes.rows) and mistakes.most != 0:
        return calls.generate_fn(mistakes, rng)
    nothing = Origin(mistakes.rows[:0], (), np.zeros(0), np.zeros(0))
    return Generated(mistakes.x[:0], nothing)


def label_and_append(train: Dataset, made: Generated, *, calls: Agora) -> tuple[Dataset, Origin]:
    """Step 4: gives the points Socrates' pseudo-labels; those that are kept join the train set."""
    if not len(made.x):
        return train, made.origin
    answers = calls.label_fn(made.x)
    answered = np.flatnonzero(~np.isnan(answers).any(axis=1))
    new = Dataset.of_answers(made.x[answered], answers[answered], soft=calls.soft_labels)
    chosen = np.flatnonzero(calls.keep_fn(train.y, new.y, answers[answered].max(axis=1)))
    origin = made.origin._replace(confidences=answers.max(axis=1).astype(float))
    return train.append(new.take(chosen)), origin.take(answered[chosen])


def sort_by_accuracy(copies: Sequence[Copy]) -> list[Theta]:
    """Step 5: sorts the hyperparameter sets, worst first; of equals the later one is the worse.

    A set whose training diverged has no score, and is worse than all that have one.
    """
    worst_first = sorted(reversed(copies), key=lambda copy: np.nan_to_num(copy.accuracy, nan=-1.0))
    return [copy.theta for copy in worst_first]


def record_round(
    number: int, copies: Sequence[Copy], best: Copy, made: Generated, leaving: Run,
    *, before: Dataset, after: Dataset,
) -> Round:  # fmt: skip
    added = len(after.y) - len(before.y)
    classes, counts = np.unique(after.y[len(before.y) :], return_counts=True)
    dropped = len(made.x) - added
    return Round(
        number=number,
        accuracies={
            describe(copy.theta): copy.accuracy if copy.beats(None) else None for copy in copies
        },
        best=best.theta,
        mistakes=int((~best.correct.astype(bool)).sum()),
        added=added,
        labels_added={int(c): int(n) for c, n in zip(classes, counts, strict=True)},
        train_size=len(after.y),
        removed=tuple(leaving.removed),
        removed_by=leaving.shared,
        refused=made.refused | ({"unsure or surplus label": dropped} if dropped else {}),
        distances=made.distances,
        asked=len(made.x),
    )


def passed_over(made: Origin, kept: Origin) -> tuple[int, ...]:
    """Pool rows that Socrates was asked about and that did not join."""
    rows = np.setdiff1d(made.sources, kept.sources)
    return tuple(int(row) for row in rows if row >= 0)

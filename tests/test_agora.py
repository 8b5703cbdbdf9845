# SPDX-License-Identifier: Apache-2.0
"""The six steps, each on a hand-made case; the loop."""

import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bort_jax.agora import (
    Agora,
    Copy,
    Dataset,
    Generated,
    Mistakes,
    Origin,
    Window,
    agora,
    assess,
    ball_tau,
    cross_validate,
    describe,
    euclidean,
    generator,
    grid,
    hard_labels,
    mistake_lift,
    nearest_rows,
    prune,
    replay,
    start,
    worst_run,
)
from bort_jax.agora.loop import (
    NoJournal,
    choose_parents,
    find_mistakes,
    fine_tune_copies,
    generate_points,
    label_and_append,
    sort_by_accuracy,
)


def theta(**pairs):
    return tuple(pairs.items())


A, B, C, D = (
    theta(rate=1, seed=0),
    theta(rate=1, seed=1),
    theta(rate=2, seed=0),
    theta(rate=2, seed=1),
)


@pytest.mark.parametrize(
    "ranked, survivors",
    [
        ([A, B, C, D], [C, D]),  # rate=1 leaves as a whole; C shares only seed=0 with A, not with B
        ([A, C, B, D], [B, D]),  # A and C share seed=0; B breaks the run
        ([A, D, B, C], [D, B, C]),  # A and D share nothing: one set leaves
        ([A, B], [B]),  # the best stays while there is another
        ([A], []),  # and leaves last
        ([], []),
        ([theta(r=1, s=n) for n in range(4)], [theta(r=1, s=3)]),  # all share r: all but the best
        ([theta(r=n, s=n) for n in range(4)], [theta(r=n, s=n) for n in (1, 2, 3)]),
        ([theta(r=1, s=2), theta(r=2, s=1), theta(r=1, s=1)], [theta(r=2, s=1), theta(r=1, s=1)]),
        # The pair shared by the whole run counts, not pairs shared by neighbours.
        (
            [theta(x=1, y=1), theta(x=1, y=2), theta(x=2, y=2), theta(x=2, y=3)],
            [theta(x=2, y=2), theta(x=2, y=3)],
        ),
    ],
)
def test_pruning_by_hand(ranked, survivors):
    assert prune(ranked) == survivors


def test_equal_values_under_different_names_are_not_shared():
    assert prune([theta(x=1, y=5), theta(x=5, y=1), theta(x=0, y=0)]) == [
        theta(x=5, y=1),
        theta(x=0, y=0),
    ]


def test_grid_leaves_out_what_does_not_vary():
    assert grid(rate=[1, 2], decay=[0.1]) == [theta(rate=1), theta(rate=2)]
    assert len(grid(a=[1, 2], b=[3, 4, 5])) == 6
    assert grid(a=[1]) == [()]
    assert describe(A) == "rate=1 seed=0"


@pytest.mark.parametrize(
    "ranked, shared",
    [
        ([A, B, C, D], theta(rate=1)),
        ([A, C, B, D], theta(seed=0)),
        ([A, D, B], A),  # alone: all its pairs
        ([theta(r=1, s=1, t=n) for n in range(4)], theta(r=1, s=1)),
    ],
)
def test_what_leaves_together_is_told_by_the_pairs_it_shares(ranked, shared):
    assert worst_run(ranked).shared == shared


thetas = st.builds(theta, a=st.integers(0, 2), b=st.integers(0, 2), c=st.integers(0, 2))


@given(st.lists(thetas, min_size=1, max_size=12, unique=True))
def test_the_run_is_the_longest_that_shares_a_pair(ranked):
    run = worst_run(ranked)
    assert run.removed + prune(ranked) == ranked and run.removed
    assert all(set(run.shared) <= set(one) for one in run.removed) and run.shared
    rest = prune(ranked)
    assert bool(rest) == (len(ranked) > 1)  # the best stays while there is another
    if len(rest) > 1:
        assert not set(run.shared) & set(rest[0])


def test_no_set_is_no_run():
    with pytest.raises(ValueError, match="no hyperparameter set"):
        worst_run([])


POINTS = Dataset(np.arange(6)[:, None], np.array([0, 0, 0, 1, 1, 1]))


def made(mistakes, rng):
    x = np.concatenate([mistakes.x + 10 * int(rng.integers(1, 9)), mistakes.x - 10])
    parents = np.concatenate([mistakes.rows, mistakes.rows])
    taus = ("up",) * len(mistakes.rows) + ("down",) * len(mistakes.rows)
    return Generated(x, Origin(parents, taus, np.full(len(x), 10.0), np.full(len(x), np.nan)))


CALLS = Agora(
    fit_fn=lambda thetas, data: ((dict(theta)["rate"], len(data.y)) for theta in thetas),
    score_fn=lambda model, dev: dev.x[:, 0] < 2 + model[0],
    generate_fn=made,
    label_fn=lambda x: np.where(x > 0, [[0.1, 0.9]], [[0.7, 0.3]]),
)


def copies_of(thetas):
    return fine_tune_copies(start(POINTS, thetas), POINTS, calls=CALLS, journal=NoJournal())


def test_step_1_fine_tunes_one_copy_for_each_set_and_keeps_the_best_model():
    copies, best = copies_of([A, C])
    assert [c.theta for c in copies] == [A, C]
    assert [c.accuracy for c in copies] == [3 / 6, 4 / 6]
    assert [c.model for c in copies] == [None, None] and best.model == (2, 6)
    assert copies_of([A, C, D])[1].theta == C  # of equals the first


def test_models_are_asked_for_one_by_one_and_let_go():
    alive = []

    class Model:
        def __init__(self, rate):
            self.rate = rate
            alive.append(weakref.ref(self))

    seen = []

    def score(model, dev):
        seen.append(sum(reference() is not None for reference in alive))
        return dev.x[:, 0] < model.rate

    calls = CALLS._replace(
        fit_fn=lambda thetas, data: (Model(dict(one)["rate"]) for one in thetas), score_fn=score
    )
    sets = [theta(rate=rate) for rate in (2, 1, 4, 3, 0, 5, 1.5)]
    fine_tune_copies(start(POINTS, sets), POINTS, calls=calls, journal=NoJournal())
    assert max(seen) <= 3 and len(alive) == 7  # the best, the one before, the new one


def test_a_fit_that_gives_too_few_models_is_refused():
    calls = CALLS._replace(fit_fn=lambda thetas, data: [(1, 6)])
    with pytest.raises(ValueError, match="shorter"):
        list(agora(start(POINTS, [A, C]), POINTS, calls=calls))


def test_step_2_takes_the_mistakes_of_the_best():
    _, best = copies_of([A, C])
    assert find_mistakes(best).tolist() == [4, 5]


RING = (np.arange(60)[:, None] + [-1, 1]) % 60  # each row's neighbours


@settings(max_examples=4)
@given(seed=st.integers(0, 30))
def test_mistake_lift_of_scattered_mistakes_is_by_chance_and_of_clustered_ones_above(seed):
    rng = np.random.default_rng(seed)
    lifts = [mistake_lift(RING, rng.random(60) < 0.3) for _ in range(8)]
    assert sum(lift.clustered for lift in lifts) <= 3  # 2.5 % of them
    assert all(lift.low <= 1.1 and lift.high >= 0.9 for lift in lifts)
    assert mistake_lift(RING, np.arange(60) < 18).clustered


def test_mistake_lift_by_hand():
    wrong = np.arange(60) < 15  # 15 in a row: 28 of their 30 neighbours are wrong
    assert mistake_lift(RING, wrong).value == pytest.approx(28 / 30 / 0.25)
    assert mistake_lift(RING, np.zeros(60, bool)) is None
    assert mistake_lift(RING, np.ones(60, bool)) is None


def test_nearest_rows_are_those_of_brute_force(rng):
    vectors = rng.normal(size=(12, 3))
    found = nearest_rows(vectors, k=4)
    for row, near in enumerate(found):
        others = sorted(set(range(12)) - {row}, key=lambda k: -vectors[k] @ vectors[row])
        assert set(near) == set(others[:4])
    assert nearest_rows(vectors[:4], k=4) is None


@pytest.mark.parametrize(
    "parents, clustered, near",
    [
        ("lift", True, "mistakes"), ("lift", False, "all"), ("mistakes", False, "mistakes"),
        ("all", True, "all"),
    ],
)  # fmt: skip
def test_choose_parents_goes_by_the_lift_unless_told(parents, clustered, near, rng):
    wrong = np.arange(60) < 20 if clustered else np.arange(60) % 3 == 0
    calls = CALLS._replace(parents=parents, neighbours=RING)
    rows, lift, chosen = choose_parents(Copy(A, None, ~wrong), rng, calls=calls)
    assert chosen == near and len(set(rows)) == 20 and lift.clustered == clustered
    assert (near == "mistakes") == (rows.tolist() == np.flatnonzero(wrong).tolist())
    unknown = choose_parents(Copy(A, None, ~wrong), rng, calls=CALLS)
    assert unknown[1:] == (None, "mistakes")


@pytest.mark.parametrize(
    "option, message",
    [({"parents": "some"}, "one of lift, mistakes, all"), ({"first_fraction": 2}, "lie in")],
)
def test_agora_refuses_wrong_settings_before_anything_is_fitted(option, message):
    calls = CALLS._replace(fit_fn=lambda thetas, data: pytest.fail("fitted"), **option)
    with pytest.raises(ValueError, match=message):
        next(agora(start(POINTS, [A, C]), POINTS, calls=calls))


def test_agora_makes_first_points_before_anything_is_fitted():
    """Near half of dev; the first copies see them, and lineage has all."""
    calls = CALLS._replace(first_fraction=0.5)
    states = list(agora(start(POINTS, [A, C]), POINTS, calls=calls))
    first = states[0].rounds[0]
    assert first.fitted_rows == 6 + 6 and first.added == 6 + 4 and first.asked == 10
    assert states[0].best_rows == 12 and states[0].given_rows == 6
    assert len(set(states[0].origins[0].parents[:6])) == 3
    assert states[1].rounds[1].fitted_rows == 16


@given(calls_left=st.integers(0, 12))
def test_first_points_take_half_of_what_a_round_may_ask(calls_left):
    asked = []

    def generate(mistakes, rng):
        asked.append(mistakes.most)
        found = made(mistakes, rng)
        some = np.arange(min(mistakes.most, len(found.x)))
        return Generated(found.x[some], found.origin.take(some))

    calls = CALLS._replace(
        first_fraction=1, allowance_fn=lambda state: calls_left, generate_fn=generate
    )
    state = next(agora(start(POINTS, [A, C]), POINTS, calls=calls))
    assert asked[0] == (calls_left // 2 or calls_left) if calls_left else not asked
    assert state.rounds[0].asked <= calls_left


def test_step_3_generates_near_the_mistakes_and_nothing_from_none(rng):
    _, best = copies_of([C])
    some = find_mistakes(best)
    points = generate_points(Mistakes(POINTS.x[some], some, POINTS.x), rng, calls=CALLS)
    assert points.x[2:, 0].tolist() == [-6, -5] and points.origin.parents.tolist() == [4, 5, 4, 5]
    none = Mistakes(POINTS.x[:0], some[:0], POINTS.x)
    assert len(generate_points(none, rng, calls=CALLS).x) == 0


def test_step_4_appends_with_the_labels_of_socrates(rng):
    origin = Origin(np.array([4, 5]), ("up", "down"), np.array([1.0, 2.0]), np.full(2, np.nan))
    new = Generated(np.array([[7], [-7]]), origin)
    train, origin = label_and_append(POINTS, new, calls=CALLS)
    assert train.x[:, 0].tolist() == [0, 1, 2, 3, 4, 5, 7, -7]
    assert train.y.tolist() == [0, 0, 0, 1, 1, 1, 1, 0]
    assert origin.confidences.tolist() == [0.9, 0.7]
    np.testing.assert_allclose(train.targets, [*np.eye(2)[POINTS.y], [0.1, 0.9], [0.7, 0.3]])
    hard, _ = label_and_append(POINTS, new, calls=CALLS._replace(soft_labels=False))
    assert hard.targets is None and hard.y.tolist() == train.y.tolist()
    sure = CALLS._replace(keep_fn=lambda train, labels, confidences: confidences > 0.8)
    train, origin = label_and_append(POINTS, new, calls=sure)
    assert train.x[6:, 0].tolist() == [7]
    assert (origin.parents.tolist(), origin.taus, origin.distances.tolist()) == ([4], ("up",), [1])


def test_step_5_sorts_worst_first_and_breaks_ties_for_the_earlier():
    copies = [
        Copy(t, None, np.array(correct))
        for t, correct in ((A, [1, 1]), (B, [0, 0]), (C, [1, 0]), (D, [0, 1]))
    ]
    assert sort_by_accuracy(copies) == [B, D, C, A]
    assert sort_by_accuracy([copy._replace(correct=np.ones(2)) for copy in copies]) == [D, C, B, A]


def test_agora_never_chooses_a_copy_without_a_score():
    # θ = A diverges: NaN, as bools of a model that says class 0 everywhere would be the best.
    def score(model, dev):
        return np.full(len(dev.y), np.nan) if model[0] == 1 else CALLS.score_fn(model, dev)

    calls = CALLS._replace(score_fn=score)
    states = list(agora(start(POINTS, [A, C, D]), POINTS, calls=calls))
    assert [state.thetas for state in states] == [(C, D), (C,), ()]  # it leaves first
    assert states[0].champion.theta == C and states[0].champion.accuracy == 4 / 6
    assert states[0].rounds[0].accuracies == {
        describe(A): None,
        describe(C): 4 / 6,
        describe(D): 4 / 6,
    }
    assert states[0].rounds[0].accuracy == 4 / 6


def test_agora_refuses_a_round_in_which_every_copy_diverged():
    calls = CALLS._replace(score_fn=lambda model, dev: np.full(len(dev.y), np.nan))
    with pytest.raises(ValueError, match="all 2 fine-tunings of round 1 diverged"):
        next(agora(start(POINTS, [A, C]), POINTS, calls=calls))


def test_the_loop_by_hand():
    states = list(agora(start(POINTS, [A, C, D]), POINTS, calls=CALLS))
    # Accuracies ½, ⅔, ⅔: worst first that is A, D, C. A and D share nothing: A leaves alone.
    # Then D and C share rate=2: D leaves, the best stays, and leaves last.
    assert [state.thetas for state in states] == [(C, D), (C,), ()]
    assert [r.added for r in states[-1].rounds] == [4, 4, 4]
    assert len(states[-1].train.y) == 6 + 12 and states[-1].given_rows == 6
    assert states[-1].champion.accuracy == 4 / 6
    assert len(states[-1].best_train.y) == 6  # later rounds were no better: the first stands
    assert states[-1].rounds[0].removed == (A,) and states[-1].rounds[0].removed_by == A
    assert states[-1].rounds[0].labels_added == {0: 2, 1: 2}


def test_the_champion_comes_with_what_it_was_trained_on():
    calls = CALLS._replace(score_fn=lambda model, dev: dev.x[:, 0] < model[1] / 4)
    states = list(agora(start(POINTS, [A, C, D]), POINTS, calls=calls))
    assert [len(state.best_train.y) for state in states] == [6, 6 + 8]


accuracies = st.lists(st.integers(0, 10), min_size=1, max_size=12)


@given(values=st.lists(accuracies, min_size=1, max_size=12), names=st.integers(1, 3))
def test_at_most_as_many_rounds_as_sets_whatever_the_accuracies(values, names):
    rng = np.random.default_rng(len(values))
    sets = {tuple((f"n{k}", int(rng.integers(3))) for k in range(names)) for _ in values}
    draws = iter(np.random.default_rng(0).integers(0, 2, (10_000, 6)).astype(bool))
    calls = CALLS._replace(
        fit_fn=lambda thetas, data: thetas, score_fn=lambda model, dev: next(draws)
    )
    states = list(agora(start(POINTS, sets), POINTS, calls=calls))
    assert len(states) <= len(sets)
    sizes = [len(sets), *(len(state.thetas) for state in states)]
    assert all(later < earlier for earlier, later in zip(sizes, sizes[1:], strict=False))
    seen = [max(r.accuracies.values()) for r in states[-1].rounds]
    assert states[-1].champion.accuracy == max(seen)


def test_going_on_from_any_round_is_the_straight_run():
    straight = list(agora(start(POINTS, [A, B, C, D]), POINTS, calls=CALLS))
    for k, state in enumerate(straight[:-1]):
        rest = list(agora(state, POINTS, calls=CALLS))
        assert [s.thetas for s in rest] == [s.thetas for s in straight[k + 1 :]]
        assert np.array_equal(rest[-1].train.x, straight[-1].train.x)
        assert rest[-1].rounds == straight[-1].rounds


@pytest.mark.parametrize("thetas", [[], [A, A]])
def test_an_empty_or_repeating_theta_is_refused(thetas):
    with pytest.raises(ValueError, match="at least one set and none twice"):
        start(POINTS, thetas)


def test_a_replay_redoes_rounds_with_new_draws():
    states = list(agora(start(POINTS, [A, B, C, D]), POINTS, calls=CALLS))
    again = list(agora(replay(states[0]), POINTS, calls=CALLS))
    before = len(states[0].train.y)
    assert [s.thetas for s in again] == [s.thetas for s in states[1:]]
    assert np.array_equal(again[-1].train.x[:before], states[-1].train.x[:before])
    assert not np.array_equal(again[-1].train.x, states[-1].train.x)
    fresh = list(agora(replay(states[0], [A, B, C, D]), POINTS, calls=CALLS))
    assert len(fresh[0].rounds[-1].accuracies) == 4 and len(fresh) == len(states)
    assert fresh[-1].champion.accuracy >= states[0].champion.accuracy
    with pytest.raises(ValueError, match="at least one set"):
        replay(states[-1])


# Without a dev set


def test_cross_validate_scores_every_given_row_by_a_model_that_never_saw_it():
    given = Dataset(np.arange(10)[:, None], np.arange(10) % 2)
    fitted = []

    def fit(thetas, data):
        fitted.append(data.x[:, 0].tolist())
        return (set(data.x[:, 0].tolist()) for _ in thetas)

    unseen = lambda model, dev: np.array([x not in model for x in dev.x[:, 0]])
    calls = CALLS._replace(fit_fn=fit, score_fn=unseen)
    mine = cross_validate(calls, given, folds=3)
    (models,) = mine.fit_fn([A], given.append(Dataset(np.array([[77]]), np.array([0]))))
    assert len(models) == 3 and all(77 in rows for rows in fitted)
    assert mine.score_fn(models, given).all()
    left_out = [set(range(10)) - model for model in models]
    assert sorted(row for rows in left_out for row in rows) == list(range(10))


def test_cross_validate_makes_points_near_given_rows_that_are_missed():
    given = Dataset(np.arange(12)[:, None], np.arange(12) % 2)
    calls = CALLS._replace(
        fit_fn=lambda thetas, data: (data for _ in thetas),
        score_fn=lambda data, dev: nearest(data, dev.x) == dev.y,  # neighbours are of other classes
    )
    states = list(agora(start(given, [A, C]), given, calls=cross_validate(calls, given, folds=4)))
    assert states[0].rounds[0].mistakes > 6 and len(states[-1].train.y) > 12
    assert set(states[0].origins[0].parents) <= set(range(12))


@pytest.mark.parametrize("folds", [1, 7])
def test_cross_validate_refuses_folds_that_are_none(folds):
    with pytest.raises(ValueError, match="between 2 and the number of rows, 6; got"):
        cross_validate(CALLS, POINTS, folds=folds)


# What Agora does to accuracy, on points where everything is known.

TOY = [theta(k=n) for n in range(6)]


def nearest(data, x):
    """1-NN: Timaeus."""
    distance = ((x[:, None, :] - data.x[None, :, :]) ** 2).sum(axis=-1)
    return data.y[distance.argmin(axis=1)]


def toy(truth, label_fn, *, seed=0):
    """Points of the unit square, a train set from a corner; the states and a test accuracy."""
    rng = np.random.default_rng(seed)
    train_x, dev_x = rng.uniform(0, 0.3, (20, 2)), rng.uniform(size=(200, 2))
    test_x = rng.uniform(size=(2000, 2))
    calls = Agora(
        fit_fn=lambda thetas, data: (data for _ in thetas),
        score_fn=lambda data, dev: nearest(data, dev.x) == dev.y,
        generate_fn=generator(
            ball_tau(0.08), samples_per_error=8, window=Window(distance_fn=euclidean)
        ),
        label_fn=label_fn,
    )
    first = start(Dataset(train_x, truth(train_x)), TOY, seed=seed)
    states = list(agora(first, Dataset(dev_x, truth(dev_x)), calls=calls))
    accuracy = lambda data: (nearest(data, test_x) == truth(test_x)).mean()
    return states, accuracy


def checkers(x):
    return (np.floor(4 * x).astype(int).sum(axis=1) % 2).astype(int)


@pytest.mark.parametrize("seed", range(3))
def test_a_perfect_socrates_halves_the_errors_round_by_round(seed):
    """The claim is an accuracy of 1 − 2⁻ᵏ after k rounds, ideally: an error of at most 2⁻ᵏ.

    1-NN, labels of a chequered square, train from one corner of it, dev of 200 points from all
    of it, τ a ball, labels always right. The best copy's error is at most 2⁻ᵏ in each round k: on
    dev, and on points never read until a tenth is left, the cells that 200 points do not reach.
    """
    states, accuracy = toy(checkers, hard_labels(checkers), seed=seed)
    for k, state in enumerate(states, start=1):
        assert 1 - state.champion.accuracy <= 0.5**k
        assert 1 - accuracy(state.best_train) <= max(0.5**k, 0.1)
    assert 1 - accuracy(states[0].best_train) > 0.35 and len(states) == len(TOY)


def test_a_random_socrates_is_detected_before_he_does_harm():
    """He does do harm: labels drawn around dev's mistakes set some of them right by chance, so
    that the best copy on dev is a worse one. Judged on points that do not steer, he is refused."""
    rng = np.random.default_rng(0)
    guess = hard_labels(lambda x: rng.integers(0, 2, len(x)))
    states, accuracy = toy(checkers, guess)
    assert states[-1].champion.accuracy > states[0].champion.accuracy
    assert accuracy(states[-1].best_train) < accuracy(states[0].best_train)
    report = rng.uniform(size=(200, 2))
    assert assess(guess(report).argmax(axis=1), checkers(report)).random
    assert not assess(checkers(report), checkers(report)).random

# SPDX-License-Identifier: Apache-2.0
"""The six steps, each on a hand-made case; the loop; τ."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bort_jax.agora import Agora, Copy, Dataset, Tau, agora, describe, grid, mlm_tau, prune, start
from bort_jax.agora.loop import (
    append_labelled,
    find_mistakes,
    fine_tune_copies,
    generate_points,
    remove_worst,
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


POINTS = Dataset(np.arange(6)[:, None], np.array([0, 0, 0, 1, 1, 1]))
CALLS = Agora(
    fit_fn=lambda theta, data: (dict(theta)["rate"], len(data.y)),
    score_fn=lambda model, dev: dev.x[:, 0] < 2 + model[0],
    generate_fn=lambda points, number: np.concatenate([points + 10 * number, points - 10]),
    label_fn=lambda points: (points[:, 0] > 0).astype(int),
)


def test_step_1_fine_tunes_one_copy_for_each_set():
    copies = fine_tune_copies(start(POINTS, [A, C]), POINTS, calls=CALLS)
    assert [(c.theta, c.model) for c in copies] == [(A, (1, 6)), (C, (2, 6))]
    assert [c.accuracy for c in copies] == [3 / 6, 4 / 6]


def test_step_2_takes_the_mistakes_of_the_best():
    copies = fine_tune_copies(start(POINTS, [A, C, D]), POINTS, calls=CALLS)
    best, mistakes = find_mistakes(copies, POINTS)
    assert best.theta == C  # of equals the first
    assert mistakes[:, 0].tolist() == [4, 5]


def test_step_3_generates_near_the_mistakes_and_nothing_from_none():
    assert generate_points(np.array([[4], [5]]), 2, calls=CALLS)[:, 0].tolist() == [24, 25, -6, -5]
    assert len(generate_points(np.zeros((0, 1), int), 1, calls=CALLS)) == 0


def test_step_4_appends_with_the_labels_of_socrates():
    train, labels = append_labelled(POINTS, np.array([[7], [-7]]), calls=CALLS)
    assert labels.tolist() == [1, 0]
    assert train.x[:, 0].tolist() == [0, 1, 2, 3, 4, 5, 7, -7]
    assert train.y.tolist() == [0, 0, 0, 1, 1, 1, 1, 0]
    unchanged, none = append_labelled(POINTS, np.zeros((0, 1), int), calls=CALLS)
    assert unchanged is POINTS and len(none) == 0


def test_step_5_sorts_worst_first_and_breaks_ties_for_the_earlier():
    copies = [
        Copy(t, None, np.array(correct))
        for t, correct in ((A, [1, 1]), (B, [0, 0]), (C, [1, 0]), (D, [0, 1]))
    ]
    assert sort_by_accuracy(copies) == [B, D, C, A]


def test_step_6_is_the_pruning_rule():
    assert remove_worst([B, D, C, A]) == prune([B, D, C, A]) == [C, A]


def test_the_loop_by_hand():
    states = list(agora(start(POINTS, [A, C, D]), POINTS, calls=CALLS))
    # Accuracies ½, ⅔, ⅔: worst first that is A, D, C. A and D share nothing: A leaves alone.
    # Then D and C share rate=2: D leaves, the best stays, and leaves last.
    assert [state.thetas for state in states] == [(C, D), (C,), ()]
    assert [r.added for r in states[-1].rounds] == [4, 4, 4]
    assert len(states[-1].train.y) == 6 + 12
    assert states[-1].best.accuracy == 4 / 6
    assert len(states[-1].best_train.y) == 6  # later rounds were no better: the first stands
    assert states[-1].rounds[0].removed == (A,)


accuracies = st.lists(st.integers(0, 10), min_size=1, max_size=12)


@given(values=st.lists(accuracies, min_size=1, max_size=12), names=st.integers(1, 3))
def test_at_most_as_many_rounds_as_sets_whatever_the_accuracies(values, names):
    rng = np.random.default_rng(len(values))
    sets = {tuple((f"n{k}", int(rng.integers(3))) for k in range(names)) for _ in values}
    draws = iter(np.random.default_rng(0).integers(0, 2, (10_000, 6)).astype(bool))
    calls = CALLS._replace(fit_fn=lambda theta, data: None, score_fn=lambda model, dev: next(draws))
    states = list(agora(start(POINTS, sets), POINTS, calls=calls))
    assert len(states) <= len(sets)
    sizes = [len(sets), *(len(state.thetas) for state in states)]
    assert all(later < earlier for earlier, later in zip(sizes, sizes[1:], strict=False))
    seen = [max(r.accuracies.values()) for r in states[-1].rounds]
    assert states[-1].best.accuracy == max(seen)


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


def test_a_perfect_socrates_fills_in_what_train_does_not_show():
    """Points on a line, positive beyond 0.5; train puts the boundary at 0.35. 1-NN is Timaeus."""
    rng = np.random.default_rng(0)
    truth = lambda x: (x[:, 0] > 0.5).astype(int)
    train_x = np.array([[0.0], [0.05], [0.1], [0.6]])
    dev_x, test_x = rng.uniform(size=(60, 1)), rng.uniform(size=(500, 1))
    train, dev = Dataset(train_x, truth(train_x)), Dataset(dev_x, truth(dev_x))

    def nearest(data, x):
        return data.y[np.abs(x[:, None, 0] - data.x[None, :, 0]).argmin(axis=1)]

    calls = Agora(
        fit_fn=lambda theta, data: data,
        score_fn=lambda data, dev: nearest(data, dev.x) == dev.y,
        generate_fn=lambda x, number: x + rng.uniform(-0.02, 0.02, x.shape),
        label_fn=truth,
    )
    *_, last = agora(start(train, [theta(k=n) for n in range(3)]), dev, calls=calls)
    accuracy = lambda data: (nearest(data, test_x) == truth(test_x)).mean()
    assert accuracy(train) < 0.9 < 0.97 < accuracy(last.best.model)
    assert last.best.accuracy == 1.0


SPECIAL = (0, 1, 2, 3, 4)


def rows_of_text(rng, n=20, s=16):
    x = np.ones((n, s), np.int32)
    for row in x:
        length = rng.integers(1, s - 2)
        row[: length + 2] = [0, *rng.integers(5, 30, length), 2]
    return x


def cycling(x, positions, seed):
    """Always another token than the one that stands there."""
    return 5 + (np.take_along_axis(x, positions, 1) - 4) % 25


@given(
    seed=st.integers(0, 50),
    share=st.floats(0.01, 1),
    copies=st.integers(1, 4),
    passes=st.integers(1, 3),
)
def test_tau_never_returns_dev_text_nor_touches_special_tokens(seed, share, copies, passes):
    rng = np.random.default_rng(seed)
    dev = rows_of_text(rng)
    tau = mlm_tau(
        Tau(copies=copies, share=share, passes=passes, seed=seed),
        resample_fn=cycling,
        special=SPECIAL,
        forbidden=dev,
    )
    made = tau(dev[:7], 1)
    known = {row.tobytes() for row in dev}
    assert not known & {row.tobytes() for row in made}
    assert len({row.tobytes() for row in made}) == len(made) <= 7 * copies
    shapes = {np.isin(row, SPECIAL).tobytes() for row in dev[:7]}
    assert {np.isin(row, SPECIAL).tobytes() for row in made} <= shapes
    assert np.array_equal(made, tau(dev[:7], 1))


def test_tau_changes_about_the_share_that_was_asked_for():
    rng = np.random.default_rng(0)
    x = np.concatenate([np.zeros((50, 1), int), rng.integers(5, 30, (50, 40))], axis=1)
    tau = mlm_tau(
        Tau(copies=1, share=0.25, passes=1), resample_fn=cycling, special=SPECIAL, forbidden=x
    )
    changed = (tau(x, 1) != x).sum(axis=1)
    assert set(changed) == {10}


def test_a_row_of_special_tokens_alone_gives_nothing():
    x = np.array([[0, 2, 1, 1]], np.int32)
    tau = mlm_tau(Tau(), resample_fn=lambda x, p, s: 7 + 0 * p, special=SPECIAL, forbidden=x[:0])
    assert len(tau(x, 1)) == 0


@pytest.mark.parametrize("share", [0, -1, 1.1])
def test_a_share_outside_its_interval_is_refused(share):
    with pytest.raises(ValueError, match="share"):
        mlm_tau(Tau(share=share), resample_fn=cycling, special=SPECIAL, forbidden=np.zeros((0, 4)))


def test_copies_of_held_out_rows_are_counted():
    from bort_jax.commands.agora import copies

    train = np.array([[1, 2], [3, 4], [1, 2], [5, 6]])
    assert copies(train, np.array([[1, 2], [6, 5]])) == 2

# SPDX-License-Identifier: Apache-2.0
"""Rounds on disk: lineage, resuming after and within a round, replay."""

import json
import shutil

import numpy as np
import pytest

from bort_jax.agora import (
    Agora,
    Dataset,
    Store,
    Window,
    agora,
    ball_tau,
    euclidean,
    generator,
    grid,
    nearest_rows,
    resume,
    start,
)

THETAS = grid(rate=[1, 2, 3], seed=[0, 1])


class Stop(BaseException):
    """As a kill: nothing catches it."""


def truth(x):
    """A disc: no plane is right everywhere."""
    return (((x - 0.5) ** 2).sum(axis=1) < 0.1).astype(np.int32)


def sure(labels, confidences):
    """Probabilities of two classes."""
    other = 1 - confidences
    return np.where(labels[:, None] == [0, 1], confidences[:, None], other[:, None])


def problem():
    rng = np.random.default_rng(0)
    train_x, dev_x = rng.uniform(0, 0.7, (30, 2)), rng.uniform(size=(60, 2))
    return Dataset(train_x, truth(train_x)), Dataset(dev_x, truth(dev_x))


def fitted(theta, data):
    """A least-squares plane through a part of the rows that θ decides."""
    options = dict(theta)
    rows = np.arange(len(data.y)) % (options["rate"] + 1) == options["seed"]
    x = np.c_[data.x[rows], np.ones(rows.sum())]
    return np.linalg.lstsq(x, 2.0 * data.y[rows] - 1, rcond=None)[0]


def socrates(x):
    """Surer of points that are far from a diagonal."""
    sure = 0.5 + 0.5 * np.clip(np.abs(x.sum(axis=1, keepdims=True) - 1), 0.01, 0.99)
    return np.where(np.arange(2) == truth(x)[:, None], sure, 1 - sure)


def calls(fits=None):
    def fit(thetas, data):
        for theta in thetas:
            if fits is not None:
                fits.append((theta, len(data.y)))
            yield fitted(theta, data)

    return Agora(
        fit_fn=fit,
        score_fn=lambda w, dev: (np.c_[dev.x, np.ones(len(dev.x))] @ w > 0) == dev.y,
        generate_fn=generator(
            ball_tau(0.1), samples_per_error=2, window=Window(distance_fn=euclidean)
        ),
        label_fn=socrates,
        neighbours=nearest_rows(problem()[1].x),
    )


def store_at(folder, **rest):
    return Store(folder, pack=lambda w: {"w": w}, unpack=lambda arrays: arrays["w"], **rest)


def run(folder, *, fits=None, first=None, the_calls=None):
    train, dev = problem()
    first = first or start(train, THETAS, seed=3)
    return list(resume(store_at(folder), first, dev, calls=the_calls or calls(fits)))


def assert_same(one, other):
    assert one.rounds == other.rounds and one.thetas == other.thetas
    assert one.train.targets is not None
    for a, b in zip(one.train + one.best_train, other.train + other.best_train, strict=True):
        assert np.array_equal(a, b) if isinstance(a, np.ndarray) else a is b
    assert np.array_equal(one.champion.model, other.champion.model)
    assert np.array_equal(one.champion.correct, other.champion.correct)
    assert one.champion.theta == other.champion.theta
    for a, b in zip(one.origins, other.origins, strict=True):
        assert a.taus == b.taus
        assert all(np.array_equal(a[k], b[k]) for k in (0, 2, 3))


def test_on_disk_is_as_in_memory(tmp_path):
    train, dev = problem()
    memory = list(agora(start(train, THETAS, seed=3), dev, calls=calls()))
    disk = run(tmp_path)
    assert len(memory) == len(disk) >= 3
    for one, other in zip(memory, disk, strict=True):
        assert_same(one, other)
    assert_same(run(tmp_path)[0], disk[-1])  # a finished run gives its last state


def test_resuming_after_any_round_is_the_straight_run(tmp_path):
    straight = run(tmp_path / "straight")
    for stop in range(1, len(straight)):
        folder = tmp_path / f"stop{stop}"
        train, dev = problem()
        first = start(train, THETAS, seed=3)
        states = resume(store_at(folder), first, dev, calls=calls())
        for _ in range(stop):
            next(states)
        rest = run(folder)
        assert len(rest) == len(straight) - stop
        assert_same(rest[-1], straight[-1])


@pytest.mark.parametrize("at", range(1, 10))
def test_a_round_that_is_killed_does_not_fit_again_what_it_had_finished(tmp_path, at):
    straight_fits, fits, count = [], [], [0]
    straight = run(tmp_path / "straight", fits=straight_fits)

    def killed_fit(thetas, data):
        for theta in thetas:
            count[0] += 1
            if count[0] > at:
                raise Stop
            yield from calls(fits).fit_fn([theta], data)

    with pytest.raises(Stop):
        run(tmp_path / "killed", the_calls=calls()._replace(fit_fn=killed_fit))
    rest = run(tmp_path / "killed", fits=fits)
    assert fits == straight_fits  # in the same order, each once
    assert_same(rest[-1], straight[-1])


def test_first_points_are_made_again_alike_after_a_kill(tmp_path):
    with_first = calls()._replace(first_fraction=0.2)
    straight = run(tmp_path / "straight", the_calls=with_first)
    assert straight[0].rounds[0].fitted_rows == 30 + 2 * 12
    stops = iter([False, True])

    def fit(thetas, data):
        for theta in thetas:
            if next(stops, False):
                raise Stop
            yield fitted(theta, data)

    with pytest.raises(Stop):
        run(tmp_path / "killed", the_calls=with_first._replace(fit_fn=fit))
    rest = run(tmp_path / "killed", the_calls=with_first)
    assert_same(rest[-1], straight[-1])
    states = resume(
        store_at(tmp_path / "one"), start(problem()[0], THETAS, seed=3), problem()[1],
        calls=with_first,
    )  # fmt: skip
    next(states)
    assert_same(run(tmp_path / "one", the_calls=with_first)[-1], straight[-1])


def test_resume_remembers_which_copies_diverged(tmp_path):
    def diverges(w, dev):
        return np.full(len(dev.y), np.nan) if diverged(w) else calls().score_fn(w, dev)

    first, fits = fitted(THETAS[0], problem()[0]), []
    diverged = lambda w: np.array_equal(w, first)
    stops = iter([False, False, True])

    def fit(thetas, data):
        for theta in thetas:
            if next(stops, False):
                raise Stop
            yield from calls(fits).fit_fn([theta], data)

    mine = calls()._replace(fit_fn=fit, score_fn=diverges)
    with pytest.raises(Stop):
        run(tmp_path, the_calls=mine)
    last = run(tmp_path, the_calls=mine)[-1]
    assert [theta for theta, _ in fits[: len(THETAS)]] == THETAS
    assert list(last.rounds[0].accuracies.values())[0] is None
    assert THETAS[0] in last.rounds[0].removed and last.champion.accuracy > 0
    assert_same(store_at(tmp_path).load(start(problem()[0], THETAS)), last)


def test_a_model_that_is_one_ahead_of_its_line_counts(tmp_path):
    """The kill fell between the two files of a copy."""
    fits, store, (train, dev) = [], store_at(tmp_path / "torn"), problem()

    def first_alone(thetas, data):
        yield fitted(thetas[0], data)
        raise Stop

    first = start(train, THETAS, seed=3)
    with pytest.raises(Stop):
        list(resume(store, first, dev, calls=calls()._replace(fit_fn=first_alone)))
    (store.partial(1) / "copies.jsonl").unlink()
    (found,) = store.read_copies(1)
    assert found.theta == THETAS[0] and np.array_equal(found.model, fitted(THETAS[0], train))
    assert_same(run(tmp_path / "torn", fits=fits)[-1], run(tmp_path / "straight")[-1])
    assert [theta for theta, _ in fits[: len(THETAS) - 1]] == THETAS[1:]


def test_a_kill_while_a_round_is_written_leaves_the_round_before(tmp_path):
    straight, texts = run(tmp_path / "straight"), iter([["x"] * 1000])

    def second_is_killed(x):
        """Called for each round's lineage, after its points are written."""
        first = next(texts, None)
        if first is None:
            raise Stop
        return first[: len(x)]

    train, dev = problem()
    store = store_at(tmp_path / "killed", text_fn=second_is_killed)
    with pytest.raises(Stop):
        list(resume(store, start(train, THETAS, seed=3), dev, calls=calls()))
    assert store_at(tmp_path / "killed").rounds() == 1
    assert_same(run(tmp_path / "killed")[-1], straight[-1])


def test_lineage_names_every_point(tmp_path):
    train, dev = problem()
    ids = [f"id{row}" for row in range(60)]
    store = store_at(tmp_path, dev_rows=np.arange(60) + 100, ids=ids, text_fn=lambda x: [
        f"{row[0]:.3f}" for row in x])  # fmt: skip
    *_, last = resume(store, start(train, THETAS, seed=3), dev, calls=calls())
    at = last.given_rows
    for number, record in enumerate(last.rounds, start=1):
        lines = store.lineage(number)
        assert len(lines) == record.added
        for line in lines:
            point, parent = last.train.x[at], dev.x[line["parent"]]
            assert line["round"] == number and line["label"] == last.train.y[at]
            assert line["distance"] == pytest.approx(np.linalg.norm(point - parent))
            assert 0 < line["distance"] <= 0.1
            assert (line["tau"], line["settings"]) == ("ball", "min_distance=0.0 max_distance=0.1")
            assert line["dev_row"] == line["parent"] + 100
            assert line["dev_id"] == f"id{line['parent']}" and line["text"] == f"{point[0]:.3f}"
            assert line["confidence"] == pytest.approx(socrates(point[None]).max())
            assert line["probabilities"] == pytest.approx(socrates(point[None])[0])
            at += 1
        best = max(record.accuracies.values())
        assert len({line["parent"] for line in lines}) <= record.mistakes == round(60 * (1 - best))
    assert at == len(last.train.y) > last.given_rows


def test_the_best_copy_of_every_round_that_improved_is_kept(tmp_path):
    states = run(tmp_path)
    best = 0.0
    for number, state in enumerate(states, start=1):
        kept = (tmp_path / f"round-{number:04d}" / "best.safetensors").is_file()
        assert kept == (state.champion.accuracy > best)
        best = state.champion.accuracy
        assert_same(store_at(tmp_path).load(start(problem()[0], THETAS), after=number), state)


def test_what_is_watched_is_kept_with_the_round(tmp_path):
    train, dev = problem()
    first = start(train, THETAS)
    watch = lambda state: {"sets": len(state.thetas)}
    states = list(resume(store_at(tmp_path), first, dev, calls=calls(), watch=watch))
    kept = [store_at(tmp_path).about(n)["watched"]["sets"] for n in range(1, len(states) + 1)]
    assert kept == [len(state.thetas) for state in states]


def contents(folder):
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_replay_goes_on_in_a_folder_of_its_own(tmp_path, after, fresh):
    straight = run(tmp_path / "first")
    before = contents(tmp_path / "first")
    train, dev = problem()
    first, source = start(train, THETAS, seed=3), store_at(tmp_path / "first")
    options = {"after": after, "thetas": THETAS if fresh else ()}
    state = source.branch(tmp_path / "second", first, **options)
    memory = list(agora(state, dev, calls=calls()))
    states = resume(store_at(tmp_path / "second"), first, dev, calls=calls())
    next(states)  # a replay is resumable too
    disk = run(tmp_path / "second")
    assert_same(memory[-1], disk[-1])
    assert contents(tmp_path / "first") == before
    assert disk[-1].replays == 1 and disk[-1].rounds[:after] == straight[-1].rounds[:after]
    assert not np.array_equal(disk[-1].train.x, straight[-1].train.x)
    with pytest.raises(ValueError, match="folder of its own"):
        source.branch(tmp_path / "second", first, **options)


def test_a_replay_of_a_replay_draws_anew_again(tmp_path):
    run(tmp_path / "a")
    train, _ = problem()
    first, ends = start(train, THETAS, seed=3), []
    for one, other, after in (("a", "b", 2), ("b", "c", 1), ("c", "d", 1)):
        source = store_at(tmp_path / one)
        source.branch(tmp_path / other, first, after=after)
        ends.append(run(tmp_path / other)[-1])
    assert [end.replays for end in ends] == [1, 2, 3]
    drawn = {end.train.x[: 30 + end.rounds[0].added + end.rounds[1].added].tobytes()
             for end in ends}  # fmt: skip
    assert len(drawn) == 3


def test_a_round_that_is_not_there_and_another_train_set_are_refused(tmp_path):
    run(tmp_path)
    train, dev = problem()
    with pytest.raises(ValueError, match="there is no round 99"):
        store_at(tmp_path).load(start(train, THETAS), after=99)
    other = Dataset(train.x + 1, train.y)
    with pytest.raises(ValueError, match="another train set"):
        list(resume(store_at(tmp_path), start(other, THETAS), dev, calls=calls()))


def test_files_are_plain(tmp_path):
    run(tmp_path)
    endings = {file.suffix for file in tmp_path.rglob("*") if file.is_file()}
    assert endings == {".json", ".jsonl", ".parquet", ".safetensors"}
    for file in tmp_path.rglob("*.json"):
        json.loads(file.read_text())


@pytest.mark.parametrize("name", ["round.json", "points.safetensors", "lineage.parquet"])
@pytest.mark.parametrize("content", [b"", b'{"given": 1, "round": {"best"', b"{}"])
def test_load_names_the_file_of_a_round_that_is_damaged(finished, name, content):
    (finished / "round-0001" / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}|begun with another train set"):
        store_at(finished).load(start(problem()[0], THETAS, seed=3))


@pytest.fixture
def finished(rounds, tmp_path):
    return shutil.copytree(rounds, tmp_path / "run")


@pytest.fixture(scope="module")
def rounds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rounds")
    run(folder)
    return folder

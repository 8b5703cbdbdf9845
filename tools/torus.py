# SPDX-License-Identifier: Apache-2.0
"""The article's torus: points on its surface (class 1) against points off it (class 0).

    pip install -e '.[homology]'
    python tools/torus.py --seeds 10 --homology --out runs/torus

Class 0 is moved along the normal, in or out, by 0.2 to 0.5 (radii 1 and ½: inwards as far as the
core of the tube, outwards as far as the axis). The train set covers a patch, a fifth of the
torus; dev is a sample of the whole. Timaeus is a network of two hidden layers. Four ways to
train it, with one Θ and the same steps:

  plain         the train set; as many fine-tunings as Agora took, by further seeds
  dev appended  the train set and dev, with the θ that plain chose while dev was still unread
  around dev    as many new points as Agora's best model had, by the same τ and Socrates, spread
                evenly over all of dev rather than near mistakes; as many fine-tunings
  Agora         `bort_jax.agora`, τ a ball

Plain, around dev and Agora choose among their fine-tunings by accuracy on dev. Socrates is a
network of the same shape, trained for longer, that never saw train, dev or test: it learned a
sample of its own in which a share of the labels is wrong. All are scored on a uniform test set,
drawn last and read once. Differences are paired by seed, with 95 % intervals of Student's t. Each
seed is kept when it is finished; the same command goes on.

Homology: landmarks (farthest points first) of a cloud of points, their Vietoris-Rips complex by
ripser, and from its persistence diagrams in dimension 0, 1 and 2 the number of bars that are
alive at one scale, 0.45: born at or below it, dead above it. The geometry leaves a range open:
800 landmarks of a surface of this size are joined well below 0.4, and a circle of radius 0.3, the
smallest hole that is left when a shell of 0.2 is allowed for, fills at 0.3·√3 = 0.52. A torus has
Betti numbers 1, 2, 1, a piece of its tube 1, 1, 0.
"""

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from bort_jax.agora import (
    Agora,
    AgoraState,
    Copy,
    Dataset,
    Mistakes,
    Round,
    Window,
    agora,
    ball_tau,
    euclidean,
    generator,
    grid,
    start,
)
from bort_jax.agora.theta import Theta
from bort_jax.report.paired import gain
from bort_jax.report.terminal import say, show_table
from bort_jax.storage.files import read_json, write_json

MAJOR, MINOR = 1.0, 0.5  # radii
OFF = (0.2, 0.5)  # how far from the surface class 0 is
PATCH = 0.4 * np.pi  # the azimuth that the train set covers
TRAIN, LEARNED, TEST = 200, 3000, 4000  # rows; LEARNED: by Socrates
WRONG = 0.1  # share of the labels that Socrates learned that are wrong
RADIUS, COPIES = 0.4, 20  # of τ: its ball, new points near each mistake
BALL = Window(distance_fn=euclidean)
HIDDEN, STEPS, SOCRATES_STEPS, BATCH = 64, 1500, 6000, 64
CHOICES = {"learning_rate": (1e-2, 3e-3), "weight_decay": (0.0, 1e-2)}
SEEDS = (0, 1, 2)
SOCRATES = (("learning_rate", 3e-3), ("weight_decay", 1e-2), ("seed", 100))
LANDMARKS, SCALE, CLOUD = 800, 0.45, 12000
FIRST_SEED = 100  # the settings above were chosen on seeds below
HEADER = ("", "mean ± deviation", "minus plain", "better on")
BETTI = ("points of class 1", "b0, b1, b2", "seeds")
ARMS = ("plain", "dev appended", "around dev", "Agora")


class Run(NamedTuple):
    """Results of one seed."""

    scores: dict[str, float]  # test accuracy of Socrates and of each arm
    betti: dict[str, tuple[int, ...]]  # of clouds of class 1
    rounds: list[dict]
    shown: dict[str, Dataset]  # the sets of the picture


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument(
        "--dev", type=int, nargs="+", default=[60, 100, 300, 600], help="rows of dev"
    )
    parser.add_argument("--homology", action="store_true", help="Betti numbers too")
    parser.add_argument("--out", type=Path, default=Path("runs/torus"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    seeds = range(FIRST_SEED, FIRST_SEED + options.seeds)
    for rows in options.dev:
        runs = [kept_run(options.out, seed, rows, options.homology) for seed in seeds]
        show_table(f"dev of {rows}: test accuracy, %", HEADER, accuracy_rows(runs))
        show_table(f"dev of {rows}: Betti numbers", BETTI, betti_rows(runs))


def kept_run(out: Path, seed: int, rows: int, homology: bool) -> Run:
    """The results of a seed, from its file where it is finished; the first seed has a picture."""
    file = out / f"dev-{rows}-seed-{seed}.json"
    if not file.is_file():
        run = run_seed(seed, rows, homology=homology)
        if seed == FIRST_SEED:
            drawn = picture(run.shown)
            drawn.savefig(out / f"dev-{rows}.png", dpi=110, bbox_inches="tight")
        write_json(file, run._asdict() | {"shown": {}})
    run = Run(**read_json(file))
    scores = ", ".join(f"{name} {score:.3f}" for name, score in run.scores.items())
    say(f"dev of {rows}, seed {seed}: {scores}")
    return run._replace(betti={name: tuple(numbers) for name, numbers in run.betti.items()})


def run_seed(seed: int, rows: int, *, homology: bool) -> Run:
    """All arms on data drawn from `seed`, with so many rows of dev; with Betti numbers if wanted,
    which take longer than the arms."""
    rng = np.random.default_rng(seed)
    train, dev = sample(rng, TRAIN, azimuth=PATCH), sample(rng, rows)
    socrates = learn_socrates(rng)
    calls = calls_of(socrates)
    thetas = grid(**CHOICES, seed=SEEDS)
    state = [*agora(start(train, thetas, seed=seed), dev, calls=calls)][-1]
    spent = sum(len(record.accuracies) for record in state.rounds)
    plain = best_of(spent, train, dev)
    models = {
        "Socrates": socrates,
        "plain": plain.model,
        "dev appended": fit_population([plain.theta], concatenate(train, dev))[0],
        "around dev": best_of(
            spent, augment_around_dev(state, train, dev, calls=calls, rng=rng), dev
        ).model,
        "Agora": state.champion.model,
    }
    cloud = shell(rng, CLOUD)
    called = {
        f"as {name} calls it": points_of_class_1(models[name], cloud) for name in ("plain", "Agora")
    }
    shown = {"train": train, "dev": dev, "train after Agora": state.best_train}
    clouds = {name: shown[name].x[shown[name].y == 1] for name in ("train", "train after Agora")}
    test = sample(rng, TEST)
    return Run(
        scores={name: float(correct_points(model, test).mean()) for name, model in models.items()},
        betti={name: betti(x) for name, x in (clouds | called).items() if homology},
        rounds=[summary(record) for record in state.rounds],
        shown=shown,
    )


def calls_of(socrates) -> Agora:
    """Agora on vectors."""
    return Agora(
        fit_fn=fit_population,
        score_fn=correct_points,
        generate_fn=generator(ball_tau(RADIUS), samples_per_error=COPIES, window=BALL),
        label_fn=lambda x: probabilities(socrates, x),
        soft_labels=False,
    )


def near_surface(rng, n: int, *, azimuth: float, moved) -> Float[np.ndarray, "n 3"]:
    """Uniform by area (the outer half of the tube is the larger one), moved along the normal."""
    drawn = rng.uniform(0, 2 * np.pi, 8 * n)
    kept = rng.uniform(0, MAJOR + MINOR, 8 * n) < MAJOR + MINOR * np.cos(drawn)
    tube, around = drawn[kept][:n], rng.uniform(0, azimuth, n)
    radius = MAJOR + (MINOR + moved) * np.cos(tube)
    x, y = radius * np.cos(around), radius * np.sin(around)
    return np.stack([x, y, (MINOR + moved) * np.sin(tube)], axis=1)


def sample(rng, n: int, *, azimuth: float = 2 * np.pi) -> Dataset:
    """n points, half of them on the surface."""
    y = np.arange(n) < n // 2
    moved = rng.choice([-1, 1], n) * rng.uniform(*OFF, n)
    x = near_surface(rng, n, azimuth=azimuth, moved=np.where(y, 0, moved))
    return Dataset(x.astype(np.float32), y.astype(np.int32))


def concatenate(a: Dataset, b: Dataset) -> Dataset:
    return Dataset(np.concatenate([a.x, b.x]), np.concatenate([a.y, b.y]))


def shell(rng, n: int) -> Float[np.ndarray, "n 3"]:
    """Points anywhere between the two classes' outermost."""
    moved = rng.uniform(-OFF[1], OFF[1], n)
    return near_surface(rng, n, azimuth=2 * np.pi, moved=moved).astype(np.float32)


def draw_params(key) -> list[tuple[Array, Array]]:
    """Three dense layers."""
    sizes = (3, HIDDEN, HIDDEN, 1)
    draw = jax.nn.initializers.he_normal()
    keys = jax.random.split(key, 3)
    return [
        (draw(k, shape), jnp.zeros(shape[1]))
        for k, shape in zip(keys, zip(sizes, sizes[1:], strict=False), strict=True)
    ]


def logit(params, x: Float[Array | np.ndarray, "n 3"]) -> Float[Array, " n"]:
    hidden = jnp.asarray(x)
    for weight, bias in params[:-1]:
        hidden = jax.nn.relu(hidden @ weight + bias[None])
    weight, bias = params[-1]
    return (hidden @ weight + bias[None])[:, 0]


@jax.jit
def train_networks(hyper: dict[str, Array], x, y, rows, steps):
    """A network for each member of `hyper`; `rows` is how many of the padded points count."""

    def one(member):
        optimizer = optax.chain(
            optax.scale_by_adam(),
            optax.add_decayed_weights(member["weight_decay"]),
            optax.scale_by_learning_rate(member["learning_rate"]),
        )
        key = jax.random.key(member["seed"])
        params = draw_params(key)

        def loss(params, picked):
            return optax.sigmoid_binary_cross_entropy(logit(params, x[picked]), y[picked]).mean()

        def step(number, state):
            params, opt_state = state
            picked = jax.random.randint(jax.random.fold_in(key, number), (BATCH,), 0, rows)
            grads = jax.grad(loss)(params, picked)
            updates, opt_state = optimizer.update(grads, opt_state, params)
            return optax.apply_updates(params, updates), opt_state

        return jax.lax.fori_loop(0, steps, step, (params, optimizer.init(params)))[0]

    return jax.vmap(one)(hyper)


def fit_population(thetas: Sequence[Theta], train: Dataset, *, steps: int = STEPS) -> list[Any]:
    """One program for all of Θ; points are padded to a power of two, which compiles seldom."""
    members = [dict(theta) for theta in thetas]
    hyper = {name: np.array([member[name] for member in members]) for name in members[0]}
    room = 1 << (len(train.y) - 1).bit_length()
    x, y = np.resize(train.x, (room, 3)), np.resize(train.y, room).astype(np.float32)
    params = jax.device_get(train_networks(hyper, x, y, len(train.y), steps))
    return [jax.tree.map(lambda leaf, k=k: leaf[k], params) for k in range(len(members))]


def predict(params, x: Float[np.ndarray, "n 3"]) -> Int[np.ndarray, " n"]:
    return np.asarray(logit(params, x) > 0).astype(np.int32)


def probabilities(params, x: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 2"]:
    outputs = logit(params, x)
    return np.asarray(jax.nn.sigmoid(jnp.stack([-outputs, outputs], axis=1)))


def correct_points(params, points: Dataset) -> Bool[np.ndarray, " n"]:
    return predict(params, points.x) == points.y


def points_of_class_1(params, x: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "m 3"]:
    """The points that a network calls class 1."""
    return x[predict(params, x) == 1]


def learn_socrates(rng):
    """A network that learned a sample of its own with wrong labels in it."""
    points = sample(rng, LEARNED)
    flipped = np.where(rng.uniform(size=LEARNED) < WRONG, 1 - points.y, points.y)
    return fit_population([SOCRATES], Dataset(points.x, flipped), steps=SOCRATES_STEPS)[0]


def best_of(runs: int, train: Dataset, dev: Dataset) -> Copy:
    """The best on dev of so many fine-tunings: Θ, then Θ with further seeds."""
    endless = ((*theta, ("seed", seed)) for seed in count() for theta in grid(**CHOICES))
    thetas = list(islice(endless, runs))
    models = fit_population(thetas, train)
    copies = [Copy(t, m, correct_points(m, dev)) for t, m in zip(thetas, models, strict=True)]
    return max(copies, key=lambda copy: copy.accuracy)


def augment_around_dev(
    state: AgoraState, train: Dataset, dev: Dataset, *, calls: Agora, rng
) -> Dataset:
    """The train set and as many points as Agora's best model had, as many near each dev point."""
    budget = len(state.best_train.y) - len(train.y)
    if not budget:
        return train
    each, rows = -(-budget // len(dev.y)), np.arange(len(dev.y))
    generate_fn = generator(ball_tau(RADIUS), samples_per_error=each, window=BALL)
    x = generate_fn(Mistakes(dev.x, rows, train.x), rng).x
    x = x[rng.permutation(len(x))[:budget]]
    return train.append(Dataset.of_answers(x, calls.label_fn(x), soft=False))


def betti(x: Float[np.ndarray, "n 3"]) -> tuple[int, ...]:
    """Bars alive at `SCALE` in dimension 0, 1 and 2."""
    from ripser import ripser

    landmarks = min(LANDMARKS, len(x))
    diagrams = ripser(x, maxdim=2, thresh=1.2 * SCALE, n_perm=landmarks)["dgms"]
    return tuple(int(((d[:, 0] <= SCALE) & (SCALE < d[:, 1])).sum()) for d in diagrams)


def summary(record: Round) -> dict:
    """A round as a line of the record."""
    return {
        "sets": len(record.accuracies),
        "dev": record.accuracy,
        "mistakes": record.mistakes,
        "added": record.added,
        "train": record.train_size,
    }


def accuracy_rows(runs: Sequence[Run]) -> Iterator[tuple]:
    of = lambda name: 100 * np.array([run.scores[name] for run in runs])
    better = lambda a, b: f"{(of(a) > of(b)).sum()} of {len(runs)}"
    for name in ("Socrates", *ARMS):
        mean = f"{of(name).mean():.1f} ± {of(name).std(ddof=1):.1f}"
        yield name, mean, str(gain(of(name), of("plain"))), better(name, "plain")
    for other in ("dev appended", "around dev", "Socrates"):
        yield f"Agora − {other}", "", str(gain(of("Agora"), of(other))), better("Agora", other)


def betti_rows(runs: Sequence[Run]) -> Iterator[tuple]:
    for name in runs[0].betti:
        for numbers, seeds in Counter(run.betti[name] for run in runs).most_common():
            yield name, ", ".join(map(str, numbers)), f"{seeds} of {len(runs)}"


def picture(shown: dict[str, Dataset]):
    """Each set in three dimensions: class 1 in blue, class 0 faint."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    drawn = plt.figure(figsize=(13, 4.6))
    for place, (name, points) in enumerate(shown.items(), 1):
        axis: Any = drawn.add_subplot(1, len(shown), place, projection="3d")
        for label, color, alpha, size in ((0, "#d9631e", 0.25, 3), (1, "#0b63b6", 0.8, 6)):
            axis.scatter(*points.x[points.y == label].T, s=size, c=color, alpha=alpha, linewidths=0)
        axis.set(title=f"{name}: {len(points.y)} points", xlim=(-2, 2), ylim=(-2, 2), zlim=(-1, 1))
        axis.set_box_aspect((2, 2, 1))
        axis.view_init(elev=40, azim=-60)
    return drawn


if __name__ == "__main__":
    main()

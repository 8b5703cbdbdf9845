# SPDX-License-Identifier: Apache-2.0
"""A run of Agora on disk: a folder for each round, none of which is ever changed.

`round-0003` holds what happened (`round.json`), the points added (`points.safetensors`), where each
comes from (`lineage.parquet`), and the best copy where none was better before
(`best.safetensors`). A round in progress is `round-0003.partial`, with the copies that
are finished; renaming it is what makes the round count.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from shutil import copytree, rmtree
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from bort_jax.agora.dataset import Dataset
from bort_jax.agora.lift import Lift
from bort_jax.agora.loop import Agora, agora, replay
from bort_jax.agora.records import AgoraState, Copy, Origin, Round
from bort_jax.agora.theta import Theta
from bort_jax.storage.checks import expect, explain_damage
from bort_jax.storage.files import read_json, whole_file, write_json, write_text

CORRECT = "agora.correct"
REPLAYS, POINTS = "replays.json", "points.safetensors"
FINAL = "final.safetensors"


@dataclass(frozen=True)
class Store:
    """Keeps and finds rounds; it is the `Journal` of the round in progress too.

    Attributes:
      folder: of the run.
      pack: a model to named arrays.
      unpack: and back.
      dev_rows: where the points that steer stand in the dev file; none: they are the file.
      ids: their names; none: there are no names.
      text_fn: points to texts, for lineage to be read by people.
    """

    folder: Path
    pack: Callable[[Any], Mapping[str, np.ndarray]]
    unpack: Callable[[dict[str, np.ndarray]], Any]
    dev_rows: Sequence[int] | np.ndarray = ()
    ids: Sequence[str] = ()
    text_fn: Callable[[np.ndarray], Sequence[str]] | None = None

    def round_folder(self, number: int) -> Path:
        return self.folder / f"round-{number:04d}"

    def partial(self, number: int) -> Path:
        return self.folder / f"round-{number:04d}.partial"

    def read_copies(self, number: int) -> list[Copy]:
        """The copies of a round that was cut off."""
        file = self.partial(number) / "copies.jsonl"
        with explain_damage(file):
            copies = [_parse_copy(line) for line in _read_lines(file)]
        best = _read_best(self.partial(number), self.unpack)
        if best is None:
            return copies
        # The model is written before its line: it may be one copy ahead of them.
        others = [copy for copy in copies if copy.theta != best.theta]
        if len(others) == len(copies):
            return [*copies, best]
        return [best if copy.theta == best.theta else copy for copy in copies]

    def record(self, number: int, copy: Copy) -> None:
        folder = self.partial(number)
        folder.mkdir(parents=True, exist_ok=True)
        if copy.model is not None:
            _write_best(folder, copy, self.pack)
        file = folder / "copies.jsonl"
        lines = [*_read_lines(file), _copy_line(copy)]
        write_text(file, "".join(line + "\n" for line in lines))

    def write_final(self, model: Any) -> None:
        """Keeps the model of the last fine-tuning."""
        with whole_file(self.folder / FINAL) as partial:
            save_file(dict(self.pack(model)), str(partial))

    def read_final(self) -> Any:
        with explain_damage(self.folder / FINAL):
            return self.unpack(load_file(self.folder / FINAL))

    def commit(self, state: AgoraState, watched: Mapping[str, Any]) -> None:
        """Makes the state's last round count, with what `watch` said of it."""
        number = len(state.rounds)
        folder, record, origin = self.partial(number), state.rounds[-1], state.origins[-1]
        folder.mkdir(parents=True, exist_ok=True)
        points = state.train.take(slice(len(state.train.y) - record.added, None))
        improved = all(record.accuracy > one.accuracy for one in state.rounds[:-1])
        if improved:
            _write_best(folder, state.champion, self.pack)
        else:
            (folder / "best.safetensors").unlink(missing_ok=True)
        kept = {name: part for name, part in points._asdict().items() if part is not None}
        arrays = {name: np.ascontiguousarray(part) for name, part in kept.items()}
        with whole_file(folder / POINTS) as partial:
            save_file(arrays, str(partial))
        with whole_file(folder / "lineage.parquet") as partial:
            self.write_lineage(partial, origin, points, number)
        about = {
            "given": digest(state.train, state.given_rows),
            "improved": improved,
            "thetas": state.thetas,
            "round": record._asdict(),
            "watched": watched,
        }
        write_json(folder / "round.json", about)
        folder.rename(self.round_folder(number))

    def write_lineage(self, file: Path, origin: Origin, points: Dataset, number: int) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        parents = [int(row) for row in origin.parents]
        rows = [int(self.dev_rows[row]) for row in parents] if len(self.dev_rows) else parents
        columns = {
            "round": pa.array([number] * len(points.y), pa.int32()),
            "parent": pa.array(parents, pa.int32()),
            "dev_row": pa.array(rows, pa.int32()),
            "dev_id": pa.array([self.ids[row] if self.ids else "" for row in parents], pa.string()),
            "tau": pa.array([tau.partition(" ")[0] for tau in origin.taus], pa.string()),
            "settings": pa.array([tau.partition(" ")[2] for tau in origin.taus], pa.string()),
            "label": pa.array(points.y),
            "confidence": pa.array(origin.confidences, pa.float64()),
            "probabilities": pa.array(soft_rows(points), pa.list_(pa.float32())),
            "distance": pa.array(origin.distances, pa.float64()),
            "pool_row": pa.array(origin.sources, pa.int64()),
        }
        if self.text_fn:
            columns["text"] = pa.array(self.text_fn(points.x), pa.string())
        pq.write_table(pa.table(columns), file)

    def about(self, number: int) -> dict:
        """Reads `round.json`."""
        return read_json(self.round_folder(number) / "round.json")

    def lineage(self, number: int) -> list[dict]:
        """A record for each point that a round added."""
        import pyarrow.parquet as pq

        return pq.read_table(self.round_folder(number) / "lineage.parquet").to_pylist()

    def rounds(self) -> int:
        """The number of finished rounds."""
        return next(n for n in count() if not self.round_folder(n + 1).is_dir())

    def load(self, first: AgoraState, *, after: int | None = None) -> AgoraState:
        """The state after a round, or after the last; `first` where there is none.

        Args:
          first: the state before the first round.
          after: which round; 0 is `first`.

        Raises:
          ValueError: there is no such round, or the run began with another train set.
        """
        done = self.rounds()
        after = done if after is None else after
        if not 0 <= after <= done:
            raise ValueError(f"{self.folder} has {done} finished rounds; there is no round {after}")
        with explain_damage(self.folder / REPLAYS):
            replays = {one["after"]: one for one in self.replays()}
        state, best = _apply_replay(first, replays.get(0)), None
        for number in range(1, after + 1):
            about = self.about(number)
            if about.get("given") != digest(first.train, len(first.train.y)):
                raise ValueError(f"{self.folder} was begun with another train set")
            best = number if about.get("improved") else best
            state = _apply_replay(self._with_round(state, about, number), replays.get(number))
        return state if best is None else state._replace(best=self._best(best))

    def replays(self) -> list[dict]:
        """The replays that led to this run: `after` which round, `number`, and Θ."""
        file = self.folder / REPLAYS
        if not file.is_file():
            return []
        with explain_damage(file):
            return [dict(one) for one in json.loads(file.read_bytes())]

    def branch(
        self, folder: Path, first: AgoraState, *, after: int, thetas: Sequence[Theta] = ()
    ) -> AgoraState:
        """Begins a replay in another folder, with copies of the rounds before it; this run stays
        as it is, and nothing is lost.

        Args:
          first: the state before the first round.
          after: the round whose data set the replay starts from.
          thetas: a fresh Θ; none: what that round left.

        Returns:
          the state that the other folder now gives.

        Raises:
          ValueError: there is no such round, no set is left, or the other folder is there already.
        """
        state = replay(self.load(first, after=after), thetas)
        if folder.is_dir():
            raise ValueError(f"{folder} holds rounds already; a replay needs a folder of its own")
        partial = folder.with_name(folder.name + ".partial")
        rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for number in range(1, after + 1):
            copytree(self.round_folder(number), partial / self.round_folder(number).name)
        number = 1 + max((one["number"] for one in self.replays()), default=0)
        earlier = [one for one in self.replays() if one["after"] < after]
        this = {"after": after, "number": number, "thetas": state.thetas}
        write_json(partial / REPLAYS, [*earlier, this])
        partial.rename(folder)
        return state._replace(replays=number)

    def _with_round(self, state: AgoraState, about: dict, number: int) -> AgoraState:
        folder = self.round_folder(number)
        with explain_damage(folder / POINTS):
            points = Dataset(**load_file(folder / POINTS))
            train = state.train.append(points)
        with explain_damage(folder / "round.json"):
            record = _round(about["round"])
            expect(record.added == len(points.y), f"{record.added} points added")
            thetas = tuple(map(_theta, about["thetas"]))
        with explain_damage(folder / "lineage.parquet"):
            origin = read_origin(folder / "lineage.parquet")
            expect(len(origin.parents) == len(points.y), f"{len(origin.parents)} points")
        return state._replace(
            train=train,
            thetas=thetas,
            best_rows=record.fitted_rows if about.get("improved") else state.best_rows,
            rounds=(*state.rounds, record),
            origins=(*state.origins, origin),
        )

    def _best(self, number: int) -> Copy | None:
        return _read_best(self.round_folder(number), self.unpack)


def resume(
    store: Store,
    first: AgoraState,
    dev: Dataset,
    *,
    calls: Agora,
    watch: Callable[[AgoraState], dict] = lambda state: {},
) -> Iterator[AgoraState]:
    """`agora`, going on from what the folder holds; each round is kept before it is yielded.

    A finished run yields its last state once.

    Args:
      watch: called with each new state; what it returns is kept with the round.

    Raises:
      ValueError: the folder was begun with another train set.
    """
    state = store.load(first)
    if state.rounds and not state.thetas:
        yield state
    for state in agora(state, dev, calls=calls, journal=store):
        store.commit(state, watch(state))
        yield state


def read_origin(file: Path) -> Origin:
    import pyarrow.parquet as pq

    columns = pq.read_table(file).to_pydict()
    taus = zip(columns["tau"], columns["settings"], strict=True)
    return Origin(
        np.array(columns["parent"], int),
        tuple(" ".join(pair).strip() for pair in taus),
        np.array(columns["distance"], float),
        np.array(columns["confidence"], float),
        np.array(columns["pool_row"], int),
    )


def soft_rows(points: Dataset) -> list[list[float] | None]:
    """The soft label of each point; None where labels are certain."""
    return [None] * len(points.y) if points.targets is None else points.targets.tolist()


def digest(train: Dataset, rows: int) -> str:
    """SHA-256 of the first rows of a train set."""
    parts = (np.ascontiguousarray(part[:rows]).tobytes() for part in (train.x, train.y))
    return hashlib.sha256(b"".join(parts)).hexdigest()


def _apply_replay(state: AgoraState, one: dict | None) -> AgoraState:
    if one is None:
        return state
    return replay(state, tuple(map(_theta, one["thetas"])))._replace(replays=one["number"])


def _theta(pairs: list) -> Theta:
    return tuple((name, value) for name, value in pairs)


def _round(record: dict) -> Round:
    return Round(
        **record
        | {
            "best": _theta(record["best"]),
            "removed": tuple(map(_theta, record["removed"])),
            "removed_by": _theta(record["removed_by"]),
            "labels_added": {int(label): n for label, n in record["labels_added"].items()},
            "distances": tuple(record["distances"]),
            "passed_over": tuple(record["passed_over"]),
            "lift": record["lift"] and Lift(*record["lift"]),
        }
    )


def _copy_line(copy: Copy) -> str:
    """A copy without its model; `correct` is null where its training diverged."""
    diverged = np.isnan(copy.accuracy)
    correct = None if diverged else "".join("01"[int(bit)] for bit in copy.correct)
    return json.dumps({"theta": copy.theta, "correct": correct})


def _parse_copy(line: str) -> Copy:
    record = json.loads(line)
    bits = record["correct"]
    correct = np.array([np.nan] if bits is None else [bit == "1" for bit in bits])
    return Copy(_theta(record["theta"]), None, correct)


def _read_lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.is_file() else []


def _write_best(folder: Path, copy: Copy, pack: Callable) -> None:
    arrays = dict(pack(copy.model)) | {CORRECT: copy.correct.astype(bool)}
    with whole_file(folder / "best.safetensors") as partial:
        save_file(arrays, str(partial), metadata={"theta": json.dumps(copy.theta)})


def _read_best(folder: Path, unpack: Callable) -> Copy | None:
    file = folder / "best.safetensors"
    if not file.is_file():
        return None
    with explain_damage(file):
        with safe_open(str(file), "np") as opened:
            theta = _theta(json.loads((opened.metadata() or {})["theta"]))
        arrays = load_file(file)
        correct = arrays.pop(CORRECT)
        return Copy(theta, unpack(arrays), correct)

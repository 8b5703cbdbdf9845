# SPDX-License-Identifier: Apache-2.0
"""Names of the Hugging Face hub, `org/name` or `org/name@revision`, and the folders they stand for.

Files come through `huggingface_hub`: its cache, its progress bars and its environment variables
(`HF_ENDPOINT`, `HF_HUB_OFFLINE`, `HF_TOKEN`) are the user's own."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from bort_jax.storage.files import read_json

NAME = re.compile(r"(\w[\w.-]*/\w[\w.-]*)(?:@([\w./-]+))?")
# A data set has a prefix: a misspelt path is not looked for on the network.
DATA = "hub:"
DATA_NAME = re.compile(r"hub:([\w./-]+)(?::([\w.-]+))?(?:@([\w./-]+))?(?:#(\w+))?")
# All that a tokenizer is read from.
TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
)
# Options that take a checkpoint or its tokenizer.
CHECKPOINTS = (
    *("model", "teacher", "parent", "socrates", "masked_lm", "init_from", "tokenizer"),
    "pool_encoder",
)
ROWS = ("data", "unlabelled", "pool")
RECORD = "run.json"


class HubName(NamedTuple):
    """A repository at a revision.

    Attributes:
      name: `org/name`.
      revision: a branch, a tag or a commit; None is the main branch.
      kind: `model` or `dataset`.
    """

    name: str
    revision: str | None = None
    kind: str = "model"

    def __str__(self) -> str:
        return f"{self.name}@{self.revision}" if self.revision else self.name

    def pinned(self) -> "HubName":
        """The same at the commit that its revision is now; offline, that it was when last asked.

        Raises:
          FileNotFoundError: no such repository or revision, a gated one, or the hub is out of
            reach.
        """
        from huggingface_hub import HfApi

        with explained(self):
            found = HfApi().resolve_revision(self.name, repo_type=self.kind, revision=self.revision)
        return self._replace(revision=found.resolved)


def hub_name(source: str | Path, *, revision: str | None = None) -> HubName | None:
    """The hub's model that a source names; None for a path. A file or folder of that name wins.

    Raises:
      ValueError: two revisions, or a revision of a folder.
    """
    found = NAME.fullmatch(str(source))
    if Path(source).exists() or not found:
        if revision:
            raise ValueError(f"{source} is no name of the hub: it has no revision {revision}")
        return None
    if revision and found[2]:
        raise ValueError(f"two revisions: {source}, and {revision}")
    return HubName(found[1], revision or found[2])


class DataName(NamedTuple):
    """A split of a data set of the hub: `hub:NAME[:SUBSET][@REVISION][#SPLIT]`."""

    name: str
    subset: str | None
    revision: str | None
    split: str

    @classmethod
    def parse(cls, source: str) -> "DataName":
        """Raises ValueError for what is no such name."""
        found = DATA_NAME.fullmatch(source)
        if not found:
            raise ValueError(f"expected {DATA}NAME[:SUBSET][@REVISION]; got {source!r}")
        return cls(found[1], found[2], found[3], found[4] or "train")

    def __str__(self) -> str:
        parts = (("", self.name), (":", self.subset), ("@", self.revision))
        split = "" if self.split == "train" else f"#{self.split}"
        return DATA + "".join(mark + part for mark, part in parts if part) + split

    def pinned(self) -> "DataName":
        """The same at the commit that its revision is now; raises as `HubName.pinned`."""
        found = HubName(self.name, self.revision, "dataset").pinned()
        return self._replace(revision=found.revision)


def fetched(name: HubName, patterns: Sequence[str]) -> Path:
    """The folder, in the hub's cache, of those files of a repository that match the patterns.

    Raises:
      FileNotFoundError: as `HubName.pinned`, or the download broke off.
    """
    from huggingface_hub import snapshot_download

    name = name.pinned()
    with explained(name):
        return Path(
            snapshot_download(
                name.name,
                repo_type=name.kind,
                revision=name.revision,
                allow_patterns=list(patterns),
            )
        )


def push_files(name: str, files: Mapping[str, Path | bytes], *, private: bool) -> str:
    """Uploads files as one commit of a model's repository, made where it is new.

    Returns:
      the commit.

    Raises:
      OSError: the hub refuses, or is out of reach; nothing of it is there then.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, constants

    api, added = HfApi(), [CommitOperationAdd(*item) for item in files.items()]
    try:
        api.create_repo(name, private=private or None, exist_ok=True)
        return api.create_commit(name, added, commit_message="Push from bort-jax").oid
    except _network_errors() as error:
        raise OSError(
            f"nothing was pushed to {constants.ENDPOINT}/{name}: {' '.join(str(error).split())} "
            "(`hf auth login` with a token that may write?)"
        ) from error


def tokenizer_folder(source: str | Path) -> Path:
    """The folder of a tokenizer, fetched where the source is a name of the hub."""
    name = hub_name(source)
    return fetched(name, TOKENIZER) if name else Path(source)


def pin_revisions(config: Any) -> Any:
    """Options with every model of the hub at its commit: what the run's record then says.

    A run that is resumed keeps the commits of its record, whatever the hub has by now.

    Raises:
      FileNotFoundError: as `HubName.pinned`.
    """
    given = {field.name: getattr(config, field.name) for field in fields(config)}
    record = _recorded(given.get("out"))
    named = {key: hub_name(given[key]) for key in CHECKPOINTS if given.get(key)}
    rows = {key: DataName.parse(given[key]) for key in ROWS if is_data(given.get(key))}
    pins = {
        key: record[key] if _is_pin(record.get(key), name) else str(name.pinned())
        for key, name in (named | rows).items()
        if name
    }
    return replace(config, **pins) if pins else config


def is_data(source: Any) -> bool:
    """Whether a source of rows is a data set of the hub."""
    return str(source).startswith(DATA)


def _recorded(out: str | None) -> dict[str, Any]:
    file = Path(out or ".") / RECORD
    found = read_json(file).get("config") if out and file.is_file() else None
    return found if isinstance(found, dict) else {}


def _is_pin(recorded: Any, name: HubName | DataName) -> bool:
    return isinstance(recorded, str) and not name.revision and recorded.startswith(f"{name}@")


@contextmanager
def explained(name: HubName) -> Iterator[None]:
    """Errors of the hub in one sentence each, with what to do, as FileNotFoundError."""
    from huggingface_hub import constants, errors

    where = f"{constants.ENDPOINT}/{'datasets/' * (name.kind == 'dataset')}{name.name}"
    try:
        yield
    except errors.GatedRepoError as error:
        raise FileNotFoundError(
            f"{name.name} is gated: accept its terms at {where}, then log in with `hf auth login`"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"no folder {name.name}, and no {name.kind} of that name on the hub ({where}); a "
            "private one needs `hf auth login`"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise FileNotFoundError(
            f"{name.name} has no revision {name.revision} on the hub"
        ) from error
    except (*_network_errors(), errors.RevisionResolutionError) as error:
        raise FileNotFoundError(f"no folder {name}, and {_reason(error)}") from error


def _network_errors() -> tuple[type[Exception], ...]:
    from huggingface_hub import errors

    return (errors.HTTPError, OSError)  # pyright: ignore[reportPrivateImportUsage]


def _reason(error: Exception) -> str:
    from huggingface_hub import constants

    if constants.is_offline_mode():
        return "HF_HUB_OFFLINE is set and the hub's cache does not have it whole"
    return (
        f"the hub ({constants.ENDPOINT}) does not give it ({' '.join(str(error).split())}): what "
        "was fetched is kept, and the same command goes on"
    )

# SPDX-License-Identifier: Apache-2.0
"""SRC is a run folder, whose model, model card and report are uploaded, or the folder of a model.
All of it is one commit of the Hugging Face hub, under the account of `hf auth login`. What others
load is `--model ORG/NAME@COMMIT`, or `bort_jax.load("ORG/NAME", revision="COMMIT")`."""

from dataclasses import dataclass
from pathlib import Path

from bort_jax.interop import hf_class, load
from bort_jax.interop.formats import FILES
from bort_jax.interop.huggingface import CARD, CONFIG
from bort_jax.interop.model_card import model_card
from bort_jax.report.terminal import show_box
from bort_jax.storage.hub import NAME, push_files

POSITIONAL = {"source": "run folder, or folder of a model", "name": "ORG/NAME on the hub"}
REPORT = "report.html"


@dataclass(frozen=True)
class Config:
    """A model and the name that it gets.

    Attributes:
      source: run folder, or folder of a model.
      name: ORG/NAME on the hub; what is there gets a new commit.
      dry_run: say what would be uploaded, and end.
      private: a repository that is new is one's own to see.
    """

    source: str
    name: str
    dry_run: bool = False
    private: bool = False


def run(config: Config) -> None:
    name = NAME.fullmatch(config.name)
    if not name or name[2]:
        raise ValueError(f"the name on the hub is ORG/NAME; got {config.name!r}")
    files = files_of(Path(config.source), config.name)
    lines = [f"{path}: {size_of(content):,} bytes" for path, content in files.items()]
    if config.dry_run:
        show_box("dry run: nothing is uploaded", [f"to {config.name}:", *lines])
        return
    commit = push_files(config.name, files, private=config.private)
    show_box("pushed", [*lines, f"next: bort-jax predict --model {config.name}@{commit} …"])


def files_of(source: Path, name: str) -> dict[str, Path | bytes]:
    """What is uploaded: the model's files, a card that names the repository, the run's report.

    Raises:
      FileNotFoundError: there is no model that stock transformers loads.
      ValueError: it is damaged.
    """
    model = source if (source / CONFIG).is_file() else source / "model"
    if not (model / CONFIG).is_file():
        raise FileNotFoundError(
            f"no {CONFIG} in {source} or {source / 'model'}: push takes what stock transformers "
            "loads; bort-jax convert SRC OUT writes it"
        )
    checkpoint = load(model)  # a damaged file would be found by those who load it
    card = model_card(checkpoint, hf_class(checkpoint), name=name)
    written = {file.name: file for pattern in FILES for file in sorted(model.glob(pattern))}
    report = {REPORT: source / REPORT} if (source / REPORT).is_file() else {}
    return {**written, CARD: card.encode(), **report}


def size_of(content: Path | bytes) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size

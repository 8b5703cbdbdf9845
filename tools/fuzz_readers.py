# SPDX-License-Identifier: Apache-2.0
"""Every kind of input that the command line reads: a valid one, and the command that reads it."""

import json
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from fuzz_runs import RUNS, Run

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] a good bad film ##s with , x".split()
SPLITS = {"train": 12, "validation": 16, "test": 4}  # rows


class Reader(NamedTuple):
    """A reader, as a user reaches it.

    Attributes:
      name: of the kind of input.
      make: writes a valid input into a folder.
      files: patterns of the files in it that are mutated.
      argv: the command that reads it; `{at}` is the folder, `{out}` a new one, `{shared}` that of
        `make_shared`. `read` reads a checkpoint, as every verb does, and nothing more.
      turns: how often it has its turn; slow ones seldom.
    """

    name: str
    make: Callable[[Path], None]
    files: tuple[str, ...]
    argv: str
    turns: int = 20


def rows() -> list[dict]:
    texts = ["a good film", "a bad film", 'with "quotes", commas', "naïve 日本 🙂", "[SEP] </s> x"]
    return [{"text": text, "label": k % 2} for k, text in enumerate(texts * 2)]


def make_model(folder: Path, *, form: str = "hf") -> None:
    """A small classifier with a WordPiece tokenizer."""
    from bort_jax.arch import Arch
    from bort_jax.data.tokenizer_files import load_tokenizer
    from bort_jax.interop import Checkpoint
    from bort_jax.interop.verify import FORMATS
    from bort_jax.model import BertConfig, random_params

    with tempfile.TemporaryDirectory() as scratch:
        Path(scratch, "vocab.txt").write_text("\n".join(WORDS))
        tokenizer = load_tokenizer(scratch)
    assert tokenizer is not None
    config = BertConfig(Arch(1, 2, 8, 8), len(WORDS), positions=16, token_types=2, dropout=0.0)
    empty = Checkpoint(config, None, ("no", "yes")).with_tokenizer(tokenizer, source="here")
    FORMATS[form].write(empty.with_params(random_params(empty.model, seed=0)), folder)


def make_shared(folder: Path) -> None:
    """What runs are made from: a classifier, a masked LM, texts, and labelled rows."""
    from bort_jax.interop import Checkpoint, read, save
    from bort_jax.model import random_params

    make_model(folder / "model")
    given = read(folder / "model")
    bare = Checkpoint(given.config, None).with_tokenizer(given.tokenizer, source="here")
    save(bare.with_params(random_params(bare.model, seed=0)), folder / "masked_lm")
    draw, words = random.Random(0), [word for word in WORDS[5:] if word != "##s"]
    texts = [" ".join(draw.choices(words, k=9)) for _ in range(300)]
    (folder / "texts.txt").write_text("\n".join(texts))
    pairs = [{"sentence1": one, "sentence2": one, "label": -1} for one in texts[:2]]
    test = folder / "tasks" / "glue" / "rte" / "test.jsonl"
    test.parent.mkdir(parents=True)
    test.write_text("\n".join(json.dumps(row | {"idx": k}) for k, row in enumerate(pairs)))
    (folder / "rows").mkdir()
    for split, count in SPLITS.items():
        new = (" ".join(draw.choices(words, k=9)) for _ in range(count))
        lines = [
            json.dumps({"text": text, "label": ("no", "yes")[k % 2]}) for k, text in enumerate(new)
        ]
        (folder / "rows" / f"{split}.jsonl").write_text("\n".join(lines))


def make_run(run: Run, shared: Path) -> Callable[[Path], None]:
    """A run folder or a cache, by the product's own commands."""

    def make(folder: Path) -> None:
        from bort_jax import cli

        for command in run.made_by:
            cli.main(command.format(at=folder, shared=shared).split())
        for name in run.less:
            gone = folder / name
            shutil.rmtree(gone) if gone.is_dir() else gone.unlink()

    return make


def make_vocabulary(folder: Path) -> None:
    """A stock folder without tokenizer.json."""
    make_model(folder)
    words = list(json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"])
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    (folder / "vocab.txt").write_text("\n".join(words))
    special = {"additional_special_tokens": ["x"], "cls_token": "[CLS]"}
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}))


def make_table(ending: str) -> Callable[[Path], None]:
    """The rows as a file of this kind."""

    def make(folder: Path) -> None:
        file = folder / f"a.{ending}"
        if ending == "jsonl":
            file.write_text("\n".join(map(json.dumps, rows())))
        elif ending == "txt":
            file.write_text("\n".join(row["text"] for row in rows()))
        elif ending == "csv":
            import csv

            with file.open("w", newline="") as out:
                writer = csv.DictWriter(out, ["text", "label"])
                writer.writeheader()
                writer.writerows(rows())
        else:
            import pyarrow as pa
            import pyarrow.parquet as pq

            pq.write_table(pa.Table.from_pylist(rows()), file)

    return make


def make_corpus(folder: Path) -> None:
    """Shards, with the tokenizer that wrote them."""
    from bort_jax.data.build import build_corpus

    with tempfile.TemporaryDirectory() as scratch:
        text = Path(scratch, "a.txt")
        text.write_text("\n".join(f"a good film {k} with a bad end" for k in range(300)))
        build_corpus(text, folder, vocab_size=280)


def make_preset(folder: Path) -> None:
    (folder / "a.yaml").write_text(
        "arch: D4-A8-H1024-I768\nvocab_size: 100\nseq_len: 64\nlabels: 2\n"
    )


def make_zip(folder: Path) -> None:
    from zipfile import ZipFile

    with ZipFile(folder / "a.zip", "w") as archive:
        archive.writestr("RTE.tsv", "index\tprediction\n0\tentailment\n1\tnot_entailment\n")


def readers(shared: Path) -> list[Reader]:
    """Every kind of input, and the quickest command that reads all of it."""
    build = "data build {at}/a.{} {out} --tokenizer {shared}/model"
    convert = "read {at}"
    tables = [
        Reader(kind, make_table(kind), (f"a.{kind}",), build.replace("{}", kind))
        for kind in ("csv", "jsonl", "parquet", "txt")
    ]
    return [
        *tables,
        Reader("preset", make_preset, ("a.yaml",), "cost --config {at}/a.yaml"),
        Reader("config.json", make_model, ("config.json",), convert),
        Reader("weights", make_model, ("model.safetensors",), convert),
        Reader("tokenizer.json", make_model, ("tokenizer*.json",), convert),
        Reader("vocab.txt", make_vocabulary, ("vocab.txt", "special*", "tokenizer_c*"), convert),
        Reader(
            "orbax",
            lambda folder: make_model(folder, form="orbax"),
            ("checkpoint.json", "params/**/*"),
            convert,
        ),
        Reader(
            "stablehlo",
            lambda folder: make_model(folder, form="stablehlo"),
            ("checkpoint.json", "model.stablehlo", "weights.safetensors"),
            convert,
        ),
        Reader("shards", make_corpus, ("*.json", "**/*.bin", "**/*"), "data check {at}"),
        Reader(
            "submission",
            make_zip,
            ("a.zip",),
            "submit --check {at}/a.zip --data-dir {shared}/tasks --partial",
        ),
        *(Reader(r.name, make_run(r, shared), r.files, r.argv, r.turns) for r in RUNS),
    ]

# SPDX-License-Identifier: Apache-2.0
"""ONNX: the graph is the model, folders are what stock tools load, int8 is scored first."""

import json
import sys
from dataclasses import replace
from importlib.util import find_spec

import jax
import numpy as np
import pytest
from helpers import SENTENCES, checkpoint, layerwise, variants

from bort_jax.arch import Arch, LayerwiseArch
from bort_jax.cli import main
from bort_jax.interop import Checkpoint, hf_class, load, read
from bort_jax.interop import save as save_hf
from bort_jax.interop.onnx.folder import INT8, MODEL, save_onnx
from bort_jax.interop.onnx.quantise import quantise
from bort_jax.interop.onnx.session import compare, open_session, run_rows
from bort_jax.interop.verify import logits
from bort_jax.model import random_params
from bort_jax.stages.bench.run import shapes_within

pytest.importorskip("onnxruntime", reason="needs the onnx extra")

ONE_LAYER = Arch(1, 2, 16, 24)  # what two layers do, `layerwise` shows


def with_head(**changes) -> Checkpoint:
    empty = replace(checkpoint(ONE_LAYER), **changes)
    return empty.with_params(random_params(empty.model, seed=0))


MODELS = {
    "masked_lm": lambda: checkpoint(ONE_LAYER),
    "classifier": lambda: with_head(labels=("no", "yes")),
    "regression": lambda: with_head(labels=("score",), problem="regression"),
    "choice": lambda: with_head(labels=("choice",), problem="choice"),
    "encoder": lambda: variants()[2],
    "layerwise": layerwise,
    "token types": lambda: with_head(config=replace(checkpoint(ONE_LAYER).config, token_types=2)),
}


QUICK = ("choice", "layerwise")  # the others compile programs of their own


@pytest.mark.parametrize(
    "name", [*QUICK, *(pytest.param(n, marks=pytest.mark.slow) for n in MODELS if n not in QUICK)]
)
def test_save_onnx_gives_the_model_at_every_length(tmp_path, name):
    before = MODELS[name]()
    save_onnx(before, tmp_path, source=tmp_path)
    said = compare(before, tmp_path / MODEL)
    assert "lengths 1 to 12" in said and float(said.split(" to ")[1].split(",")[0]) <= 1e-5


def test_compare_refuses_another_model(tmp_path):
    save_onnx(checkpoint(ONE_LAYER), tmp_path, source=tmp_path)
    with pytest.raises(ValueError, match="outputs at length 1 differ by"):
        compare(checkpoint(ONE_LAYER, seed=1), tmp_path / MODEL)


def test_large_constants_stand_in_a_file_beside(tmp_path):
    before = checkpoint(ONE_LAYER)
    save_onnx(before, tmp_path, source=tmp_path, largest=1000)
    aside = tmp_path / "onnx" / "model.onnx_data"
    assert aside.stat().st_size > (tmp_path / MODEL).stat().st_size
    ids = np.array([[5, 17, 3, 29]])
    theirs = run_rows(before, tmp_path / MODEL)(ids, ids > 0)
    np.testing.assert_allclose(theirs, logits(before, ids), atol=1e-5)


def test_run_rows_takes_a_separator_of_the_texts_own_for_its_token(tmp_path):
    before = checkpoint(ONE_LAYER)
    save_onnx(before, tmp_path, source=tmp_path)
    ids = np.array([[5, 17, 3, 29]])
    theirs = run_rows(before, tmp_path / MODEL)(np.array([[5, ~17, 3, 29]]), ids > 0)
    np.testing.assert_allclose(theirs, logits(before, ids), atol=1e-5)


def test_choices_stand_in_groups(tmp_path):
    before = MODELS["choice"]()
    save_onnx(before, tmp_path, source=tmp_path)
    ids = np.random.default_rng(0).integers(0, 31, (2, 3, 5))
    found = open_session(tmp_path / MODEL)(ids, np.ones_like(ids), None)
    wanted = logits(before, ids.reshape(6, 5)).reshape(2, 3)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_sentences_are_means_over_tokens(tmp_path):
    import onnxruntime

    before = MODELS["encoder"]()
    save_onnx(before, tmp_path, source=tmp_path)
    session = onnxruntime.InferenceSession(str(tmp_path / MODEL))
    ids, mask = np.array([[5, 17, 3, 0]]), np.array([[1, 1, 1, 0]])
    states, mean = session.run(None, {"input_ids": ids, "attention_mask": mask})
    np.testing.assert_allclose(mean, states[:, :3].mean(axis=1), atol=1e-6)
    modules = json.loads((tmp_path / "modules.json").read_text())
    assert [module["path"] for module in modules] == ["", "1_Pooling"]


def test_an_architecture_that_no_stock_class_holds_is_exported(tmp_path):
    arch = LayerwiseArch(16, 5, ((2, 8), (3, 5)))
    before = with_head(config=replace(checkpoint(ONE_LAYER).config, arch=arch))
    with pytest.raises(ValueError, match="--to onnx"):
        save_hf(before, tmp_path / "hf")
    save_onnx(before, tmp_path / "onnx", source=tmp_path)
    compare(before, tmp_path / "onnx" / MODEL)
    described = json.loads((tmp_path / "onnx" / "config.json").read_text())
    assert described["bort_jax"]["arch"] == str(arch)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory, small):
    """A folder of a classifier with a tokenizer, and rows that it labels itself."""
    folder = tmp_path_factory.mktemp("classifier")
    empty = replace(small, labels=("no", "yes"))
    params = random_params(empty.model, seed=0)
    params = jax.tree.map(lambda x: 4 * x if x.ndim > 1 else x, params)
    save_hf(empty.with_params(params), folder / "model")
    rows = [{"text": text, "label": n % 2} for n, text in enumerate(SENTENCES)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def test_convert_writes_int8_and_what_it_costs(tmp_path, classifier, capsys):
    out = tmp_path / "out"
    source, rows = classifier / "model", classifier / "rows.jsonl"
    command = ["convert", str(source), str(out), "--to", "onnx", "--quantize", "int8"]
    main([*command, "--data", str(rows), "--seq-len", "24", "--max-loss", "1"])
    said = " ".join(capsys.readouterr().out.split())
    assert "outputs in ONNX Runtime equal ours" in said and "accuracy" in said
    assert (out / INT8).stat().st_size < (out / MODEL).stat().st_size
    assert not list(tmp_path.glob("*.partial"))
    for reader in (read, load):
        with pytest.raises(ValueError, match="holds ONNX, which is written and not read"):
            reader(out)


@pytest.mark.parametrize(
    "options, message",
    [
        (["--max-loss", "-1"], "int8 loses more than --max-loss -1"),
        (["--data", ""], "--quantize and --data go together"),
        (["--to", "hf"], "--quantize is of --to onnx, not of hf"),
        (["--seq-len", "99"], "longer than the model's 32 positions"),
        (["--label", "wrong"], "no column 'wrong'"),
    ],
)
def test_convert_refuses_and_writes_nothing(tmp_path, classifier, capsys, options, message):
    source, rows = str(classifier / "model"), str(classifier / "rows.jsonl")
    command = ["convert", source, str(tmp_path / "out"), "--to", "onnx", "--quantize", "int8"]
    with pytest.raises(SystemExit):
        main([*command, "--data", rows, "--seq-len", "24", *options])
    assert message in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())


def test_convert_says_that_there_is_no_runtime_for_int8(tmp_path, classifier, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    source, rows = str(classifier / "model"), str(classifier / "rows.jsonl")
    command = ["convert", source, str(tmp_path / "out"), "--to", "onnx", "--quantize", "int8"]
    with pytest.raises(SystemExit):
        main([*command, "--data", rows, "--seq-len", "24"])
    said = " ".join(capsys.readouterr().err.split())
    assert "onnxruntime is not installed: pip install 'bort-jax[onnx]'" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", [b"", b"not a model"])
def test_what_is_no_model_is_neither_run_nor_quantised(tmp_path, wrong):
    (tmp_path / "onnx").mkdir()
    (tmp_path / MODEL).write_bytes(wrong)
    with pytest.raises(ValueError, match="cannot run model.onnx"):
        open_session(tmp_path / MODEL)
    with pytest.raises(ValueError, match="this ONNX Runtime cannot quantise model.onnx"):
        quantise(tmp_path)
    assert not (tmp_path / INT8).exists()


def test_bench_refuses_shapes_that_are_none(capsys):
    with pytest.raises(SystemExit):
        main(["bench", "bort", "--shapes", "[a]"])
    assert "wants BATCHxLENGTH such as 1x128, got 'a'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (512, [(1, 128), (1, 512), (16, 128)]),
        (128, [(1, 128), (16, 128)]),
        (24, [(1, 24), (16, 24)]),
    ],
)
def test_shapes_within_what_a_model_reads(limit, expected):
    assert shapes_within(limit) == expected


@pytest.mark.slow
def test_bench_times_every_form(tmp_path, classifier):
    model, rows = str(classifier / "model"), str(classifier / "rows.jsonl")
    command = ["bench", model, "--data", rows, "--seq-len", "24", "--out", str(tmp_path)]
    main([*command, "--shapes", "[1x8,2x16]", "--repeats", "1"])
    records = json.loads((tmp_path / "bench.json").read_text())
    wanted = {"this package", "StableHLO", "ONNX float32", "ONNX int8"}
    wanted |= {"torch"} if find_spec("torch") else set()
    assert {one["form"] for one in records} == wanted
    assert all(r["median"] > 0 and "accuracy" in r["scores"] for r in records)
    assert (tmp_path / "bench.png").is_file()


def optimum():
    """Of optimum-onnx 0.1, which needs transformers 4."""
    return pytest.importorskip("optimum.onnxruntime.modeling_ort", exc_type=ImportError)


@pytest.mark.slow
def test_stock_pipelines_run_the_folder(tmp_path, classifier):
    from transformers import AutoTokenizer, pipeline

    ort = optimum()
    main(["convert", str(classifier / "model"), str(tmp_path / "out"), "--to", "onnx"])
    model = ort.ORTModelForSequenceClassification.from_pretrained(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    found = pipeline("text-classification", model=model, tokenizer=tokenizer)(SENTENCES)
    before = load(classifier / "model")
    tokens = before.required_tokenizer
    for text, answer in zip(SENTENCES, found, strict=True):
        ids = tokens.encode([[text]], seq_len=32)
        outputs = logits(before, ids.ids[:, : ids.mask.sum()])[0]
        assert answer["label"] == before.labels[outputs.argmax()]


@pytest.mark.slow
def test_sentence_transformers_run_the_folder(tmp_path, small):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    optimum()
    encoder = replace(small, params={"encoder": small.params["encoder"]}, headless=True)
    save_onnx(encoder, tmp_path, source=tmp_path)
    model = sentence_transformers.SentenceTransformer(str(tmp_path), backend="onnx", device="cpu")
    found = model.encode(SENTENCES[:1])
    ids = small.required_tokenizer.encode([SENTENCES[:1]], seq_len=32)
    states = logits(encoder, ids.ids[:, : ids.mask.sum()])
    np.testing.assert_allclose(found, states.mean(axis=1), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("before", variants(), ids=hf_class)
def test_every_length_is_the_same(tmp_path, before):
    save_onnx(before, tmp_path, source=tmp_path)
    program = run_rows(before, tmp_path / MODEL)
    for length in range(1, 13):
        ids = np.random.default_rng(length).integers(0, 31, (3, length))
        found = program(ids, np.ones(ids.shape, bool))
        np.testing.assert_allclose(found, logits(before, ids), atol=1e-5)

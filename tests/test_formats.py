# SPDX-License-Identifier: Apache-2.0
"""MXNet's files, damaged files, RoBERTa, encoders alone, orbax and StableHLO."""

import json
import struct
from dataclasses import replace

import jax
import numpy as np
import pytest
from helpers import (
    DATA,
    IDS,
    LAYERWISE,
    STOCK_SIZES,
    checkpoint,
    layerwise,
    ndarray_list,
    trees_equal,
    variants,
)
from safetensors.numpy import load_file, save_file
from scipy.special import softmax

from bort_jax.arch import Arch, LayerwiseArch
from bort_jax.cli import main
from bort_jax.data.tokenizer_files import load_tokenizer, require_tokenizer
from bort_jax.interop import Checkpoint, hf_class, load, load_params
from bort_jax.interop import save as save_hf
from bort_jax.interop.gluonnlp import GLUONNLP
from bort_jax.interop.hf_config import FAMILIES
from bort_jax.interop.huggingface import from_hf, to_hf
from bort_jax.interop.layout import to_tensors
from bort_jax.interop.ndarray_list import parse_ndarray_list
from bort_jax.interop.onnx.folder import MODEL, save_onnx
from bort_jax.interop.onnx.session import run_rows
from bort_jax.interop.orbax_folder import load_orbax, save_orbax
from bort_jax.interop.stablehlo import load_program, load_stablehlo, save_stablehlo
from bort_jax.interop.tensor_files import read_tensors
from bort_jax.interop.verify import inputs_of, logits
from bort_jax.model import Headless, forward, random_params
from bort_jax.model.bert import Embeddings, token_types
from bort_jax.stages.predict.pipeline import pipeline

ARRAYS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b.c": np.array([-1, 5], np.int64),
    "d": np.array([[[1.5]]], np.float16),
}


@pytest.mark.parametrize("version", [0xF993FAC8, 0xF993FAC9, 0xF993FACA])
def test_an_ndarray_list_reads_as_written(version):
    read = parse_ndarray_list(ndarray_list(ARRAYS, version=version))
    assert list(read) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array)


def patched(at: int, form: str, number: int) -> bytes:
    content = bytearray(ndarray_list(ARRAYS))
    struct.pack_into("<" + form, content, at, number)
    return bytes(content)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "ends at byte 0, in the magic number"),
        (patched(0, "Q", 0x113), "does not begin with 0x112"),
        (patched(16, "Q", 1 << 60), "1152921504606846976 arrays, more than fit"),
        (patched(24, "I", 7), "array 0 has an unknown magic number"),
        (patched(28, "i", 1), r"storage type 1; only dense \(0\)"),
        (patched(32, "i", -1), "array 0 has -1 dimensions"),
        (patched(36, "q", 1 << 62), r"in the \(4611686018427387904, 3\) numbers of array 0"),
        (patched(36, "q", -2), r"array 0 has shape \(-2, 3\)"),
        (patched(60, "i", 99), "array 0 has element type 99; known are 0 to 7"),
        (ndarray_list(ARRAYS)[:-1], "in name 2"),
        (ndarray_list(ARRAYS) + b"x", "goes on after its end"),
        (ndarray_list(ARRAYS).replace(b"b.c", b"\xff.c"), "name 1 is not UTF-8"),
        (ndarray_list(ARRAYS)[:-1] + b"a", "3 arrays and 2 different names"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(content, message):
    with pytest.raises(ValueError, match=message):
        parse_ndarray_list(content)


def test_gluonnlp_there_and_back_is_the_identity(tmp_path):
    before = checkpoint()
    config = replace(before.config, head_norm_eps=1e-12)
    file = tmp_path / "bort.params"
    tensors = to_tensors(before, GLUONNLP)
    file.write_bytes(ndarray_list(tensors))
    after = load_params(file, heads=before.config.arch.heads)
    assert after.config == config and trees_equal(after.params, before.params)
    word = tensors["word_embed.0.weight"]
    file.write_bytes(ndarray_list(tensors | {"decoder.3.weight": word}))
    assert trees_equal(load_params(file, heads=2).params, before.params)
    file.write_bytes(ndarray_list(tensors | {"decoder.3.weight": word + 1}))
    with pytest.raises(ValueError, match=r"decoder.3.weight differs from word_embed.0.weight"):
        load_params(file, heads=2)
    with pytest.raises(ValueError, match="heads must divide hidden"):
        load_params(file, heads=3)
    file.write_bytes(ndarray_list(ARRAYS))
    with pytest.raises(ValueError, match="not a Bort of GluonNLP"):
        load_params(file)


@pytest.mark.skipif(not DATA.is_dir(), reason="needs BORT_JAX_DATA, a folder of real files")
def test_a_file_that_mxnet_wrote_gives_the_outputs_of_gluonnlp():
    meta = json.loads((DATA / "meta.json").read_text())
    real, expected = (
        load_params(DATA / "bort.params", heads=meta["heads"]),
        dict(np.load(DATA / "expected.npz")),
    )
    ids, positions = expected["ids"], expected["positions"]
    mask = np.arange(ids.shape[1]) < expected["valid_length"][:, None]
    encoder = {"encoder": real.params["encoder"]}
    states = np.asarray(forward(Headless(real.config), encoder, ids, mask))
    np.testing.assert_allclose(states[mask], expected["sequence"][mask], atol=1e-5)
    decoded = forward(real.model, real.params, ids, mask, positions)
    np.testing.assert_allclose(decoded, expected["decoded"], atol=1e-5)


@pytest.mark.parametrize("before", variants(), ids=hf_class)
def test_every_stock_class_reads_back(tmp_path, before):
    after = load(save_hf(before, tmp_path))
    assert (after.config, after.labels, after.family, after.head) == (
        before.config,
        before.labels,
        before.family,
        before.head,
    )
    assert trees_equal(after.params, before.params)
    card = (tmp_path / "README.md").read_text()
    assert hf_class(before) in card and str(before.config.arch) in card


def test_an_encoder_alone_is_not_scored(tmp_path, capsys):
    save_hf(variants()[2], tmp_path / "model")
    command = ["evaluate", "--model", str(tmp_path / "model"), "--data", "x", "--seq_len", "8"]
    with pytest.raises(SystemExit):
        main([*command, "--out", str(tmp_path / "out")])
    assert "has no head, nothing to score" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("before", variants(), ids=hf_class)
def test_every_stock_class_gives_the_same(tmp_path, before):
    torch = pytest.importorskip("torch", reason="needs the parity extra")
    import transformers

    save_hf(before, tmp_path)
    stock = getattr(transformers, hf_class(before)).from_pretrained(tmp_path).eval()
    ids = np.where(IDS == 1, 2, IDS)  # RoBERTa takes 1 for padding
    with torch.no_grad():
        outputs = stock(torch.tensor(ids))
    theirs = outputs.last_hidden_state if before.headless else outputs.logits
    np.testing.assert_allclose(logits(before, ids), theirs.numpy(), atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_stock_pipelines_give_our_probabilities(tmp_path, tiny, family):
    pytest.importorskip("torch", reason="needs the parity extra")
    from transformers import pipeline

    masked = replace(tiny, family=family)
    save_hf(masked, tmp_path / "lm")
    words = tiny.required_tokenizer
    found = pipeline("fill-mask", model=str(tmp_path / "lm"))("the <mask> sat", top_k=3)
    ids = words.encode([["the <mask> sat"]], seq_len=12)
    ids = ids.ids[:, : ids.mask.sum()]
    at = int(np.flatnonzero(ids[0] == words.special.mask)[0])
    chances = softmax(logits(masked, ids)[0, at], axis=-1)
    for guess in found:
        assert guess["score"] == pytest.approx(chances[guess["token"]], abs=1e-6)

    empty = replace(masked, labels=("good", "bad"))
    before = empty.with_params(random_params(empty.model, seed=0))
    save_hf(before, tmp_path / "classes")
    found = pipeline("text-classification", model=str(tmp_path / "classes"))("the cat", top_k=2)
    ids = words.encode([["the cat"]], seq_len=12)
    ids = ids.ids[:, : ids.mask.sum()]
    wanted = dict(zip(before.labels, softmax(logits(before, ids)[0]), strict=True))
    assert {guess["label"]: guess["score"] for guess in found} == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("name", ["BertModel", "BertForPreTraining", "RobertaForMaskedLM"])
def test_what_stock_classes_write_is_read_in_shards_and_from_torch_files(tmp_path, name):
    torch = pytest.importorskip("torch", reason="needs the parity extra")
    import transformers

    family = "Bert" if name.startswith("Bert") else "Roberta"
    settings = getattr(transformers, f"{family}Config")(
        **STOCK_SIZES,
        max_position_embeddings=14,
        type_vocab_size=2 if family == "Bert" else 1,
    )
    torch.manual_seed(0)
    stock = getattr(transformers, name)(settings).eval()
    stock.save_pretrained(tmp_path, max_shard_size="6KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    ours = load(tmp_path)
    assert ours.config.positions == (14 if family == "Bert" else 12)
    assert any("pooler" in note for note in ours.notes) == (family == "Bert")
    ids = np.where(IDS == 1, 2, IDS)
    with torch.no_grad():
        outputs = stock(torch.tensor(ids))
    theirs = outputs[0]
    np.testing.assert_allclose(logits(ours, ids), theirs.numpy(), atol=1e-5)
    for file in tmp_path.glob("model*"):
        file.unlink()
    torch.save(stock.state_dict(), tmp_path / "pytorch_model.bin")
    assert trees_equal(load(tmp_path).params, ours.params)


def test_an_index_cannot_point_outside_its_folder(tmp_path):
    index = {"weight_map": {"a": "../model.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="outside its folder"):
        read_tensors(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "b"}}')
    with pytest.raises(FileNotFoundError, match="names b, which is missing"):
        read_tensors(tmp_path)


def test_absurd_sizes_are_refused_before_anything_is_built(tmp_path):
    save_hf(checkpoint(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for name, value, message in [
        ("num_hidden_layers", 10**4, "with only"),
        ("hidden_size", 10**4, "has shape"),
        ("hidden_size", 10**12, "must be in"),
        ("num_attention_heads", 3, "heads must divide hidden"),
        ("vocab_size", -1, "must be in"),
        ("intermediate_size", "24", "must be in"),
        ("hidden_act", "relu", "expected hidden_act 'gelu'; got 'relu'"),
    ]:
        (tmp_path / "config.json").write_text(json.dumps(config | {name: value}))
        with pytest.raises(ValueError, match=message):
            load(tmp_path)


def test_a_position_table_of_another_length_is_refused(tmp_path):
    save_hf(replace(checkpoint(), family="roberta"), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for text, message in [
        (json.dumps(config | {"max_position_embeddings": 11}), r"has shape \(12, 16\), expected"),
        ("[]", "holds no object"),
        ("{", "Expecting property name"),
    ]:
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            load(tmp_path)


def test_token_types_follow_the_separators():
    ids = np.array([[9, 4, 7, 4, 0, 0], [9, 5, 5, 4, 0, 0]])
    types = token_types(ids, ids != 0, separator=4)
    assert types.tolist() == [[0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0]]
    assert not token_types(ids, ids != 0, separator=None).any()


def test_padding_that_stands_in_a_text_takes_no_position_in_roberta():
    """By stock's rule, `create_position_ids_from_input_ids`: cumsum(ids ≠ pad) · (ids ≠ pad)."""
    config, ids = (
        replace(checkpoint().config, padding=1),
        np.array([[0, 5, 1, 6, 2], [1, 7, 1, 1, 2]]),
    )
    params = checkpoint().params["encoder"]["embeddings"]
    found = Embeddings(config).apply({"params": params}, ids, method="places")
    counted = ids != 1
    table = np.asarray(params["position"]["embedding"])
    rows = np.concatenate([np.zeros_like(table[:1]), table])[np.cumsum(counted, axis=1) * counted]
    np.testing.assert_array_equal(found, rows)


@pytest.mark.slow
def test_padding_that_stands_in_a_text_has_stocks_scores(tmp_path, tiny):
    """Its own random RoBERTa, with a position and a type of padding that are not zero."""
    torch = pytest.importorskip("torch", reason="needs the parity extra")
    import transformers

    words = tiny.required_tokenizer
    sizes = STOCK_SIZES | {"vocab_size": words.vocab_size, "max_position_embeddings": 34}
    settings = transformers.RobertaConfig(**sizes, type_vocab_size=1, pad_token_id=1)
    torch.manual_seed(0)
    stock = transformers.RobertaForSequenceClassification(settings).eval()
    embeddings = stock.roberta.embeddings
    with torch.no_grad():
        for table in (embeddings.position_embeddings, embeddings.token_type_embeddings):
            table.weight.normal_()
        stock.classifier.out_proj.weight.normal_()
    stock.save_pretrained(tmp_path)
    words.save(tmp_path, positions=32)
    texts = ["the <pad> cat sat", "<pad> <pad> cat </s> moon", "the cat"]
    theirs = transformers.pipeline("text-classification", str(tmp_path))(texts, top_k=2)
    for ours, wanted in zip(pipeline(str(tmp_path))(texts, top_k=2), theirs, strict=True):
        scores = {one["label"]: one["score"] for one in ours}
        assert scores == pytest.approx({one["label"]: one["score"] for one in wanted}, abs=1e-5)
    ours = load(tmp_path)
    encoded = words.encode([texts], seq_len=12)
    save_onnx(ours, tmp_path / "served", source=tmp_path)
    file = tmp_path / "served" / MODEL
    np.testing.assert_allclose(run_rows(ours, file)(*encoded), logits(ours, *encoded), atol=1e-5)


def test_token_types_are_kept_and_used(tmp_path):
    config = replace(checkpoint().config, token_types=2, separator=3)
    empty = Checkpoint(config, None)
    before = empty.with_params(random_params(empty.model, seed=0))
    after = load(save_hf(before, tmp_path))
    assert after.config == replace(config, separator=None)  # no tokenizer says it
    assert trees_equal(after.params, before.params)
    assert np.abs(logits(after, IDS) - logits(before, IDS))[:, 3:].max() > 1e-4


def test_types_change_at_berts_separator_and_not_at_robertas(tmp_path, tiny):
    typed = replace(tiny, config=replace(tiny.config, token_types=2))
    assert typed.with_tokenizer(tiny.tokenizer, source="here").config.separator is None
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]")
    bert = replace(typed, config=replace(typed.config, vocab_size=5))
    found = bert.with_tokenizer(load_tokenizer(tmp_path), source="here")
    assert found.config.separator == 3


def test_wordpiece_frames_texts_as_bert_does(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "##s", "moon"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer is not None
    ids = tokenizer.encode([["A cats"], ["moon"]], seq_len=8).ids
    assert ids.tolist() == [[2, 5, 6, 7, 3, 8, 3, 0]]
    assert tokenizer.encode([["a moon moon moon"]], seq_len=4).ids.tolist() == [[2, 5, 8, 3]]
    tokenizer.save(tmp_path / "again")
    assert require_tokenizer(tmp_path / "again").special == tokenizer.special
    from transformers import AutoTokenizer

    stock = AutoTokenizer.from_pretrained(tmp_path / "again")("A cats", "moon")
    assert stock["input_ids"] == ids[0, :7].tolist()
    assert load_tokenizer(tmp_path / "nothing") is None


def test_layers_of_their_own_sizes_are_what_they_say():
    shapes = jax.tree.map(np.shape, layerwise().params["encoder"])
    assert LayerwiseArch.parse(str(LAYERWISE)) == LAYERWISE
    assert sorted(shapes) == ["embeddings", "layer_0", "layer_1"]
    assert shapes["layer_1"]["attention"]["query"]["kernel"] == (16, 3, 4)
    assert shapes["layer_0"]["feed_forward"]["up"]["kernel"] == (16, 8)
    with pytest.raises(ValueError, match="expected an architecture such as H64-K16"):
        LayerwiseArch.parse("H64[A4-I8]")
    with pytest.raises(ValueError, match="a layer is whole or skipped"):
        LayerwiseArch.parse("H64-K16[A0-I8]")


def test_uniform_layers_are_the_uniform_model():
    uniform = checkpoint()
    arch = uniform.config.arch
    assert isinstance(arch, Arch)
    same = LayerwiseArch(arch.hidden, arch.head_size, arch.sizes())
    one = replace(uniform, config=replace(uniform.config, arch=same))
    np.testing.assert_array_equal(logits(one, IDS), logits(uniform, IDS))


@pytest.mark.parametrize(
    "before", [checkpoint(Arch(1, 2, 16, 24)), layerwise()], ids=["uniform", "layerwise"]
)
def test_orbax_and_stablehlo_read_back(tmp_path, before):
    for write, read in ((save_orbax, load_orbax), (save_stablehlo, load_stablehlo)):
        after = read(write(before, tmp_path / write.__name__))
        assert after.config == before.config and after.facts == before.facts
        assert trees_equal(after.params, before.params)
    program = load_program(tmp_path / "save_stablehlo")
    for ids in (IDS, IDS[:1, :3]):  # any batch, any length
        ids = ids.astype(np.int32)
        theirs = program(*inputs_of(before, ids, np.ones(ids.shape, bool)))
        np.testing.assert_allclose(theirs, logits(before, ids), atol=1e-5)


def test_parameters_that_do_not_fit_their_description_are_named(tmp_path):
    save_orbax(checkpoint(), tmp_path / "orbax")
    save_stablehlo(checkpoint(), tmp_path / "program")
    for folder in (tmp_path / "orbax", tmp_path / "program"):
        file = folder / "checkpoint.json"
        described = json.loads(file.read_text())
        described["config"]["vocab_size"] = 30
        file.write_text(json.dumps(described))
        read = load_orbax if folder.name == "orbax" else load_stablehlo
        with pytest.raises(ValueError, match="does not fit its .*embedding"):
            read(folder)


def test_convert_goes_all_the_way_round(tmp_path, capsys):
    before = checkpoint()
    file = tmp_path / "bort.params"
    file.write_bytes(ndarray_list(to_tensors(before, GLUONNLP)))
    place = lambda name: str(tmp_path / name)
    main(["convert", str(file), place("program"), "--to", "stablehlo", "--heads", "2"])
    main(["convert", place("program"), place("orbax"), "--to", "orbax"])
    main(["convert", place("orbax"), place("hf"), "--family", "roberta"])
    after = load(place("hf"))
    assert after.family == "roberta" and trees_equal(after.params, before.params)
    assert after.config.head_norm_eps == 1e-12
    main(["convert", place("hf"), place("bert"), "--family", "bert"])
    assert "left aside: the first 2 rows" in " ".join(capsys.readouterr().out.split())


def test_the_next_sentence_head_is_told_and_nothing_else_is_passed_over(tmp_path):
    before = checkpoint()
    tensors = to_hf(before) | {"cls.seq_relationship.bias": np.zeros(2, np.float32)}
    assert from_hf(tensors, before).notes == (
        "a next-sentence head, not in our masked LM: cls.seq_relationship.bias",
    )
    save_hf(before, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["cls.predictions.decoder.weight"] = tensors["bert.embeddings.LayerNorm.bias"] + 1
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="only models that share them are known"):
        load(tmp_path)

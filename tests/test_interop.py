# SPDX-License-Identifier: Apache-2.0
"""Round trips, strictness, and agreement with stock transformers (or its stored outputs)."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import IDS, LAYERWISE, SMALL, STOCK_SIZES, checkpoint, few, trees_equal
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from bort_jax.arch import Arch, LayerwiseArch
from bort_jax.interop import Checkpoint, hf_class, load, save
from bort_jax.interop.hf_config import FAMILIES
from bort_jax.interop.huggingface import from_hf, to_hf
from bort_jax.interop.padding import hull, pad
from bort_jax.interop.verify import logits
from bort_jax.model import init_params


def any_layer(layers):
    return any(map(any, layers))


GOLDEN = Path(__file__).parent / "golden" / "stock_bert.npz"


@few
@given(
    depth=st.integers(1, 3),
    heads=st.integers(1, 4),
    head_size=st.integers(1, 5),
    intermediate=st.integers(1, 9),
    labels=st.sampled_from([(), ("a", "b"), ("x", "y", "z")]),
    family=st.sampled_from(FAMILIES),
)
def test_there_and_back_is_the_identity(depth, heads, head_size, intermediate, labels, family):
    arch = Arch(depth, heads, heads * head_size, intermediate)
    before = replace(checkpoint(arch, labels), family=family)
    assert trees_equal(from_hf(to_hf(before), before).params, before.params)


@pytest.mark.parametrize("labels", [(), ("no", "yes", "perhaps")])
def test_a_folder_reads_back(tmp_path, labels):
    before = checkpoint(labels=labels)
    after = load(save(before, tmp_path))
    assert after.config == before.config and after.labels == labels
    assert trees_equal(after.params, before.params)
    np.testing.assert_array_equal(logits(after, IDS), logits(before, IDS))


SIZES = st.tuples(st.integers(1, 3), st.integers(1, 9))


@few
@given(
    layers=st.lists(SIZES | st.just((0, 0)), min_size=1, max_size=3).filter(any_layer),
    labels=st.sampled_from([(), ("a", "b")]),
    family=st.sampled_from(FAMILIES),
)
def test_layers_of_their_own_sizes_are_filled_up_and_cut_off_again(layers, labels, family):
    arch = LayerwiseArch(12, 4, tuple(layers))
    before = replace(checkpoint(arch, labels), family=family)
    assert trees_equal(from_hf(to_hf(before), before).params, before.params)
    assert pad(before).config.arch == hull(arch)


def test_pad_gives_the_same_logits():
    before = checkpoint(LAYERWISE)
    np.testing.assert_allclose(logits(pad(before), IDS), logits(before, IDS), atol=1e-5)


def test_load_refuses_numbers_beyond_the_true_sizes(tmp_path):
    """And sizes that the folder's tensors are not padded from."""
    before = checkpoint(LAYERWISE)
    save(before, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for arch, message in (
        ("H16-K4[A2-I5 A3-I8]", "holds more than the sizes that its config.json says"),
        ("H16-K4[A2-I8 A3-I6 A1-I1]", "is padded to D3-A4-H16-I8, but the folder has D2-A4-H16-I8"),
    ):
        wrong = config | {"bort_jax": config["bort_jax"] | {"arch": arch}}
        (tmp_path / "config.json").write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match=message):
            load(tmp_path)


@pytest.mark.parametrize("arch", [SMALL, LAYERWISE], ids=str)
@pytest.mark.parametrize("labels", [(), ("no", "yes", "perhaps")])
def test_stock_transformers_gives_the_same_logits(tmp_path, labels, arch):
    torch = pytest.importorskip("torch", reason="needs the parity extra")
    import transformers

    ours = checkpoint(arch, labels)
    save(ours, tmp_path)
    stock = getattr(transformers, hf_class(ours)).from_pretrained(tmp_path).eval()
    with torch.no_grad():
        theirs = stock(torch.tensor(IDS)).logits.numpy()
    np.testing.assert_allclose(logits(ours, IDS), theirs, atol=1e-5)


@pytest.mark.parametrize("labels", [(), ("no", "yes", "perhaps")])
def test_stored_outputs_of_stock_transformers(labels):
    """Written by tools/make_golden.py with torch 2.13.0 and transformers 5.23.0."""
    stored = np.load(GOLDEN)
    np.testing.assert_allclose(
        logits(checkpoint(labels=labels, fresh=init_params), IDS),
        stored[f"{len(labels)}_labels"],
        atol=1e-5,
    )


def test_what_stock_transformers_saves_reads_back(tmp_path):
    """Its own random model, with token types that are not zero."""
    torch = pytest.importorskip("torch", reason="needs the parity extra")
    import transformers

    settings = transformers.BertConfig(**STOCK_SIZES, max_position_embeddings=12)
    torch.manual_seed(0)
    stock = transformers.BertForMaskedLM(settings).eval()
    stock.save_pretrained(tmp_path)
    ours = load(tmp_path)
    with torch.no_grad():
        theirs = stock(torch.tensor(IDS)).logits.numpy()
    np.testing.assert_allclose(logits(ours, IDS), theirs, atol=1e-5)


def test_legacy_names_and_tied_copies_are_accepted():
    before = checkpoint()
    legacy = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): array
        for name, array in to_hf(before).items()
    }
    legacy["cls.predictions.decoder.weight"] = legacy["bert.embeddings.word_embeddings.weight"]
    legacy["bert.embeddings.position_ids"] = np.arange(12)[None]
    assert trees_equal(from_hf(legacy, before).params, before.params)


def test_both_differences_are_named():
    before = checkpoint()
    tensors = to_hf(before)
    tensors["surplus"] = tensors.pop("cls.predictions.bias")
    with pytest.raises(ValueError, match=r"only in the file: \['surplus'\]; only in the model: \["):
        from_hf(tensors, before)


def test_another_shape_is_named(tmp_path):
    save(checkpoint(), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["bert.embeddings.LayerNorm.bias"] = np.zeros(3, np.float32)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"LayerNorm.bias has shape \(3,\), expected \(16,\)"):
        load(tmp_path)


def test_a_missing_file_and_another_model_type_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no config.json"):
        load(tmp_path)
    save(checkpoint(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "gpt2"}))
    with pytest.raises(ValueError, match="expected model_type bert .* got 'gpt2'"):
        load(tmp_path)


def test_a_tokenizer_of_another_size_is_refused(tmp_path, tiny):
    save(tiny, tmp_path / "right")
    wrong = Checkpoint(checkpoint().config, checkpoint().params, tokenizer=tiny.tokenizer)
    with pytest.raises(ValueError, match="tokenizer has .* tokens, the model 31"):
        save(wrong, tmp_path / "wrong")
    save(checkpoint(), tmp_path / "wrong")
    tiny.tokenizer.save(tmp_path / "wrong")
    with pytest.raises(ValueError, match="must be of one size"):
        load(tmp_path / "wrong")


def test_the_exported_tokenizer_frames_texts_as_we_do(tmp_path, tiny):
    save(tiny, tmp_path)
    from transformers import AutoTokenizer

    stock = AutoTokenizer.from_pretrained(tmp_path)
    texts, others = ["the cat sat", "a moon"], ["on the mat", "looked"]
    for columns in ([texts], [texts, others]):
        theirs = stock(*columns, padding="max_length", max_length=24)["input_ids"]
        ours = tiny.tokenizer.encode(columns, seq_len=24).ids
        assert ours.tolist() == theirs
    assert stock.mask_token_id == tiny.tokenizer.special.mask

# SPDX-License-Identifier: Apache-2.0
"""Folders as other programs leave them: read where they mean the same, else refused by name."""

import json
from dataclasses import replace

import numpy as np
import pytest
from helpers import checkpoint, trees_equal
from safetensors.numpy import load_file, save_file

from bort_jax.data.tokenizer_files import require_tokenizer
from bort_jax.interop import load, load_params, read, save

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 437985387\n"


def rewritten(folder, change):
    """The folder with other tensors."""
    tensors = load_file(folder / "model.safetensors")
    save_file(change(tensors), folder / "model.safetensors")
    return folder


def reconfigured(folder, **changes):
    """The folder with other settings; None takes one away."""
    config = json.loads((folder / "config.json").read_text()) | changes
    given = {key: value for key, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(given))
    return folder


def written(folder, family="bert", labels=()):
    before = replace(checkpoint(labels=labels), family=family)
    save(before, folder)
    return before


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module."])
def test_load_strips_what_wrappers_put_before_names(tmp_path, prefix):
    before = written(tmp_path)
    rewritten(tmp_path, lambda tensors: {prefix + name: x for name, x in tensors.items()})
    assert trees_equal(load(tmp_path).params, before.params)


def test_load_reads_a_shared_tensor_under_either_name(tmp_path):
    before = written(tmp_path, "roberta")
    table = "roberta.embeddings.word_embeddings.weight"

    def change(tensors):
        tensors["lm_head.decoder.weight"] = tensors.pop(table)
        tensors["lm_head.decoder.bias"] = tensors.pop("lm_head.bias")
        return tensors

    rewritten(tmp_path, change)
    assert trees_equal(load(tmp_path).params, before.params)


@pytest.mark.parametrize("labels", [(), ("no", "yes")])
@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_load_takes_the_head_from_the_tensors_where_nothing_says_it(tmp_path, family, labels):
    before = written(tmp_path, family, labels)
    for missing in ({"architectures": None}, {"model_type": None}):
        found = load(reconfigured(tmp_path, **missing))
        assert (found.family, found.head) == (family, before.head)
    assert trees_equal(found.params, before.params)


def test_load_takes_both_names_of_gelu(tmp_path):
    before = written(tmp_path)
    found = load(reconfigured(tmp_path, hidden_act="gelu_python"))
    assert trees_equal(found.params, before.params)
    with pytest.raises(ValueError, match="hidden_act"):
        load(reconfigured(tmp_path, hidden_act="gelu_new"))


def words(folder, *, pad="[PAD]", n=31):
    """A WordPiece vocabulary of n tokens."""
    names = [pad, "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{k}" for k in range(n - 5))]
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(names))
    return folder


def test_load_cuts_rows_that_no_token_has(tmp_path):
    before = written(tmp_path)
    found = load(words(tmp_path, n=27))
    assert found.config.vocab_size == 27 and "rows 27 to 30" in " ".join(found.notes)
    assert found.params["head"]["bias"].shape == (27,)
    table = found.params["encoder"]["embeddings"]["word"]["embedding"]
    whole = before.params["encoder"]["embeddings"]["word"]["embedding"]
    np.testing.assert_array_equal(table, whole[:27])
    with pytest.raises(ValueError, match="33 tokens, the model 31"):
        load(words(tmp_path, n=33))


def test_load_names_both_ids_of_padding(tmp_path):
    written(tmp_path, "roberta")
    tokenizer = require_tokenizer(words(tmp_path / "words", n=31))
    tokenizer.save(tmp_path)
    with pytest.raises(ValueError, match=r"pad_token_id is 1, .*\[PAD\] has the id 0"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "vocab.txt"])
def test_load_knows_git_lfs_pointers(tmp_path, name):
    written(words(tmp_path))
    (tmp_path / name).write_bytes(POINTER)
    with pytest.raises(ValueError, match=f"{name} is a Git LFS pointer; fetch the file itself"):
        load(tmp_path)


def test_read_knows_pointers_in_place_of_other_files(tmp_path):
    for name in ("bort.params", "pytorch_model.bin"):
        (tmp_path / name).write_bytes(POINTER)
    with pytest.raises(ValueError, match="Git LFS pointer"):
        load_params(tmp_path / "bort.params")
    written(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="Git LFS pointer"):
        read(tmp_path)

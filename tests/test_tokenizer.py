# SPDX-License-Identifier: Apache-2.0
"""Tokenizers as stock transformers reads and writes them, and texts that hold special tokens."""

import json

import jax
import numpy as np
import pytest
from helpers import SMALL

from bort_jax.data.tokenizer import Tokenizer, plain_ids
from bort_jax.data.tokenizer_files import load_tokenizer, require_tokenizer
from bort_jax.interop import Checkpoint, load, save
from bort_jax.interop.verify import compare_texts
from bort_jax.model import BertConfig, forward, random_params
from bort_jax.tasks import Examples

WORDS = (
    "[PAD] [unused1] [unused2] [UNK] [CLS] [SEP] [MASK] good film bad plot un ##used ##1 [ ] used "
    "1 2 Good caf ##e ##é a ##s , . 日 ! x y"
).split()
TEXTS = [
    "good [unused1] film [unused2]",
    "Good café 日a, <new> !",
    "good film [SEP] bad plot",
    "bad [PAD] plot [MASK] [CLS]",
    "x" * 200,
]
BESIDE = {
    "nothing": {},
    "special_tokens_map": {
        "special_tokens_map.json": {"additional_special_tokens": ["[unused1]", "[unused2]"]}
    },
    "added_tokens": {"added_tokens.json": {"<new>": 31}},
    "settings": {"tokenizer_config.json": {"do_lower_case": False, "model_max_length": 9}},
    "decoder": {
        "tokenizer_config.json": {
            "tokenize_chinese_chars": False,
            "added_tokens_decoder": {
                "1": {"content": "[unused1]", "special": True, "lstrip": True},
                "31": {"content": "<new>", "special": False, "normalized": False},
            },
        }
    },
}


def write_vocabulary(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    (folder / "config.json").write_text('{"model_type": "bert"}')
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    return folder


def small(tokenizer, *, labels=("no", "yes")) -> Checkpoint:
    """A BERT with token types and a classifier, random everywhere."""
    config = BertConfig(SMALL, tokenizer.vocab_size, positions=12, token_types=2, dropout=0.0)
    empty = Checkpoint(config, None, labels).with_tokenizer(tokenizer, source="here")
    params = random_params(empty.model, seed=0)
    rng = np.random.default_rng(0)
    larger = lambda x: x + rng.normal(scale=0.5, size=x.shape).astype(np.float32)

    return empty.with_params(jax.tree.map(larger, params))


@pytest.mark.parametrize("files", BESIDE.values(), ids=BESIDE)
def test_load_tokenizer_reads_what_stands_beside_a_vocabulary(tmp_path, files):
    from transformers import AutoTokenizer

    own = load_tokenizer(write_vocabulary(tmp_path / "a", files))
    assert own is not None
    own.save(tmp_path / "b", positions=12)
    again = load_tokenizer(tmp_path / "b")
    assert again is not None and again.sha256 == own.sha256
    stock = AutoTokenizer.from_pretrained(tmp_path / "a")
    written = AutoTokenizer.from_pretrained(tmp_path / "b")
    assert written.model_max_length == min(12, stock.model_max_length)
    for text in TEXTS:
        ids = stock(text, add_special_tokens=False)["input_ids"]
        assert own.encode_documents([text])[0] == ids == again.encode_documents([text])[0]
        assert written(text, add_special_tokens=False)["input_ids"] == ids
        framed = plain_ids(own.encode([[text]], seq_len=12).ids)[0].tolist()
        cut = written(text, truncation=True, padding="max_length", max_length=12)
        assert framed == cut["input_ids"]


def test_load_tokenizer_says_that_capital_letters_are_lowered(tmp_path):
    found = load_tokenizer(write_vocabulary(tmp_path, {}))
    assert found is not None and "texts are lower-cased" in found.notes[0]
    sure = load_tokenizer(write_vocabulary(tmp_path, BESIDE["settings"]))
    assert sure is not None and not sure.notes


def test_load_tokenizer_survives_a_panic_of_the_library(tmp_path, capfd):
    """Damage at which the tokenizers library panics, in Rust, where it reads or where it cuts."""
    load_tokenizer(write_vocabulary(tmp_path / "a", {})).save(tmp_path)  # pyright: ignore
    spec = json.loads((tmp_path / "tokenizer.json").read_text())
    spec["model"]["vocab"] = {"a": 2**32 - 1, **spec["model"]["vocab"]}
    spec["post_processor"]["special_tokens"]["[CLS]"]["ids"] = []
    spec["pre_tokenizer"] = {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    with pytest.raises(ValueError, match="tokenizer.json"):
        load_tokenizer(tmp_path)
    assert not capfd.readouterr().err


def test_frame_tells_a_separator_in_a_text_from_the_rows_own(tmp_path):
    tokenizer = require_tokenizer(write_vocabulary(tmp_path, {}))
    examples = Examples.of([["good [SEP] bad [PAD]"], ["film"]], np.zeros(1, np.int32))
    x = examples.encode(tokenizer, seq_len=12).x
    assert plain_ids(x)[0].tolist() == [4, 7, 5, 9, 0, 5, 8, 5, 0, 0, 0, 0]
    assert (x[0] < 0).nonzero()[0].tolist() == [2, 4]
    assert (x != tokenizer.special.pad).sum() == 8


def test_a_text_with_special_tokens_is_answered_as_by_stock(tmp_path):
    torch = pytest.importorskip("torch")
    from transformers import AutoTokenizer, BertForSequenceClassification

    vocabulary = write_vocabulary(tmp_path / "a", BESIDE["special_tokens_map"])
    before = small(require_tokenizer(vocabulary))
    save(before, tmp_path / "b")
    stock = BertForSequenceClassification.from_pretrained(tmp_path / "b").eval()
    words, own = AutoTokenizer.from_pretrained(tmp_path / "b"), load(tmp_path / "b")
    pair = [TEXTS, TEXTS[::-1]]
    for columns in ([TEXTS], pair):
        batch = words(*columns, padding=True, truncation=True, max_length=12, return_tensors="pt")
        with torch.no_grad():
            theirs = stock(**batch).logits.numpy()
        examples = Examples.of(columns, np.zeros(len(TEXTS), np.int32))
        x = examples.encode(own.required_tokenizer, seq_len=12).x
        short = batch["input_ids"].shape[1]
        if len(columns) == 1 or (plain_ids(x)[:, :short] == batch["input_ids"].numpy()).all():
            ours = forward(own.model, own.params, x, x != own.required_tokenizer.special.pad)
            np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_convert_compares_the_ids_of_texts(tmp_path):
    before = small(require_tokenizer(write_vocabulary(tmp_path / "a", {})))
    save(before, tmp_path / "b")
    assert "token ids" in compare_texts(before, tmp_path / "b")
    settings = json.loads((tmp_path / "b" / "tokenizer_config.json").read_text())
    spec = json.loads((tmp_path / "b" / "tokenizer.json").read_text())
    spec["normalizer"]["lowercase"] = False
    (tmp_path / "b" / "tokenizer.json").write_text(json.dumps(spec))
    (tmp_path / "b" / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="stock transformers cuts"):
        compare_texts(before, tmp_path / "b")


def test_export_writes_the_models_positions(tmp_path):
    tokenizer = require_tokenizer(write_vocabulary(tmp_path / "a", {}))
    save(small(tokenizer), tmp_path / "b")
    settings = json.loads((tmp_path / "b" / "tokenizer_config.json").read_text())
    assert settings["model_max_length"] == 12


def test_load_tokenizer_refuses_a_byte_order_mark_in_a_vocabulary(tmp_path):
    (tmp_path / "vocab.txt").write_bytes(b"\xef\xbb\xbf[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na")
    with pytest.raises(ValueError, match="vocab.txt begins with a byte order mark"):
        load_tokenizer(tmp_path)


def test_load_tokenizer_refuses_to_cut_at_another_end(tmp_path):
    folder = write_vocabulary(tmp_path, {"tokenizer_config.json": {"truncation_side": "left"}})
    with pytest.raises(ValueError, match="truncation_side 'left': here texts are cut"):
        load_tokenizer(folder)


def test_save_names_a_folder_that_stands_where_it_writes(tmp_path):
    made = Tokenizer.train(["naïve words"], vocab_size=270)
    made.save(tmp_path / "whole")
    assert load_tokenizer(tmp_path / "whole").sha256 == made.sha256
    (tmp_path / "none" / "tokenizer.json").mkdir(parents=True)
    with pytest.raises(OSError, match="none/tokenizer.json"):
        made.save(tmp_path / "none")

# SPDX-License-Identifier: Apache-2.0
"""Fifty hard texts through `predict`, the export and stock pipelines: equal labels and scores."""

import json

import numpy as np
import pytest
from command_line import run
from test_tokenizer import small, write_vocabulary

from bort_jax.data.tokenizer_files import require_tokenizer
from bort_jax.interop import save

PARTS = [
    "good film [SEP] bad plot",
    "[CLS] bad [PAD] film [MASK]",
    "good [unused1] film [unused2]",
    "🙂 good 👩‍👩‍👧 film 🏳️‍🌈",
    "שלום good עולם",
    "مرحبا bad فيلم",
    "e\u0301 caf\u00e9 cafe\u0301 \u0302\u0303",
    "good\u00a0film\u200b bad\u2028plot",
    "日本 good 日 film",
    "x" * 10_000,
]
TEXTS = PARTS + [
    f"{one} , {PARTS[(k + n) % 10]} !" for n in range(1, 5) for k, one in enumerate(PARTS)
]


def test_fifty_texts_have_equal_labels_and_scores_everywhere(tmp_path, capsys):
    pytest.importorskip("torch")
    from transformers import pipeline

    vocabulary = write_vocabulary(
        tmp_path / "words",
        {"special_tokens_map.json": {"additional_special_tokens": ["[unused1]", "[unused2]"]}},
    )
    assert len(TEXTS) == 50
    save(small(require_tokenizer(vocabulary)), tmp_path / "model")
    rows = tmp_path / "a.jsonl"
    rows.write_text("\n".join(json.dumps({"text": text}) for text in TEXTS))
    argv = ["predict", "--model", tmp_path / "model", "--data", rows, "--out", tmp_path / "out"]
    code, _, err = run(capsys, *argv, "--seq-len", "12")
    assert code == 0, err
    lines = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
    ours = [json.loads(line) for line in lines]
    stock = pipeline("text-classification", str(tmp_path / "model"), device="cpu")
    theirs = stock(TEXTS, truncation=True)
    assert [one["label"] for one in ours] == [one["label"] for one in theirs]
    scores = [one["probability"] for one in ours], [one["score"] for one in theirs]
    np.testing.assert_allclose(*scores, atol=1e-5)

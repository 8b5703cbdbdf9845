# SPDX-License-Identifier: Apache-2.0
"""Answers from Python: those of stock pipelines, in any number, from any thread."""

import resource
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from helpers import SENTENCES

import bort_jax
from bort_jax.interop import save
from bort_jax.model import Headless, random_params

SHORT = [" ".join(text.split()[:4]) for text in SENTENCES]  # stock ones cut no text
MASKED = ["the cat <mask> on the mat", "a <mask> film", "one <mask> letter every <mask>"]
PAIR = {"text": SHORT[0], "text_pair": SHORT[1]}


@pytest.fixture(scope="module")
def classifier(small):
    labelled = replace(small, labels=("bad", "good", "so"))
    return labelled.with_params(random_params(labelled.model, seed=1))


@pytest.fixture(scope="module")
def encoder(small):
    model = Headless(small.config)
    return replace(small, headless=True, params=random_params(model, seed=1))


def same(one, two):
    """Equal, but numbers to 1e-5."""
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(two) and all(map(same, one, two))
    return one == pytest.approx(two, abs=1e-5)


def stock(checkpoint, task, folder):
    pytest.importorskip("torch")
    from transformers import pipeline

    return pipeline(task, model=str(save(checkpoint, folder)), device="cpu")


@pytest.mark.slow
def test_text_classification_answers_as_stock_does(classifier, tmp_path):
    theirs = stock(classifier, "text-classification", tmp_path)
    ours = bort_jax.pipeline(tmp_path)
    for inputs in (SHORT[0], SHORT, SHORT[:1], PAIR, [PAIR]):
        assert same(ours(inputs), theirs(inputs)), inputs
        for top_k in (1, 2, None):
            assert same(ours(inputs, top_k=top_k), theirs(inputs, top_k=top_k)), (inputs, top_k)
    assert ours([]) == []


def test_fill_mask_answers_as_stock_does(small, tmp_path):
    likely = small.with_params(random_params(small.model, seed=1))
    theirs = stock(likely, "fill-mask", tmp_path)
    ours = bort_jax.pipeline(tmp_path)
    for inputs in (*MASKED, MASKED, MASKED[:1]):
        assert same(ours(inputs), theirs(inputs)), inputs
    assert same(ours(MASKED, top_k=2), theirs(MASKED, top_k=2))
    with pytest.raises(ValueError, match="no <mask> in the first 32 tokens"):
        ours("no mask")


def test_embeddings_are_means_over_stock_s_features(encoder, tmp_path):
    theirs = stock(encoder, "feature-extraction", tmp_path)
    ours = bort_jax.pipeline(tmp_path)
    expected = [np.mean(theirs(text)[0], axis=0) for text in SHORT]
    found = ours(SHORT)
    assert found.dtype == np.float32 and ours([]).shape == (0, found.shape[1])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(ours(SHORT[2]), expected[2], atol=1e-5)


def test_pipeline_of_another_task_is_refused(classifier):
    assert isinstance(bort_jax.pipeline(classifier, "embeddings")("one"), np.ndarray)
    for task in ("fill-mask", "translation"):
        with pytest.raises(ValueError, match="is for embeddings or text-classification; got"):
            bort_jax.pipeline(classifier, task)
    with pytest.raises(ValueError, match="longer than the model's 32 positions"):
        bort_jax.pipeline(classifier, seq_len=64)
    with pytest.raises(ValueError, match="a text, or .* is asked for; got 3"):
        bort_jax.pipeline(classifier)([3])


def test_pipeline_answers_threads_as_it_answers_one(classifier):
    pipe = bort_jax.pipeline(classifier).warm(batches=(1,))
    texts = [" ".join(text.split()[: n % 9 + 1]) for n, text in enumerate(SENTENCES * 8)]
    alone = [pipe(text) for text in texts]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(pipe, texts)) == alone


def kilobytes() -> int:
    """Memory that this process holds now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() // 1024


@pytest.mark.slow
def test_pipeline_holds_its_memory(classifier):
    pipe = bort_jax.pipeline(classifier).warm()
    texts = [" ".join(text.split()[: n % 9 + 1]) for n, text in enumerate(SENTENCES * 8)]
    call = lambda count: [pipe(texts[n % len(texts)]) for n in range(count)] and None
    call(500)
    before = kilobytes()
    call(10_000)
    assert kilobytes() - before < 4096

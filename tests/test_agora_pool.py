# SPDX-License-Identifier: Apache-2.0
"""A pool on disk: embedded once, resumed, read back, and held to what may be retrieved."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from task_rows import write_rows

from bort_jax.agora import Dataset, Guard
from bort_jax.data.row_text import text_keys
from bort_jax.stages.agora.pool.retrieval import free_texts, open_pool, random_texts
from bort_jax.stages.agora.pool.store import Encoder, embed_pool
from bort_jax.stages.predict.forward import text_states
from bort_jax.tasks import Examples, Task

TASK = Task()
TEXTS = [f"the {word} ending of film {k}" for k, word in enumerate("good old bad cat".split() * 3)]


@pytest.fixture
def encoder(small):
    return Encoder(small, 24)


def examples(texts):
    return Examples.of([texts], np.zeros(len(texts), np.int32))


def pool_of(texts, encoder, folder, **rest):
    write_rows(folder / "pool.jsonl", [{"text": text, "label": 1} for text in texts])
    return embed_pool(str(folder / "pool.jsonl"), TASK, encoder, folder / "pool", **rest)


def contents(folder):
    return {file.name: file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def test_embed_pool_keeps_texts_and_the_mean_states_of_the_encoder(encoder, small, tmp_path):
    pool = pool_of([*TEXTS, "  ", TEXTS[0].upper()], encoder, tmp_path, part_rows=5)
    said = pool.read(np.array([0, 7, 11, 12]))
    assert [row[0][0][0].text for row in said.texts] == [*np.array(TEXTS)[[0, 7, 11]].tolist(),
                                                        TEXTS[0].upper()]  # fmt: skip
    assert pool.index["row"].tolist() == [*range(12), 13]  # the blank row is left out
    states = text_states(
        small.config, small.params, pad=small.tokenizer.special.pad, pooling="mean"
    )
    expected = states(examples(TEXTS).encode(small.tokenizer, seq_len=24).x)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = np.concatenate([vectors for _, vectors in pool.blocks()])
    np.testing.assert_allclose(found[:12], expected, atol=1e-3)
    assert [start for start, _ in pool.blocks()] == [0, 5, 10]


@pytest.mark.parametrize("parts", [1, 2])
def test_embed_pool_goes_on_where_it_was_cut_off(parts, encoder, tmp_path):
    for folder in ("straight", "killed"):
        (tmp_path / folder).mkdir()
    straight = pool_of(TEXTS, encoder, tmp_path / "straight", part_rows=5)
    embedded = []

    class Killed(Encoder):
        def vectors(self, x):
            if len(embedded) == parts:
                raise KeyboardInterrupt
            embedded.append(len(x))
            return super().vectors(x)

    with pytest.raises(KeyboardInterrupt):
        pool_of(TEXTS, Killed(encoder.checkpoint, 24), tmp_path / "killed", part_rows=5)
    resumed = pool_of(TEXTS, encoder, tmp_path / "killed", part_rows=5)
    assert contents(resumed.parts.folder) == contents(straight.parts.folder)
    assert pool_of(TEXTS, encoder, tmp_path / "killed").parts.complete  # and is not embedded again


@pytest.mark.parametrize(
    "texts, message",
    [
        ([], "no rows"),
        (["", " "], "none of its 2 rows .*column 'text' holds no text"),
        (["a", "b"], "none of its 2 rows has a text with a word that the vocabulary knows"),
    ],
)
def test_embed_pool_refuses_what_holds_no_text(texts, message, encoder, tmp_path):
    class Blind(Encoder):
        """Its vocabulary knows no word."""

        def tokens(self, examples):
            return np.full((len(examples.texts), 4), self.tokenizer.special.unk)

    with pytest.raises(ValueError, match=message) as caught:
        pool_of(texts, Blind(encoder.checkpoint, 24), tmp_path)
    assert "\n" not in str(caught.value)


def material_of(train, dev, test, tokenizer):
    encode = lambda texts: examples(texts).encode(tokenizer, seq_len=24).x
    half = SimpleNamespace(examples=examples(dev))
    return SimpleNamespace(
        given=examples(train), steer=half, report=half, test=examples(test), task=TASK,
        train=Dataset(encode(train), np.zeros(len(train))), head="classification",
        guard=Guard.of(text_keys(tokenizer), {"dev": encode(dev), "test": encode(test)}),
        points=lambda rows: Dataset(rows.encode(tokenizer, seq_len=24).x, rows.labels),
    )  # fmt: skip


def test_free_texts_stand_nowhere_else_and_once(encoder, tmp_path, capsys):
    pool = pool_of([*TEXTS[:6], f"  {TEXTS[5].upper()} ", *TEXTS[6:]], encoder, tmp_path)
    material = material_of(TEXTS[:1], TEXTS[1:2], TEXTS[2:3], encoder.tokenizer)
    free = free_texts(pool, material)
    assert np.flatnonzero(free).tolist() == [3, 4, 5, 7, 8, 9, 10, 11, 12]
    assert "pool: 9 texts; 4 more are known already" in capsys.readouterr().out
    x = random_texts(pool, material, 4)
    assert len(x) == 4 and not material.guard.leaks(x)
    assert len(random_texts(pool, material, 99)) == 9


@pytest.mark.parametrize("split", range(3))
def test_a_pool_that_is_known_already_is_one_line(split, encoder, tmp_path):
    pool = pool_of(TEXTS, encoder, tmp_path)
    splits = [["a"], ["b"], ["c"]]
    splits[split] = TEXTS
    with pytest.raises(ValueError, match="all 12 texts stand in train, validation or test"):
        free_texts(pool, material_of(*splits, encoder.tokenizer))


def test_open_pool_refuses_choices(encoder, tmp_path):
    material = SimpleNamespace(head="choice", task=replace(TASK, head="choice"))
    with pytest.raises(ValueError, match="does not know tasks with choices"):
        open_pool("pool.jsonl", material, encoder, tmp_path)

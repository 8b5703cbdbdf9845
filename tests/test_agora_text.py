# SPDX-License-Identifier: Apache-2.0
"""Texts for Agora: which tokens may change, what is the same text, dev in two halves."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from task_rows import rows_of_task

from bort_jax.agora import Parents, mlm_tau, neighbour_tau
from bort_jax.data.row_text import point_texts, row_texts, text_keys
from bort_jax.stages.agora.sides import token_sides
from bort_jax.stages.agora.split import near_duplicates, split_dev, text_groups
from bort_jax.tasks import TASKS, Examples
from bort_jax.tasks.read import examples_of

SEQ_LEN = 60


def examples(reference):
    rows = ((f"row {k}", row) for k, row in enumerate(rows_of_task(reference)))
    return examples_of(rows, TASKS[reference], required=False)


def encoded(reference, tokenizer, seq_len=SEQ_LEN):
    some = examples(reference)
    x = some.encode(tokenizer, seq_len=seq_len).x
    return x, token_sides(some, tokenizer, seq_len=seq_len)


def text_at(x, places, tokenizer):
    return tokenizer.backend.decode([int(token) for token in x[places]])


@pytest.mark.parametrize("reference", sorted(TASKS))
def test_special_tokens_stay_in_every_task(reference, corpus):
    x, sides = encoded(reference, corpus.tokenizer)
    assert x.shape == sides.shape
    special = np.isin(x, list(corpus.tokenizer.special))
    assert not sides[special].any() and (sides[~special] > 0).mean() > 0.3
    assert set(np.unique(sides)) <= {-1, 0, 1, 2}
    pairs = len(examples(reference).texts[0][0]) == 2
    # ReCoRD's second text is the query with the entity that is asked about: all of it stays.
    assert (sides == 2).any() == (pairs and reference != "superglue/record")


def test_sides_are_the_two_texts(corpus):
    x, sides = encoded("glue/rte", corpus.tokenizer)
    row = rows_of_task("glue/rte")[0]
    assert text_at(x[0], sides[0] == 1, corpus.tokenizer) == row["sentence1"]
    assert text_at(x[0], sides[0] == 2, corpus.tokenizer) == row["sentence2"]


def test_marked_words_stay(corpus):
    x, sides = encoded("superglue/wic", corpus.tokenizer)
    kept = text_at(x[0], (sides[0] == 0) & ~np.isin(x[0], list(corpus.tokenizer.special)),
                   corpus.tokenizer)  # fmt: skip
    assert kept.split() == ["*carry*", "*carries*"]
    x, sides = encoded("superglue/wsc", corpus.tokenizer)
    kept = text_at(x[0], (sides[0] == 0) & ~np.isin(x[0], list(corpus.tokenizer.special)),
                   corpus.tokenizer)  # fmt: skip
    assert kept.split() == ["*Ben*", "#he#"]


def test_choices_share_their_premise_and_keep_the_question(corpus):
    x, sides = encoded("superglue/copa", corpus.tokenizer)
    assert text_at(x[0, 0], sides[0, 0] == 1, corpus.tokenizer) == "The lamp 0 went out."
    assert text_at(x[0, 1], sides[0, 1] == -1, corpus.tokenizer) == "The lamp 0 went out."
    assert text_at(x[0, 1], sides[0, 1] == 2, corpus.tokenizer) == "It broke."
    assert not (sides[:, 0] == -1).any() and not (sides[:, 1] == 1).any()


def test_a_passage_that_is_cut_otherwise_for_each_choice_is_shared_as_far_as_it_goes(corpus):
    x, sides = encoded("race/middle", corpus.tokenizer, seq_len=40)
    common = np.logical_and.accumulate((x == x[:, :1]).all(axis=1), axis=1)
    assert not (sides[:, 0] == 1)[~common].any() and (sides[:, 0] == 1).any()
    assert ((sides[:, 1:] == -1) == (sides[:, :1] == 1)).all()


@pytest.mark.parametrize("reference", ["glue/rte", "superglue/wic", "superglue/copa", "race/high"])
def test_generated_rows_still_read_as_the_task(reference, corpus):
    tokenizer = corpus.tokenizer
    x, sides = encoded(reference, tokenizer)
    table = np.random.default_rng(0).standard_normal((tokenizer.vocab_size, 4))
    cycle = lambda x, at, seed: 5 + (np.take_along_axis(x, at, 1) - 4) % (tokenizer.vocab_size - 5)
    for tau in (mlm_tau(cycle), neighbour_tau(table, special=tokenizer.special)):
        made = tau.make(Parents(x, sides), np.arange(len(x)), np.random.default_rng(0))
        for text, parent in zip(point_texts(made, tokenizer), point_texts(x, tokenizer)):
            for sign in ("*", "#", "||", "What was the cause?", "What happened as a result?"):
                assert text.count(sign) >= parent.count(sign)
        assert (made != x).any(axis=tuple(range(1, x.ndim))).all()


@pytest.mark.parametrize("columns", [1, 2])
def test_rows_give_their_texts_back(columns, corpus):
    texts = [["the  cat sat", "Seven ships"], ["a good film", "*one* #two#"]][:columns]
    x = corpus.tokenizer.encode(texts, seq_len=40).ids
    assert row_texts(x, corpus.tokenizer) == list(zip(*texts, strict=True))


def test_case_blanks_and_padding_make_no_other_text(corpus):
    keys = text_keys(corpus.tokenizer)
    one = Examples.of([["The  cat\tsat "], ["on a Mat"]], np.zeros(1, int))
    two = Examples.of([["the cat sat"], ["ON A  MAT"]], np.zeros(1, int))
    other = Examples.of([["the cat sat on"], ["a mat"]], np.zeros(1, int))
    rows = lambda some, s: some.encode(corpus.tokenizer, seq_len=s).x
    assert keys(rows(one, 40)) == keys(rows(two, 40)) == keys(rows(two, 50))
    assert keys(rows(other, 40)) != keys(rows(one, 40))  # the texts of a pair are apart


def test_choices_are_compared_together(corpus):
    x, _ = encoded("superglue/copa", corpus.tokenizer)
    keys = text_keys(corpus.tokenizer)
    assert len(set(keys(x))) == len(x)
    assert keys(x[:, ::-1]) != keys(x)  # which choice is right is another question then


# Dev in halves


def sides_of(columns, **settings):
    some = Examples.of(columns, np.zeros(len(columns[0]), int))
    split = split_dev(some, **settings)
    assert sorted([*split.steer, *split.report]) == list(range(len(columns[0])))
    return np.isin(np.arange(len(columns[0])), split.steer)


def test_rows_with_a_premise_in_common_stand_together():
    premises = [f"p{k // 4} q{k // 4} r{k // 4}" for k in range(400)]
    steer = sides_of([premises, [f"s{k} t{k} u{k}" for k in range(400)]])
    assert (steer.reshape(-1, 4) == steer.reshape(-1, 4)[:, :1]).all()
    assert 120 < steer.sum() < 280


def test_near_duplicates_stand_together():
    base = [" ".join(f"w{k}x{n}" for n in range(12)) for k in range(200)]
    near = [text.replace("x11", "y11").upper() + "!" for text in base]
    steer = sides_of([[*base, *near]])
    assert (steer[:200] == steer[200:]).all() and 60 < steer[:200].sum() < 140


def test_groups_reach_over_others_and_short_texts_link_nothing():
    columns = [["one two three", "one two three", "four five six", "yes", "yes"],
               ["a b c d", "e f g h", "E F G  H", "i j k l m", "n o p q r"]]  # fmt: skip
    groups = text_groups(Examples.of(columns, np.zeros(5, int)))
    assert sorted(map(sorted, groups)) == [[0, 1, 2], [3], [4]]


def test_choices_with_the_same_passage_stand_together():
    row = rows_of_task("race/middle")[0]
    rows = [
        {**row, "article": f"a{k // 2} b{k // 2} c{k // 2} d{k // 2}", "question": f"Why e{k}?",
         "options": [f"{name}{k}" for name in ("f", "g", "h", "i")]}
        for k in range(5)
    ]  # fmt: skip
    some = examples_of(((f"row {k}", row) for k, row in enumerate(rows)), TASKS["race/middle"],
                       required=True)  # fmt: skip
    assert sorted(map(sorted, text_groups(some))) == [[0, 1], [2, 3], [4]]


words = st.frozensets(st.sampled_from("abcdefghij"), min_size=1, max_size=8)


@given(st.lists(words, max_size=20), st.floats(0.3, 1))
def test_near_duplicates_are_all_pairs_that_are_alike(sets, alike):
    found = {tuple(sorted(pair)) for pair in near_duplicates(sets, alike=alike)}
    wanted = {
        (a, b)
        for b in range(len(sets))
        for a in range(b)
        if len(sets[a] & sets[b]) >= alike * len(sets[a] | sets[b])
    }
    assert found == wanted


def test_a_text_that_is_like_no_other_keeps_its_side():
    texts = [" ".join(f"w{k}x{n}" for n in range(8)) for k in range(50)]
    assert (sides_of([texts])[:25] == sides_of([texts[:25]])).all()

# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bort_jax.arch import BERT_LARGE, BORT, Arch, SearchSpace, as_rows

sizes = st.integers(1, 5000)


@given(depth=sizes, heads=st.integers(1, 64), head_size=st.integers(1, 128), intermediate=sizes)
def test_printed_form_reads_back(depth, heads, head_size, intermediate):
    arch = Arch(depth, heads, heads * head_size, intermediate)
    assert Arch.parse(str(arch)) == arch


def test_names_are_architectures():
    assert Arch.parse("bort") == BORT == Arch(4, 8, 1024, 768)
    assert str(BERT_LARGE) == "D24-A16-H1024-I4096"


def test_published_space_has_300_valid_tuples():
    archs = SearchSpace.published().archs()
    assert len(archs) == len(set(archs)) == 300
    assert all(arch.hidden % arch.heads == 0 for arch in archs)
    assert BORT in archs


def test_heads_that_do_not_divide_name_the_nearest():
    with pytest.raises(ValueError, match="1024 is not a multiple of 7.* 4 and 8"):
        Arch.parse("D4-A7-H1024-I768")


def test_zero_layers_are_refused():
    with pytest.raises(ValueError, match="must lie between 1 and"):
        Arch(0, 2, 4, 4).validate()


@pytest.mark.parametrize("text", ["", "4-8-1024-768", "D4-A8-H1024", "D4-A8-H1024-I768 ", "bart"])
def test_other_texts_are_refused_with_an_example(text):
    with pytest.raises(ValueError, match="such as D4-A8-H1024-I768"):
        Arch.parse(text)


def test_an_empty_space_says_why():
    with pytest.raises(ValueError, match="search space is empty"):
        SearchSpace((1,), (3,), (4, 8), (4,)).archs()


def test_rows_are_in_the_order_of_the_fields():
    assert np.array_equal(as_rows([Arch(1, 2, 4, 8)]), [[1, 2, 4, 8]])
    assert as_rows([]).shape == (0, 4)


def test_absurd_sizes_are_refused():
    with pytest.raises(ValueError, match="must lie between 1 and 65,536"):
        Arch.parse("D4-A8-H1024-I76999999999999999999998")

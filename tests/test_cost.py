# SPDX-License-Identifier: Apache-2.0
"""Cost polynomial = Python integers = the Linen module's own count."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bort_jax.arch import BERT_BASE, BERT_LARGE, BORT, Arch, SearchSpace, as_rows
from bort_jax.cost import Polynomial, bert_network, cost
from bort_jax.cost.evaluate import by_part, total
from bort_jax.model import BertConfig, Classifier, Encoder, MaskedLM, count_params

MODULES = {
    "none": Encoder,
    "mlm": MaskedLM,
    "classifier": lambda config: Classifier(config, 3),
}


@pytest.mark.parametrize("head", MODULES)
def test_params_equal_the_module_on_all_of_the_published_space(head):
    """Depth is linear: a module of one layer and one of two give every depth."""
    space = SearchSpace.published()
    counted = cost(space, head=head, labels=3)(as_rows(space.archs())).params
    shallow = {}
    for arch, params in zip(space.archs(), counted, strict=True):
        key = arch._replace(depth=1)
        if key not in shallow:
            pair = [key, key._replace(depth=2)]
            shallow[key] = [count_params(MODULES[head](BertConfig(a, 50265))) for a in pair]
        one, two = shallow[key]
        assert params == one + (arch.depth - 1) * (two - one), arch


@pytest.mark.parametrize("head", MODULES)
@pytest.mark.parametrize("arch", [BORT, Arch(2, 16, 1024, 512), BERT_BASE, BERT_LARGE])
@pytest.mark.parametrize("vocab_size", [1000, 30522, 50265])
def test_params_equal_the_module_at_full_depth(head, arch, vocab_size):
    space = SearchSpace.of(arch, vocab_size=vocab_size, positions=128)
    counted = cost(space, head=head, labels=3)(as_rows([arch])).params[0]
    assert counted == count_params(MODULES[head](BertConfig(arch, vocab_size, positions=128)))


@given(
    rows=st.lists(
        st.tuples(
            st.integers(1, 100), st.integers(1, 64), st.integers(1, 9000), st.integers(1, 40000)
        ),
        min_size=1,
        max_size=5,
    ),
    head=st.sampled_from(list(MODULES)),
)
def test_jitted_costs_equal_python_integers(rows, head):
    space = SearchSpace.published()
    costs = cost(space, seq_len=512, head=head)(np.array(rows))
    network = bert_network(vocab_size=50265, positions=512, seq_len=512, head=head)
    exact = [total(network, row) for row in rows]
    assert [(int(p), int(i)) for p, i in zip(*costs, strict=True)] == exact


def test_steps_by_hand():
    """One layer, S = 3, H = 4, I = 5: 4·3·16 projections, 2·9·4 attention, 2·3·4·5 feed-forward."""
    arch = Arch(1, 2, 4, 5)
    steps = cost(SearchSpace.of(arch), seq_len=3)(as_rows([arch])).steps[0]
    assert steps == 4 * 3 * 16 + 2 * 9 * 4 + 2 * 3 * 4 * 5


def test_published_ratios_of_operations():
    costs = cost(SearchSpace.published(), seq_len=128)(as_rows([BORT, BERT_BASE, BERT_LARGE]))
    assert costs.steps[2] / costs.steps[0] == pytest.approx(12.78, abs=0.01)
    assert costs.steps[1] / costs.steps[0] == pytest.approx(3.62, abs=0.01)


def test_parts_add_up_and_match_the_audit():
    network = bert_network(vocab_size=50265, positions=512, seq_len=128, head="mlm")
    parts = by_part(network, BORT)
    assert parts["embeddings"]["params"] == 51_997_696
    assert parts["encoder"]["params"] == 23_108_608
    assert sum(part["params"] for part in parts.values()) == total(network, BORT)[0] == 76_208_217


def test_overflow_is_refused_and_not_wrapped():
    with pytest.raises(ValueError, match="2⁶³"):
        cost(SearchSpace.published())(np.array([[2**20, 1, 2**20, 2**20]], np.int64) * 1000)


@pytest.mark.parametrize("rows", [[1, 2, 3, 4], [[1, 2, 3]], [[1.0, 2.0, 3.0, 4.0]]])
def test_rows_of_another_shape_or_type_are_refused(rows):
    with pytest.raises(ValueError, match=r"integers of shape \[n, 4\]"):
        cost(SearchSpace.published())(np.array(rows))


def test_no_rows_cost_nothing():
    assert len(cost(SearchSpace.published())(as_rows([])).params) == 0


def test_a_sequence_longer_than_the_positions_is_refused():
    with pytest.raises(ValueError, match="longer than the 512 positions"):
        cost(SearchSpace.published(), seq_len=513)


def test_polynomials_print_and_add():
    polynomial = Polynomial.of(HH=4, I=1).plus(Polynomial.of(I=2, one=7))
    assert str(polynomial) == "4·H² + 3·I + 7"
    assert polynomial.degree("H", "I") == 2 and polynomial.degree("I") == 1
    assert polynomial((9, 9, 2, 5)) == 16 + 15 + 7

# SPDX-License-Identifier: Apache-2.0
"""Cost polynomial = Python integers = the Linen module's own count."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bort_jax.arch import BERT_BASE, BERT_LARGE, BORT, Arch, SearchSpace, as_rows
from bort_jax.cost import Polynomial, bert_network, by_part, cost_function, total
from bort_jax.cost.evaluate import CHUNK
from bort_jax.model import BertConfig, Classifier, Encoder, MaskedLM, count_params

MODULES = {
    "none": Encoder,
    "mlm": MaskedLM,
    "classifier": lambda config: Classifier(config, 3),
}
# Compiled once for all tests.
COST_FNS = {
    head: cost_function(SearchSpace.published(), seq_len=512, head=head, labels=3)
    for head in MODULES
}


SLOW = pytest.mark.slow
EVERY = [37, pytest.param(1, marks=SLOW)]  # one member in so many, or all


@pytest.mark.parametrize("every", EVERY, ids="every {}".format)
@pytest.mark.parametrize("head", MODULES)
def test_cost_function_counts_the_parameters_of_the_module(head, every):
    """On the published space. Depth is linear: one layer and two give every depth."""
    space = SearchSpace.published()
    counted = COST_FNS[head](as_rows(space.archs())).params
    shallow = {}
    for arch, params in list(zip(space.archs(), counted, strict=True))[::every]:
        key = arch._replace(depth=1)
        if key not in shallow:
            pair = [key, key._replace(depth=2)]
            shallow[key] = [count_params(MODULES[head](BertConfig(a, 50265))) for a in pair]
        one, two = shallow[key]
        assert params == one + (arch.depth - 1) * (two - one), arch


@pytest.mark.parametrize("head", MODULES)
@pytest.mark.parametrize("arch", [BORT, Arch(2, 16, 1024, 512), BERT_BASE, BERT_LARGE])
@pytest.mark.parametrize(
    "vocab_size", [1000, *(pytest.param(v, marks=SLOW) for v in (30522, 50265))]
)
def test_cost_function_counts_the_parameters_at_full_depth(head, arch, vocab_size):
    space = SearchSpace.of(arch, vocab_size=vocab_size, positions=128)
    counted = cost_function(space, head=head, labels=3)(as_rows([arch])).params[0]
    assert counted == count_params(MODULES[head](BertConfig(arch, vocab_size, positions=128)))


@given(
    rows=st.lists(
        st.tuples(
            st.integers(1, 100), st.integers(1, 64), st.integers(1, 9000), st.integers(1, 40000)
        ),
        min_size=4,
        max_size=4,
    ),
    head=st.sampled_from(list(MODULES)),
)
def test_cost_function_equals_python_integers(rows, head):
    costs = COST_FNS[head](np.array(rows))
    network = bert_network(vocab_size=50265, positions=512, seq_len=512, head=head, labels=3)
    for k, row in enumerate(rows):
        exact = total(network, row)
        assert {kind: int(getattr(costs, kind)[k]) for kind in exact} == exact
        assert costs.operations[k] == exact["macs"] + exact["elementwise_ops"]
        assert costs.weight_bytes[k] == 4 * exact["params"]
        assert costs.memory[k] == costs.weight_bytes[k] + costs.activation_bytes[k]


def test_macs_by_hand():
    """One layer, S = 3, H = 4, I = 5: 4·3·16 projections, 2·9·4 attention, 2·3·4·5 feed-forward."""
    arch = Arch(1, 2, 4, 5)
    macs = cost_function(SearchSpace.of(arch), seq_len=3)(as_rows([arch])).macs[0]
    assert macs == 4 * 3 * 16 + 2 * 9 * 4 + 2 * 3 * 4 * 5


def test_element_wise_operations_by_hand():
    """S = 3, A = 2, H = 4, I = 5: 6 a score, LayerNorm 7, GELU 5, biases, residuals, scaling."""
    arch = Arch(1, 2, 4, 5)
    scores, hidden, intermediate = 2 * 3 * 3, 3 * 4, 3 * 5
    layer = 6 * scores + (1 + 5 + 2) * hidden + 2 * 7 * hidden + (1 + 5) * intermediate
    embeddings = (1 + 7) * hidden
    costs = cost_function(SearchSpace.of(arch), seq_len=3)(as_rows([arch]))
    assert costs.elementwise_ops[0] == layer + embeddings
    assert costs.activation_bytes[0] == 4 * max(4 * 12 + 2 * 18, 12 + 2 * 15, 2 * 12)
    halves = cost_function(SearchSpace.of(arch), seq_len=3, batch=8, bytes_per_number=2)(
        as_rows([arch])
    )
    assert halves.activation_bytes[0] == 8 * costs.activation_bytes[0] // 2


def test_operations_grow_with_heads_where_params_and_macs_do_not():
    costs = COST_FNS["none"](as_rows([Arch(2, heads, 64, 64) for heads in (1, 2, 4, 8)]))
    assert len(set(costs.params)) == len(set(costs.macs)) == 1
    assert (np.diff(costs.operations) > 0).all()


@pytest.mark.parametrize("arch", [Arch(2, 2, 64, 256), Arch(1, 8, 128, 64), Arch(3, 4, 96, 512)])
def test_activations_bound_what_the_compiler_needs(arch):
    """XLA fuses and reuses, and needs room for its products: between a fifth and twice of it."""
    model = Encoder(BertConfig(arch, 100, positions=64, dropout=0.0))
    ids, mask = np.zeros((8, 64), np.int32), np.ones((8, 64), bool)
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), ids, mask))
    compiled = jax.jit(model.apply).lower(params, ids, mask).compile()
    needed = compiled.memory_analysis().temp_size_in_bytes
    space = SearchSpace.of(arch, vocab_size=100, positions=64)
    counted = cost_function(space, seq_len=64, batch=8)(as_rows([arch])).activation_bytes[0]
    assert 0.2 * counted <= needed <= 2 * counted


def test_more_rows_than_a_chunk_equal_the_same_rows_one_by_one():
    rows = np.resize(as_rows(SearchSpace.published().archs()), (CHUNK + 7, 4))
    costs, few = COST_FNS["none"](rows), COST_FNS["none"](rows[:300])
    for many, some in zip(costs, few, strict=True):
        np.testing.assert_array_equal(many, np.resize(some, len(rows)))


def test_published_ratios_of_operations():
    costs = cost_function(SearchSpace.published(), seq_len=128)(
        as_rows([BORT, BERT_BASE, BERT_LARGE])
    )
    assert costs.macs[2] / costs.macs[0] == pytest.approx(12.78, abs=0.01)
    assert costs.macs[1] / costs.macs[0] == pytest.approx(3.62, abs=0.01)


def test_parts_add_up_and_match_the_audit():
    network = bert_network(vocab_size=50265, positions=512, seq_len=128, head="mlm")
    parts = by_part(network, BORT)
    assert parts["embeddings"]["params"] == 51_997_696
    assert parts["encoder"]["params"] == 23_108_608
    assert sum(part["params"] for part in parts.values()) == 76_208_217
    assert total(network, BORT)["params"] == 76_208_217


def test_overflow_is_refused_and_not_wrapped():
    with pytest.raises(ValueError, match="2⁶³"):
        cost_function(SearchSpace.published())(
            np.array([[2**20, 1, 2**20, 2**20]], np.int64) * 1000
        )


@pytest.mark.parametrize("rows", [[1, 2, 3, 4], [[1, 2, 3]], [[1.0, 2.0, 3.0, 4.0]]])
def test_rows_of_another_shape_or_type_are_refused(rows):
    with pytest.raises(ValueError, match=r"integers of shape \[n, 4\]"):
        cost_function(SearchSpace.published())(np.array(rows))


def test_no_rows_cost_nothing():
    assert len(cost_function(SearchSpace.published())(as_rows([])).params) == 0


def test_a_sequence_longer_than_the_positions_is_refused():
    with pytest.raises(ValueError, match="longer than the 512 positions"):
        cost_function(SearchSpace.published(), seq_len=513)


def test_polynomial_evaluates_its_monomials():
    assert Polynomial.of(HH=4, I=3, one=7)((9, 9, 2, 5)) == 16 + 15 + 7

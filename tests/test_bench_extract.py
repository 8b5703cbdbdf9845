# SPDX-License-Identifier: Apache-2.0
"""The benchmark's instances are what they say, its judge is right, and its peers are judged."""

import sys
from itertools import product

import bench_extract
import numpy as np
import pytest

from bort_jax import Arch
from bort_jax.cost.bert import bert_network
from bort_jax.ose import solve_layerwise

pytestmark = pytest.mark.slow


def every_w(instance):
    choices = np.array(
        list(product(range(len(bench_extract.OPTIONS)), repeat=len(instance.problem.params)))
    )
    return bench_extract.Judge(instance, 60)(choices)[1]


def test_costs_are_those_of_bert():
    network = bert_network(
        vocab_size=bench_extract.VOCAB_SIZE,
        positions=bench_extract.POSITIONS,
        seq_len=bench_extract.SEQ_LEN,
    )
    params, macs = bench_extract.bert_costs(2)
    for option, (heads, intermediate) in enumerate(bench_extract.OPTIONS):
        if heads * bench_extract.HEAD_SIZE == bench_extract.HIDDEN and intermediate:
            arch = Arch(1, int(heads), bench_extract.HIDDEN, int(intermediate))
            assert params[1, option] == network.b.params(arch)
            assert macs[1, option] == network.b.macs(arch)
    assert params[0, 0] == macs[0, 0] == 0  # a skipped layer
    base = network.a.params(Arch(1, 16, bench_extract.HIDDEN, 1))
    assert bench_extract.make_instance("smooth", 0, layers=2).problem.base_params == base


@pytest.mark.parametrize("shape", bench_extract.SHAPES)
def test_instances_are_seeded_and_the_judge_agrees_with_the_solver(shape):
    instance, again = (bench_extract.make_instance(shape, 3, layers=2) for _ in range(2))
    other = bench_extract.make_instance(shape, 4, layers=2)
    np.testing.assert_array_equal(instance.problem.errors, again.problem.errors)
    assert (instance.problem.errors != other.problem.errors).any()
    found = solve_layerwise([instance.problem])
    _, w = bench_extract.Judge(instance, 60)(found.choice[None])
    assert w[0] == pytest.approx(found.w, rel=1e-12)
    assert every_w(instance).max() == pytest.approx(found.w, rel=1e-8)


def test_highs_finds_the_optimum_of_a_small_instance():
    instance = bench_extract.make_instance("rough", 0, layers=2)
    best = every_w(instance).max()
    found = bench_extract.run_peer(instance, "HiGHS (scipy)", best, 1.0)
    assert found.w == pytest.approx(best, rel=1e-3) and found.seconds <= 1.0


@pytest.mark.parametrize("name", ["Optuna TPE", "Optuna NSGA-II", "pymoo GA", "pymoo NSGA-II"])
def test_black_box_peers_find_something(name):
    pytest.importorskip(bench_extract.PEERS[name][0])
    instance = bench_extract.make_instance("smooth", 0, layers=2)
    best = every_w(instance).max()
    assert 0 < bench_extract.run_peer(instance, name, best, 0.3).w <= best * (1 + 1e-12)


def test_a_peer_above_the_bound_stops_the_run():
    instance = bench_extract.make_instance("random", 0, layers=2)
    with pytest.raises(SystemExit, match="random 0: Lagrange sweep has W .* above the bound"):
        bench_extract.run_peer(instance, "Lagrange sweep", 1e-6, 0.1)


def test_what_comes_late_does_not_count():
    judge = bench_extract.Judge(bench_extract.make_instance("random", 0, layers=2), seconds=0.0)
    judge(np.zeros((1, 2), int))
    assert judge.w == 0


def test_a_missing_peer_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(SystemExit, match=r"optuna is missing: pip install 'bort-jax\[bench\]'"):
        bench_extract.loaded("optuna")

# SPDX-License-Identifier: Apache-2.0
"""Laws of extraction inside a pretrained parent, by its command line."""

import json
import shutil
from dataclasses import replace
from functools import reduce
from itertools import product
from operator import getitem

import jax
import numpy as np
import pytest
from command_line import refused, run
from helpers import trees_equal
from tokenizers import Tokenizer as Backend
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from bort_jax.arch import Arch, LayerwiseArch
from bort_jax.data.tokenizer import Tokenizer
from bort_jax.interop import Checkpoint, read, save
from bort_jax.model import BertConfig, param_structs, random_params, states_and_logits
from bort_jax.model.inherit import inherit
from bort_jax.ose import Budget
from bort_jax.stages.extract.parent.calibration import drawn_texts, encoded
from bort_jax.stages.extract.parent.choices import Choices, Costs, LayerLatency
from bort_jax.stages.extract.parent.measured import costs_of
from bort_jax.stages.extract.parent.run import check_memory
from bort_jax.stages.extract.parent.search import best_of_depths, least_error
from bort_jax.stages.extract.parent.uniform import UniformNetworks, uniform_answer
from bort_jax.stages.extract.parent.vocabulary import with_vocabulary

PARENT = Arch(3, 4, 16, 64)
SIZES = ("--seq-len", 16, "--calibration-rows", 128)


def scaled(params):
    """Weights that say something: drawn ones leave a state almost as it was."""
    return jax.tree.map(lambda x: 8 * x if x.ndim > 1 else x, params)


@pytest.fixture(scope="module")
def parent(corpus, tmp_path_factory):
    """The folder of a masked LM with random weights."""
    config = BertConfig(PARENT, corpus.tokenizer.vocab_size, positions=16)
    empty = Checkpoint(config, None, tokenizer=corpus.tokenizer)
    folder = tmp_path_factory.mktemp("parent") / "model"
    save(empty.with_params(scaled(random_params(empty.model, seed=0))), folder)
    return folder


def extracted(parent, text_file, out, *more):
    from bort_jax.cli import main

    words = ["extract", "--parent", parent, "--data", text_file, "--out", out, *SIZES, *more]
    main([str(word) for word in words])
    return out


@pytest.fixture(scope="module")
def finished(parent, text_file, tmp_path_factory):
    """A run under a budget of p and i."""
    out = tmp_path_factory.mktemp("inside") / "run"
    return extracted(parent, text_file, out, *budget(parent))


def budget(parent):
    params, macs = costs_of(read(parent), PARENT, seq_len=16).whole
    return "--max-params", 0.8 * params, "--max-macs", 0.9 * macs


def result(folder):
    return json.loads((folder / "parent.json").read_text())


def test_costs_are_those_of_the_models_own_parameters(parent, finished):
    checkpoint = read(finished / "model")
    count = sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(param_structs(checkpoint.model)))
    assert result(finished)["best"]["params"] == count
    costs = costs_of(read(parent), PARENT, seq_len=16)
    assert costs.whole[0] == sum(x.size for x in jax.tree.leaves(read(parent).params))


def test_budgets_are_kept_and_the_certificate_says_what_was_checked(parent, finished):
    found = result(finished)
    _, params, _, macs = budget(parent)
    for one in (found["best"], *found["others"]):
        assert one["params"] <= params and one["macs"] <= macs
        assert one["measured"] and one["w"] == pytest.approx(one["saving"] / one["error"])
    assert found["best"]["w"] == max(one["w"] for one in (found["best"], *found["others"]))
    assert len(found["checked"]) == 1 + len(found["others"])
    page = (finished / "report.html").read_text()
    assert "measured/surrogate lay in" in page and "double the base" in page


def test_the_checkpoint_reads_back_with_the_error_that_was_measured(parent, finished, text_file):
    given, student, found = read(parent), read(finished / "model"), result(finished)
    arch = LayerwiseArch.parse(found["best"]["arch"])
    assert student.config.arch.sizes() == arch.sizes()
    texts = drawn_texts(str(text_file), column="text", rows=128, seed=0)
    rows = encoded(given, texts, seq_len=16, seed=0)
    again = measured(inherit(given, rows), student, arch)
    assert again == pytest.approx(found["student_error"], rel=1e-5)
    assert again <= found["best"]["error"] * (1 + 1e-6)


def measured(inheritance, student, arch: LayerwiseArch) -> float:
    numbers = [n for n, option in enumerate(arch.layers) if option != (0, 0)]
    layers = [student.params["encoder"][f"layer_{k}"] for k in range(len(numbers))]
    return inheritance.error_of(list(zip(numbers, layers, strict=True)))


def test_the_front_is_no_worse_than_the_parent_and_has_no_beaten_network(finished):
    front = result(finished)["front"]
    numbers = np.array([(one["params"], one["macs"], one["error"]) for one in front])
    beaten = (numbers[:, None] >= numbers).all(-1) & (numbers[:, None] > numbers).any(-1)
    assert not beaten.any()
    assert np.diff(numbers[:, 1]).max() <= 0
    assert front[0]["wanted"] == "the parent" and len(front) > 2


def test_from_gives_the_fresh_answer_and_its_weights(parent, finished, tmp_path, capsys):
    out = tmp_path / "again"
    code, said, err = run(capsys, "extract", "--from", finished, *budget(parent), "--out", out)
    assert not code, err
    assert "nothing measured" in said
    assert result(out)["best"] == pytest.approx(result(finished)["best"])
    assert read(out / "model").config == read(finished / "model").config


def test_pick_gives_a_network_of_the_front(finished, tmp_path, capsys):
    front = result(finished)["front"]
    out = tmp_path / "picked"
    code, _, err = run(capsys, "extract", "--from", finished, "--pick", len(front), "--out", out)
    assert not code, err
    assert read(out / "model").config.arch.sizes() == LayerwiseArch.parse(front[-1]["arch"]).sizes()
    assert "between 1 and" in refused(capsys, "extract", "--from", finished, "--pick", 99)
    line = refused(capsys, "extract", "--from", finished, "--pick", 1, "--max-params", 1e9)
    assert "leave the budget out" in line


def test_the_parent_is_the_answer_to_a_budget_above_it(parent, finished, tmp_path, capsys):
    out = tmp_path / "whole"
    code, said, err = run(capsys, "extract", "--from", finished, "--max-params", 1e9, "--out", out)
    assert not code, err
    assert "the parent is within the budget" in said
    whole, given = read(out / "model"), read(parent)
    assert trees_equal(whole.params, given.params) and whole.config == given.config


def test_latency_memory_and_vocabulary_are_kept_to(parent, text_file, tmp_path, capsys):
    """One run under all of them, and its answer again under another ceiling."""
    size = read(parent).config.vocab_size
    more = ("--vocab", size - 20, "--latency", "true", "--depth", "[3]", "--max-memory", 0.9e9)
    more += ("--heads", "[2,4]", "--intermediate", "[32,64]")
    out = extracted(parent, text_file, tmp_path / "run", *more)
    found = result(out)
    student = read(out / "model")
    assert student.config.vocab_size == student.tokenizer.vocab_size == size - 20
    whole = found["front"][0]
    assert whole["latency_ms"] > 0 and whole["memory"] > 4 * whole["params"]
    top = 0.999 * whole["latency_ms"]
    again = tmp_path / "again"
    words = ("--from", out, "--max-latency-ms", top, "--out", again)
    code, _, err = run(capsys, "extract", *words)
    assert not code, err
    assert result(again)["best"]["latency_ms"] <= top
    assert read(again / "model").config.vocab_size == size - 20


def test_texts_of_tokens_that_stay_keep_their_states(parent):
    given = read(parent)
    texts = [given.tokenizer.backend.decode([k]) for k in range(270, 290)]
    cut = with_vocabulary(given, texts * 3, given.config.vocab_size - 5)
    assert cut.tokenizer.vocab_size == given.config.vocab_size - 5
    states = []
    for checkpoint in (given, cut):
        ids, mask = checkpoint.tokenizer.encode([texts], seq_len=16)
        positions = np.zeros((len(texts), 1), np.int32)
        found = states_and_logits(checkpoint.model, checkpoint.params, ids, mask, positions)
        states.append(np.asarray(found[0]))
    np.testing.assert_allclose(*states, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_student(parent, finished, text_file, tmp_path):
    again = extracted(parent, text_file, tmp_path / "run", *budget(parent))
    assert result(again)["best"] == result(finished)["best"]
    assert trees_equal(read(again / "model").params, read(finished / "model").params)


def test_what_a_run_cannot_answer_is_refused(finished, parent, capsys):
    for more, told in (
        (("--max-params", 10), "no network inside the parent meets params ≤ 10"),
        (("--max-latency-ms", 3), "extract with --latency to limit them"),
        (("--about-params", 10), "no network inside the parent meets"),
    ):
        assert told in refused(capsys, "extract", "--from", finished, *more)


def test_a_run_that_was_damaged_or_whose_parent_changed_is_refused(
    finished, parent, tmp_path, capsys
):
    folder = shutil.copytree(finished, tmp_path / "run")
    words = ("extract", "--from", folder, "--out", tmp_path / "out")
    found = result(folder)
    other = read(parent)
    changed = jax.tree.map(lambda x: x + 1, other.params)
    save(other.with_params(changed), tmp_path / "other")
    (folder / "parent.json").write_text(json.dumps(found | {"parent": str(tmp_path / "other")}))
    assert "of another parent" in refused(capsys, *words)
    (folder / "parent.json").write_text(json.dumps(found))
    (folder / "gram.safetensors").write_bytes(b"\xff" * 100)
    assert "gram.safetensors is damaged" in refused(capsys, *words)
    with (folder / "gram.safetensors").open("wb") as file:
        file.truncate(1 << 28)
    assert "larger than the Gram matrices" in refused(capsys, *words)
    (folder / "parent.json").write_text(json.dumps(found | {"choices": {}}))
    assert "parent.json is damaged" in refused(capsys, *words)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--calibration-rows", 5000), "holds 1000 texts, and 5000 calibration rows are needed"),
        (("--calibration-rows", 20), "--calibration-rows must be at least 128"),
        (("--seq-len", 600), "the parent has 16 positions"),
        (("--depth", "[4]"), "--depth must lie between 1 and 3"),
        (("--steps", 3), "inside a parent does not read --steps"),
        (("--epsilon", 0.5), "--epsilon is read by --search interval and bounded"),
        (("--search", "bounded", "--epsilon", 2), "epsilon must lie in (0, 1)"),
        (("--stock", "true", "--heads", "[1]"), "leave --heads out"),
        (("--inference", "operations"), "i is macs or latency_ms"),
        (("--vocab", 5), "tokens must stay; asked for 5"),
    ],
)
def test_bad_options_are_one_line(parent, text_file, tmp_path, capsys, more, told):
    words = ("--parent", parent, "--data", text_file, "--out", tmp_path / "out", *SIZES, *more)
    assert told in refused(capsys, "extract", *words)
    assert not (tmp_path / "out" / "parent.json").exists()


def test_a_parent_without_tokenizer_is_refused(parent, text_file, tmp_path, capsys):
    save(replace(read(parent), tokenizer=None), tmp_path / "bare")
    words = ("--parent", tmp_path / "bare", "--data", text_file, "--out", tmp_path / "out", *SIZES)
    assert "has no tokenizer" in refused(capsys, "extract", *words)


def test_a_parent_that_chooses_needs_its_tasks_rows(parent, text_file, tmp_path, capsys):
    found = read(parent)
    choosing = replace(found, labels=("choice",), problem="choice")
    save(choosing.with_params(random_params(choosing.model, seed=0)), tmp_path / "choosing")
    words = (
        "--parent",
        tmp_path / "choosing",
        "--data",
        text_file,
        "--out",
        tmp_path / "o",
        *SIZES,
    )
    assert "chooses among texts, which unlabelled text has not" in refused(
        capsys, "extract", *words
    )


def test_encoded_says_how_much_of_the_text_is_unknown(parent, capsys):
    names = ("<s>", "<pad>", "</s>", "<unk>", "<mask>", "known")
    backend = Backend(WordLevel({name: k for k, name in enumerate(names)}, unk_token="<unk>"))
    backend.pre_tokenizer = Whitespace()
    given = replace(read(parent), tokenizer=Tokenizer(backend))
    encoded(given, ["two words known"] * 4, seq_len=16, seed=0)
    assert "67% of the tokens of the text are unknown" in capsys.readouterr().out


def test_check_memory_says_what_would_fit():
    config = BertConfig(PARENT, 60, positions=16)
    check_memory(config, 1 << 30)
    with pytest.raises(ValueError, match="as wide would fit"):
        check_memory(config, 1000)


def drawn_choices(seed: int, *, latency: LayerLatency | None = None) -> Choices:
    """Errors of chance in a parent of three layers."""
    generator = np.random.default_rng(seed)
    of_heads, of_units = generator.uniform(0.1, 1, (3, 2)), generator.uniform(0.1, 1, (3, 3))
    of_heads[:, -1] = of_units[:, -1] = 0
    kept, bases = ((0, 1, 2), (0, 2), (1,)), (0.2, 0.5, 0.9)
    costs = Costs(PARENT, 16, 1000, 50)
    return Choices(costs, (1, 4), (16, 32, 64), of_heads, of_units, kept, bases, latency=latency)


def every_network(choices: Choices):
    """(p, i, memory, ms, e) of all networks, counted one by one."""
    for kept, base in zip(choices.kept, choices.bases, strict=True):
        for picked in product(product(range(2), range(3)), repeat=len(kept)):
            sizes = [(choices.heads[a], choices.units[i]) for a, i in picked]
            params, macs = choices.costs(sizes)
            live = [choices.costs.live_of(heads=a, units=0) for a, _ in sizes]
            live += [choices.costs.live_of(units=i) for _, i in sizes]
            taken, ms = choices.latency, 0.0
            if taken:
                ms = taken.rest + sum(taken.heads[a] + taken.units[i] for a, i in picked)
            added = [choices.of_heads[n, a] + choices.of_units[n, i]
                     for n, (a, i) in zip(kept, picked, strict=True)]  # fmt: skip
            yield params, macs, 4 * (params + max(live)), ms, base + sum(added)


LATENCY = LayerLatency(0.1, (0.4, 1.1), (-0.7, -0.35, 0.0))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "shares",
    [
        {},
        {"macs": 0.4},
        {"params": 0.6, "error": 2.0},
        {"latency_ms": 0.5},
        {"memory": 0.6},
        {"memory": 0.5, "latency_ms": 0.8, "macs": 0.5},
    ],
)
def test_the_best_of_the_program_is_that_of_all_networks(seed, shares):
    choices = drawn_choices(seed, latency=LATENCY)
    tops = {name: share * choices.whole[name] for name, share in shares.items()}
    tops |= {"error": 2.0} if "error" in tops else {}
    names = ("params", "macs", "memory", "latency_ms", "error")
    rows = np.array(list(every_network(choices)))
    within = np.all([rows[:, names.index(n)] <= top + 1e-9 for n, top in tops.items()], axis=0)
    rows = rows[within] if tops else rows
    whole = choices.whole
    w = (1 - rows[:, 0] / whole["params"]) * (1 - rows[:, 1] / whole["macs"]) / rows[:, 4]
    best = best_of_depths(choices, Budget(tops), {})[0]
    assert best.w == pytest.approx(w.max())
    least = least_error(choices, Budget(tops), {})
    assert least.surrogate == pytest.approx(rows[:, 4].min())
    for found in (best, least):
        assert Budget(tops).allows(found.columns)[0]
        assert (found.params, found.macs) == choices.costs(
            [option for option in found.arch.layers if option != (0, 0)]
        )


def test_equal_layers_are_the_best_of_the_uniform_networks():
    choices = replace(drawn_choices(1), equal=True)
    rows = []
    for kept, base in zip(choices.kept, choices.bases, strict=True):
        for a, i in product(range(2), range(3)):
            costs = choices.costs([(choices.heads[a], choices.units[i])] * len(kept))
            layers = list(kept)
            added = choices.of_heads[layers, a].sum() + choices.of_units[layers, i].sum()
            rows.append((*costs, base + added))
    p, i, e = np.array(rows).T
    w = (1 - p / choices.whole["params"]) * (1 - i / choices.whole["macs"]) / e
    best = best_of_depths(choices, Budget(), {})[0]
    assert best.w == pytest.approx(w.max())
    assert len({option for option in best.arch.layers if option != (0, 0)}) == 1


@pytest.mark.parametrize("search", ["interval", "bounded", "exhaustive"])
@pytest.mark.parametrize("tops", [{}, {"macs": 0.4}, {"params": 0.9, "error": 1.6}])
def test_uniform_answer_is_within_its_claim_and_its_budget(search, tops):
    choices = replace(drawn_choices(1), equal=True)
    space = UniformNetworks(choices)
    sums = {str(space.network(one)): float(sum(one)) for one in space.archs()}
    errors_fn = lambda archs: [1 + 40 / sums[str(arch)] for arch in archs]
    budget = Budget({n: x if n == "error" else x * choices.whole[n] for n, x in tops.items()})
    (best, *others), known = uniform_answer(choices, budget, errors_fn, search=search, epsilon=0.25)
    costs = space.costs(np.array(space.archs()))
    assert all(known[name].error == 1 + 40 / sums[name] for name in known)
    errors = np.array([1 + 40 / sum(one) for one in space.archs()])
    within = budget.allows(costs | {"error": errors})
    w = np.prod([1 - costs[n] / choices.whole[n] for n in ("params", "macs")], axis=0) / errors
    assert budget.allows(best.columns)[0] and best.measured
    assert 0.75 * w[within].max() <= best.w <= w[within].max() + 1e-12
    assert all(best.w >= one.w for one in others)
    if search == "exhaustive":
        assert len(known) == len(space.archs()) or tops


def test_stock_networks_load_in_stock_classes(parent, text_file, tmp_path, capsys):
    more = ("--stock", "true", "--depth", "[2,3]", "--search", "interval")
    out = extracted(parent, text_file, tmp_path / "run", *more)
    assert "search interval: W is at least" in " ".join(capsys.readouterr().out.split())
    assert isinstance(read(out / "model").config.arch, Arch)
    assert (out / "model" / "config.json").is_file()


@pytest.mark.parametrize("place", [("costs", "params"), ("bases", 0), ("of_heads", 0, 0)])
def test_choices_that_are_no_numbers_are_refused(place):
    found = json.loads(json.dumps(drawn_choices(0).as_json()))
    *outer, last = place
    reduce(getitem, outer, found)[last] = float("nan")
    with pytest.raises(ValueError):
        Choices.from_json(found)


def test_choices_come_back_from_json():
    for latency in (None, LATENCY):
        choices = drawn_choices(0, latency=latency)
        again = Choices.from_json(json.loads(json.dumps(choices.as_json())))
        assert best_of_depths(again, Budget(), {}) == best_of_depths(choices, Budget(), {})
        assert again.costs == choices.costs and again.latency == latency

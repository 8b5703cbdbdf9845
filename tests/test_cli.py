# SPDX-License-Identifier: Apache-2.0
"""The command line as a user meets it."""

import ast
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import jax
import pytest
from command_line import refused, run
from helpers import TINY_RUN, options_of, pretrain_config, trees_equal

from bort_jax import cli
from bort_jax.interop import load
from bort_jax.report import page
from bort_jax.stages.extract.config import LIMITS

CONFIGS = Path(__file__).parent.parent / "configs"
CACHE_SETTINGS = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")


def test_usage_names_every_verb_and_every_verb_explains_itself(capsys):
    _, out, _ = run(capsys)
    for verb in cli.VERBS:
        assert f"  {verb}" in out
        module = import_module(f"bort_jax.commands.{verb}")
        code, text, _ = run(capsys, verb, "--help")
        assert code == 0
        for field in dataclasses.fields(module.Config):
            assert field.name in text, f"{verb} --{field.name} is not explained"


def test_doctor_finds_nothing_broken(capsys):
    code, out, err = run(capsys, "doctor")
    assert code == 0 and "BROKEN" not in out, err
    assert "sum over devices: works" in out and "exact 64-bit costs: works" in out


def test_costs_as_json(capsys):
    line = "cost D4-A8-H1024-I768 --vocab-size 50265 --json"
    counts = json.loads(run(capsys, *line.split())[1])
    bort = counts["D4-A8-H1024-I768"]
    assert [bort[part]["params"] for part in ("embeddings", "encoder", "head", "total")] == [
        51_997_696,
        23_108_608,
        1_101_913,
        76_208_217,
    ]
    assert bort["encoder"]["macs"] == 3_087_007_744
    assert {"bert-base", "bert-large"} < counts.keys()


def test_costs_as_a_table(capsys):
    _, out, _ = run(capsys, "cost", "bort")
    assert "76,208,217" in out and "12.78 times" in out


@pytest.mark.parametrize(
    "argv, message",
    [
        ("pretain", "did you mean 'pretrain'"),
        ("cost bort --vocb-size 3", "did you mean 'vocab_size'"),
        ("cost D4-A7-H1024-I768", "heads must divide hidden"),
        ("cost bort --seq-len 513", "longer than the 512 positions"),
        ("cost bort --seq-len 0", "expected 1 or more, below 2^31; got seq_len 0"),
        (f"cost bort --vocab-size {10**20}", "below 2^31; got vocab_size 1"),
        (f"cost bort --batch {10**20}", "below 2^31; got 1"),
        ("cost bort --vocab-size -1 --labels 0", "got vocab_size -1, labels 0"),
        ("cost bort --head tail", "must be one of none, mlm, classifier"),
        ("quickstart --preset tiny", "no preset 'tiny' of quickstart; there are: smoke"),
        ("quickstart --agora.sede 1", "did you mean 'agora.seeds'"),
        ("extract --data x --out y --epsilon 1.0", "epsilon must lie in (0, 1)"),
        ("extract --data x", "--data and --out are needed, or --from RUN"),
        ("extract --data x --out y --search greedy", "interval, bounded, exhaustive, layerwise"),
        ("extract --from nowhere", "nowhere holds no finished extraction"),
        ("extract --from nowhere --epsilon 0.1", "does not read --epsilon"),
        ("extract --data x --out y --search layerwise --measure eror", "measure must be one of"),
        ("extract --data x --out y --search layerwise --latency", "does not read --latency"),
        ("extract --data x --out y --heads [5] --hidden [8]", "search space is empty"),
        ("finetune --data x", "give one of --model and --init-from"),
        ("agora --data x --socrates y", "--model is needed: the student"),
        ("agora --data x --model y", "--socrates is needed: a trained classifier"),
        ("agora --data x --model y --socrates z", "τ mlm needs --masked-lm CHECKPOINT"),
        ("finetune --data x --model nowhere", "no config.json in nowhere"),
        ("finetune --data x --model y --seeds [0,-1]", "seeds must lie between 0 and 4294967295"),
        ("data cache-teacher x y --teacher z --batch-size 0", "batch_size must lie between 1"),
        ("agora --data x --model y --socrates z --warmup-ratios [5]", "warmup_ratios must lie"),
        ("extract --data x --out y --steps 0", "steps must be at least 1"),
        ("convert nowhere out", "no config.json in nowhere"),
        ("predict --columns text", "--columns: expected a list such as [text], got text"),
        ("quickstart --agora.steps few", "--agora.steps: expected a whole number, got few"),
    ],
)
def test_bad_input_is_one_clear_line(capsys, argv, message):
    assert message in refused(capsys, *argv.split())


def test_missing_text_is_one_clear_line(capsys, tmp_path):
    line = refused(
        capsys, "pretrain", "--data", str(tmp_path / "none"), "--out", str(tmp_path / "out")
    )
    assert f"no text at {tmp_path}/none" in line


def test_unknown_keys_of_a_preset_are_refused(capsys, tmp_path):
    preset = tmp_path / "preset.yaml"
    preset.write_text("vocab_sise: 3\n")
    line = refused(capsys, "cost", "bort", "--config", str(preset))
    assert "vocab_sise" in line and "did you mean 'vocab_size'" in line


@pytest.mark.parametrize("preset", sorted(CONFIGS.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_preset_is_valid_and_says_what_to_expect(preset):
    verb = preset.stem.split("_")[0]
    module = import_module(f"bort_jax.commands.{verb}")
    given = ["--data", "x", "--out", "y"] if verb != "quickstart" else []
    config = cli.parse(verb, module, ["--config", str(preset), *given])
    assert dataclasses.is_dataclass(config)
    first = preset.read_text().splitlines()[0]
    assert re.match(r"# .*(GPU|CPU|TPU)", first), "hardware, time and expectation in one comment"


def attributes_read() -> set[str]:
    """All names that stand after a dot in the package, and are not assigned there."""
    trees = [ast.parse(file.read_text()) for file in Path(cli.__file__).parent.rglob("*.py")]
    nodes = (node for tree in trees for node in ast.walk(tree))
    return {n.attr for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Load)}


def test_every_option_is_read_somewhere():
    """No dead settings: code reads each field, or a table that is walked through names it."""
    known = attributes_read() | set(LIMITS)
    for verb in cli.VERBS:
        for field in dataclasses.fields(import_module(f"bort_jax.commands.{verb}").Config):
            assert field.name in known, f"{verb}: nothing reads --{field.name}"


def test_later_options_override_a_preset():
    module = import_module("bort_jax.commands.quickstart")
    preset = str(CONFIGS / "quickstart_smoke.yaml")
    config = cli.parse("quickstart", module, ["--config", preset, "--tune.steps", "7"])
    assert config.tune.steps == 7 and config.distil.steps == 40 and config.seq_len == 32


def test_pretraining_leaves_a_model_metrics_and_a_page(tiny_run):
    assert load(tiny_run / "model").config.arch.hidden == 16
    assert (tiny_run / "metrics.jsonl").read_text().count("\n") == 6
    assert "<svg" in (tiny_run / "report.html").read_text()
    assert list((tiny_run / "tensorboard").iterdir())


def test_another_configuration_is_refused_and_the_same_is_done_already(tiny_run, corpus, capsys):
    before = (tiny_run / "model" / "model.safetensors").stat().st_mtime_ns
    argv = ["pretrain", *options_of(pretrain_config(corpus, tiny_run, **TINY_RUN))]
    code, out, _ = run(capsys, *argv)
    assert code == 0 and "held-out loss" in out
    assert (tiny_run / "model" / "model.safetensors").stat().st_mtime_ns == before
    assert "clip: 1.0 there, 5.0 asked for" in refused(capsys, *argv, "--clip", "5")


def test_a_run_folder_converts_to_its_own_model(tiny_run, tmp_path, capsys):
    code, out, _ = run(capsys, "convert", str(tiny_run), str(tmp_path / "out"))
    assert code == 0 and "equal ours to" in out
    assert trees_equal(load(tmp_path / "out").params, load(tiny_run / "model").params)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """A task that a look at the first word decides."""
    folder = tmp_path_factory.mktemp("task")
    for split, count in (("train", 24), ("validation", 24), ("test", 8)):
        rows = [
            {"text": f"{('good', 'storm')[n % 2]} {split} film {n}", "label": n % 2}
            for n in range(count)
        ]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def test_a_label_outside_the_declared_set_is_one_clear_line(tiny_run, labelled, tmp_path, capsys):
    line = refused(
        capsys,
        *f"""finetune --model {tiny_run}/model --data {labelled} --out {tmp_path} --seq-len 24
        --labels [good]""".split(),
    )
    assert "train.jsonl, line 2: label 1 is not one of good" in line


def test_rows_longer_than_the_model_reads_are_refused(tiny_run, labelled, tmp_path, capsys):
    argv = f"finetune --model {tiny_run}/model --data {labelled} --out {tmp_path} --seq-len 25"
    assert "25 is longer than the model's 24 positions" in refused(capsys, *argv.split())


def test_extract_writes_its_table_front_and_page(corpus, tmp_path, capsys):
    code, out, err = run(
        capsys,
        *f"""extract --data {corpus.train.folder.parent} --out {tmp_path} --depth [1]
        --heads [1] --hidden [8,16] --intermediate [8] --steps 3 --batch-size 4 --seq-len 24
        --eval-rows 8 --epsilon 0.5""".split(),
    )
    assert code == 0, err
    import pyarrow.parquet as pq

    table = pq.read_table(tmp_path / "extraction.parquet").to_pylist()
    answer = json.loads((tmp_path / "extraction.json").read_text())
    best = next(row for row in table if row["arch"] == answer["best"])
    assert len(table) == 2 == answer["certificate"]["members"]
    assert best["w"] == max(row["w"] for row in table if row["w"] == row["w"])
    assert answer["maximum_point"] == "D1-A1-H16-I8"
    assert (tmp_path / "front.png").stat().st_size > 5000
    assert "<svg" in (tmp_path / "report.html").read_text()
    assert "break-even" in out and "W is at least" in out
    assert any("weak AB^nC property: holds" in line for line in answer["abnc"])


@pytest.fixture(scope="module")
def extracted(corpus, tmp_path_factory):
    """A finished exhaustive extraction, with latency."""
    out = tmp_path_factory.mktemp("extracted")
    cli.main(
        f"""extract --data {corpus.train.folder.parent} --out {out} --depth [1,2] --heads [1]
        --hidden [8,16] --intermediate [8] --steps 3 --batch-size 4 --seq-len 24 --eval-rows 8
        --search exhaustive --errors elastic --measure excess --latency
        --latency-points 3""".split()
    )
    return out


def test_a_finished_run_answers_under_another_budget(extracted, tmp_path, capsys):
    import pyarrow.parquet as pq

    rows = pq.read_table(extracted / "extraction.parquet").to_pylist()
    least = min(row["cost.params"] for row in rows)
    argv = f"extract --from {extracted} --max-params {least} --max-latency-ms 1e6 --out {tmp_path}"
    code, out, err = run(capsys, *argv.split())
    assert code == 0, err
    answer = json.loads((tmp_path / "extraction.json").read_text())
    assert answer["params"] == least and "latency_ms ≤ 1,000,000" in out.replace(
        "1e+06", "1,000,000"
    )
    assert answer["certificate"]["bound"] == answer["w"]


def test_a_budget_that_nothing_meets_names_the_nearest(extracted, capsys):
    line = refused(capsys, "extract", "--from", str(extracted), "--max-params", "100")
    assert "the nearest is D1-A1-H8-I8" in line and "binding: params ≤ 100 (missed by" in line


def test_a_ceiling_on_latency_says_how_to_time_it(extracted, tmp_path, capsys):
    import pyarrow.parquet as pq

    shutil.copytree(extracted, tmp_path / "untimed")
    file = tmp_path / "untimed" / "extraction.parquet"
    pq.write_table(pq.read_table(file).drop_columns("cost.latency_ms"), file)
    line = refused(capsys, "extract", "--from", str(file.parent), "--max-latency-ms", "5")
    assert "extract with --latency to limit them" in line


def test_a_finished_search_is_not_searched_again(extracted, capsys):
    files = {file: file.read_text() for file in extracted.glob("errors*.jsonl")}
    assert (
        len(files) == 1 and len(json.loads((extracted / "latency.json").read_text())["archs"]) == 3
    )
    out = " ".join(map(str, json.loads((extracted / "extraction.json").read_text())["latency"][0]))
    assert "D" in out
    assert list(files.values())[0].count("\n") == 4


@pytest.mark.parametrize("search", ["bounded", pytest.param("interval", marks=pytest.mark.slow)])
def test_fitted_errors_and_other_searches(search, corpus, tmp_path, capsys):
    code, out, err = run(
        capsys,
        *f"""extract --data {corpus.train.folder.parent} --out {tmp_path} --depth [1]
        --heads [1] --hidden [8,16] --intermediate [8,16] --steps 3 --batch-size 4 --seq-len 24
        --eval-rows 8 --search {search} --errors fitted --fit-points 3 --measure perplexity
        --inference operations""".split(),
    )
    assert code == 0, err
    assert "e fitted to 3 trained" in out and "i: operations" in out
    assert "the errors are predictions" in out
    code, again, err = run(capsys, "extract", "--from", str(tmp_path))
    assert code == 0 and "the errors are predictions" in again, err


def test_a_layerwise_search(corpus, tmp_path, capsys):
    code, out, err = run(
        capsys,
        *f"""extract --data {corpus.train.folder.parent} --out {tmp_path} --depth [2]
        --heads [1,2] --hidden [8,16] --intermediate [8,16] --head-size 8 --steps 4
        --batch-size 4 --seq-len 24 --eval-rows 8 --search layerwise --measure excess""".split(),
    )
    assert code == 0, err
    found = json.loads((tmp_path / "layerwise.json").read_text())
    assert found["gap"] < 1e-8 and found["bound"] >= found["w"] >= found["sweep_w"] * (1 - 1e-9)
    assert len(found["choice"]) == 2 and "proved optimal" in out
    assert "<svg" in (tmp_path / "report.html").read_text()


def test_pages_escape_what_they_show(tmp_path):
    text = "<script>alert(1)</script>"
    blocks = [page.paragraph(text), page.table((text,), [(text,)]), page.heading(text)]
    written = page.write_page(tmp_path / "page.html", text, blocks).read_text()
    assert "<script" not in written and written.count("&lt;script") == 6


def test_import_is_light_and_only_the_chosen_cache_is_written(tmp_path):
    """A fresh process: what it imported, and the home folder after a command that compiles."""
    heavy = ("torch", "transformers", "datasets", "pandas", "orbax", "matplotlib")
    code = f"""
import sys, bort_jax, bort_jax.cli
print([name for name in {heavy} if name in sys.modules])
bort_jax.cli.main("cost bort --json".split())
import jax
jax.jit(lambda x: x + 17)(1)
"""
    home = os.environ | {"HOME": str(tmp_path / "home")}
    chosen = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    environment = {name: word for name, word in home.items() if not name.startswith("JAX_")}
    command = [sys.executable, "-c", code]
    found = subprocess.run(
        command, env=environment | chosen, capture_output=True, text=True, check=True
    )
    assert found.stdout.startswith("[]")
    assert not (tmp_path / "home").exists() and list((tmp_path / "cache").rglob("*xla*"))


def test_every_public_name_is_there():
    import bort_jax

    assert len(bort_jax.__all__) == len(set(bort_jax.__all__))
    assert all(getattr(bort_jax, name) is not None for name in bort_jax.__all__)
    assert callable(bort_jax.cost_function) and bort_jax.cost.__name__ == "bort_jax.cost"
    with pytest.raises(AttributeError, match="no attribute 'bert'"):
        _ = bort_jax.bert


@pytest.mark.parametrize(
    "words, spelled",
    [
        ("", ""),
        ("--json", "--json true"),
        ("--json --seq-len 9", "--json true --seq_len 9"),
        ("--json bort", "--json true bort"),
        ("--json false", "--json false"),
        ("--json True", "--json True"),
        ("--agora.allow-weak-socrates", "--agora.allow_weak_socrates true"),
    ],
)
def test_spell_out_a_bare_switch_and_no_other(words, spelled):
    switches = {"--json", "--agora.allow_weak_socrates"}
    assert cli.spell_out(words.split(), switches) == spelled.split()


@pytest.mark.parametrize("word, value", [("", True), ("True", True), ("FALSE", False)])
def test_parse_takes_switches_in_any_spelling(word, value):
    module = import_module("bort_jax.commands.quickstart")
    nested = cli.parse("quickstart", module, ["--agora.allow-weak-socrates", *word.split()])
    assert nested.agora.allow_weak_socrates == value
    module = import_module("bort_jax.commands.extract")
    assert cli.parse("extract", module, ["--latency", *word.split()]).latency == value


class Broken:
    """A verb whose run has a fault of ours."""

    @dataclasses.dataclass
    class Config:
        out: str = ""

    @staticmethod
    def run(config):
        raise KeyError("no such\nkey")


@pytest.fixture
def broken(monkeypatch):
    monkeypatch.setattr(cli, "import_module", lambda name: Broken)
    monkeypatch.delenv("BORT_JAX_TRACEBACK", raising=False)


def test_an_unexpected_error_is_one_line_and_a_trace_in_the_run_folder(capsys, broken, tmp_path):
    line = refused(capsys, "cost", "--out", str(tmp_path))
    assert "unexpected KeyError: 'no such" in line and line.endswith(f"in {tmp_path}/error.txt")
    assert "in run\n    raise KeyError" in (tmp_path / "error.txt").read_text()


def test_an_unexpected_error_without_a_run_folder_is_traced_in_a_temporary_file(
    capsys, broken, tmp_path
):
    file = Path(refused(capsys, "cost", "--out", str(tmp_path / "none")).rpartition(" in ")[2])
    assert "KeyError" in file.read_text() and not list(tmp_path.iterdir())
    shutil.rmtree(file.parent)


def test_an_unexpected_error_is_raised_where_the_trace_is_asked_for(broken, monkeypatch):
    monkeypatch.setenv("BORT_JAX_TRACEBACK", "1")
    with pytest.raises(KeyError):
        cli.main(["cost"])


@pytest.fixture
def compilation_cache(monkeypatch):
    """What `keep_compilations` has made of jax's setting, begun with none."""
    before = {name: jax.config.values[name] for name in CACHE_SETTINGS}
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    yield lambda: cli.keep_compilations() or jax.config.values["jax_compilation_cache_dir"]
    for name, value in before.items():
        jax.config.update(name, value)


def test_keep_compilations_lies_where_xdg_says(compilation_cache, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert compilation_cache() == str(tmp_path / "bort_jax" / "xla")


@pytest.mark.parametrize("unset", ["", "relative"])
def test_keep_compilations_takes_no_empty_or_relative_folder(compilation_cache, monkeypatch, unset):
    monkeypatch.setenv("XDG_CACHE_HOME", unset)
    assert compilation_cache() == str(Path.home() / ".cache" / "bort_jax" / "xla")


@pytest.mark.parametrize("chosen", ["", "/of/the/user"])
def test_keep_compilations_leaves_what_the_user_chose(compilation_cache, monkeypatch, chosen):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", chosen)
    assert compilation_cache() is None  # as jax was told before


def test_a_verb_without_options_uses_its_defaults():
    module = import_module("bort_jax.commands.quickstart")
    assert cli.parse("quickstart", module, []) == module.Config()

# SPDX-License-Identifier: Apache-2.0
"""Models by their names on the hub, from a stand-in on loopback: only what is needed is fetched,
the commit is recorded, and every refusal says which it is."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace

import pytest
from command_line import one_device, refused, run
from helpers import options_of, pretrain_config, trees_equal
from hub_stand_in import Hub, hub, serve  # noqa: F401  a fixture

from bort_jax import load
from bort_jax.data.tokenizer_files import require_tokenizer
from bort_jax.interop import read, save
from bort_jax.stages.compress.fetch import parent_folder
from bort_jax.storage.hub import hub_name, pin_revisions

NAME = "org/tiny"


@pytest.fixture(scope="session")
def folder(small, tmp_path_factory):
    """A masked LM as stock classes have it, beside files that nobody asked for."""
    folder = save(small, tmp_path_factory.mktemp("hub") / "tiny")
    for name in ("pytorch_model.bin", "modeling_tiny.py", "onnx.safetensors"):
        (folder / name).write_text("never fetched")
    return folder


@pytest.fixture
def tiny_hub(hub, folder):  # noqa: F811
    hub.commit_folder(NAME, folder)
    return hub


def without(folder, *names, **changed):
    files = {file.name: file.read_bytes() for file in folder.iterdir() if file.name not in names}
    return files | changed


def test_read_fetches_config_weights_and_tokenizer_alone(tiny_hub, small):
    assert trees_equal(read(NAME).params, small.params)
    wanted = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert set(tiny_hub.downloads()) == wanted
    tiny_hub.asked.clear()
    assert require_tokenizer(NAME).sha256 == small.tokenizer.sha256
    assert not tiny_hub.downloads()


def test_parent_folder_is_the_hub_s_at_a_commit(tiny_hub):
    assert parent_folder(NAME).name == tiny_hub.refs[NAME]["main"]


def test_load_takes_the_revision_that_is_asked_for(tiny_hub, folder, small):
    config = json.loads((folder / "config.json").read_text())
    older = json.dumps(config | {"bort_jax": {"facts": {"data": "older"}}}).encode()
    sha = tiny_hub.commit(NAME, without(folder, **{"config.json": older}), ref="v1")
    assert load(NAME).facts == small.facts
    for older in (load(NAME, revision="v1"), load(f"{NAME}@v1"), load(NAME, revision=sha)):
        assert older.facts == {"data": "older"}


def test_load_needs_no_hub_once_it_has_a_model(tiny_hub, monkeypatch):
    from huggingface_hub import constants

    first = read(NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    tiny_hub.asked.clear()
    assert trees_equal(read(NAME).params, first.params) and not tiny_hub.asked
    with pytest.raises(FileNotFoundError, match="HF_HUB_OFFLINE is set"):
        read("org/another")


def test_hub_name_gives_way_to_a_folder_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert hub_name("org/tiny@v1") == ("org/tiny", "v1", "model")
    (tmp_path / NAME).mkdir(parents=True)
    assert hub_name(NAME) is None
    with pytest.raises(ValueError, match="no revision v1"):
        hub_name(NAME, revision="v1")
    for path in ("./org/tiny", "/org/tiny", "a/b/c", "org", "org/", "../tiny"):
        assert hub_name(path) is None


def test_read_says_what_is_not_there(tiny_hub, folder):
    tiny_hub.commit("org/closed", without(folder))
    tiny_hub.gated.add("org/closed")
    config = json.loads((folder / "config.json").read_text())
    gpt = json.dumps(config | {"model_type": "gpt2"}).encode()
    tiny_hub.commit("org/gpt", without(folder, **{"config.json": gpt}))
    tiny_hub.commit("org/pickle", without(folder, "model.safetensors"))
    tiny_hub.commit("org/words", {"README.md": b"words"})
    damaged = without(folder, **{"model.safetensors": b"not tensors"})
    tiny_hub.commit("org/damaged", damaged)
    for name, error, said in (
        ("org/none", FileNotFoundError, "no folder org/none, and no model of that name"),
        (f"{NAME}@v9", FileNotFoundError, f"{NAME} has no revision v9"),
        ("org/closed", FileNotFoundError, "org/closed is gated: accept its terms at http"),
        ("org/gpt", ValueError, "org/gpt@.{40}: expected model_type bert"),
        ("org/pickle", FileNotFoundError, "org/pickle@.{40} has no model.safetensors"),
        ("org/words", FileNotFoundError, "org/words@.{40} has no config.json"),
        ("org/damaged", ValueError, "is damaged"),
    ):
        with pytest.raises(error, match=said):
            read(name)
    assert "pytorch_model.bin" not in tiny_hub.downloads()


def test_read_says_that_the_hub_is_out_of_reach(tiny_hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(FileNotFoundError, match="no folder org/tiny, and the hub .* does not give"):
        read(NAME)


def test_read_goes_on_with_a_download_that_broke(tiny_hub, small):
    tiny_hub.broken = 1
    assert trees_equal(read(NAME).params, small.params)


@pytest.mark.slow
def test_read_gives_up_a_download_that_breaks_always_and_goes_on_later(tiny_hub, small):
    tiny_hub.broken = 1 << 20
    with pytest.raises(FileNotFoundError, match="what was fetched is kept"):
        read(NAME)
    tiny_hub.broken = 0
    assert trees_equal(read(NAME).params, small.params)


@dataclass(frozen=True)
class Options:
    model: str
    teacher: str | None = None
    out: str = ""


def test_pin_revisions_keeps_the_commits_of_the_run(tiny_hub, folder, tmp_path):
    sha = tiny_hub.refs[NAME]["main"]
    options = Options(NAME, teacher=str(folder), out=str(tmp_path))
    pinned = pin_revisions(options)
    assert pinned == replace(options, model=f"{NAME}@{sha}")
    (tmp_path / "run.json").write_text(json.dumps({"config": {"model": pinned.model}}))
    later = tiny_hub.commit(NAME, without(folder, "tokenizer_config.json"))
    assert pin_revisions(options) == pinned
    elsewhere = replace(options, out=str(tmp_path / "new"))
    assert pin_revisions(elsewhere).model == f"{NAME}@{later}"
    asked = replace(options, model=f"{NAME}@main")
    assert pin_revisions(asked).model == f"{NAME}@{later}"


def test_a_verb_says_in_one_line_what_the_hub_has_not(tiny_hub, text_file, tmp_path, capsys):
    words = ["--model", "org/none", "--data", text_file, "--out", tmp_path / "out"]
    assert "no model of that name on the hub" in refused(capsys, "evaluate", *words)
    assert not (tmp_path / "out").exists()


def test_push_uploads_model_card_and_report_as_one_commit(hub, small, tmp_path, capsys):  # noqa: F811
    save(small, tmp_path / "run" / "model")
    (tmp_path / "run" / "model" / "optimizer.bin").write_text("stays here")
    (tmp_path / "run" / "report.html").write_text("<p>seen</p>")
    words = ["push", tmp_path / "run", "me/mine"]
    code, out, _ = run(capsys, *words, "--dry-run")
    assert code == 0 and "model.safetensors: " in out and not hub.asked
    code, _, err = run(capsys, *words)
    assert code == 0, err
    wanted = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert set(hub.files("me/mine")) == wanted | {"README.md", "report.html"}
    card = hub.files("me/mine")["README.md"].decode()
    assert 'from_pretrained("me/mine")' in card and "pipeline_tag: fill-mask" in card
    assert len(hub.commits) == 1 and trees_equal(load("me/mine").params, small.params)


def test_push_refuses_before_anything_is_uploaded(hub, small, tmp_path, capsys):  # noqa: F811
    save(small, tmp_path / "model")
    assert "is ORG/NAME; got 'mine'" in refused(capsys, "push", tmp_path, "mine")
    assert "no config.json in" in refused(capsys, "push", tmp_path / "none", "me/mine")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"cut")
    assert "is damaged" in refused(capsys, "push", tmp_path, "me/mine")
    assert not hub.asked


@pytest.mark.slow
def test_the_record_of_a_run_names_the_commit_that_it_resumes_with(
    tiny_hub, folder, corpus, tmp_path, capsys
):
    sha = tiny_hub.refs[NAME]["main"]
    config = pretrain_config(corpus, tmp_path / "run", teacher=NAME, steps=1, arch="D1-A2-H16-I24")
    words = ["pretrain", *options_of(config)]
    assert run(capsys, *words)[0] == 0
    tiny_hub.commit(NAME, without(folder, "tokenizer_config.json"))
    record = json.loads((tmp_path / "run" / "run.json").read_text())["config"]
    assert record["teacher"] == f"{NAME}@{sha}"
    assert run(capsys, *words)[0] == 0


ROWS = """
import sys
from bort_jax.data.corpus import open_source, read_rows
from bort_jax.tasks import TaskOptions
source = open_source(sys.argv[1])
print(source.name)
print([row["text"] for _, row in read_rows(source.name)])
options = TaskOptions(data=source.name)
print(len(options.read("test").texts), options.has("validation"))
"""


@pytest.mark.slow
def test_data_sets_of_the_hub_are_read_at_a_commit(tmp_path):
    """Rows of a corpus, and a labelled split by its name."""
    row = lambda k, text: json.dumps({"text": text, "label": k % 2}) + "\n"
    rows = lambda texts: "".join(row(k, text) for k, text in enumerate(texts)).encode()
    with serve(Hub()) as started:
        files = {
            "train.jsonl": rows("ab"),
            "test.jsonl": rows("xyz"),
            "load.py": b"raise SystemExit",
        }
        sha = started.commit("datasets/org/rows", files)
        places = {"HF_ENDPOINT": started.endpoint, "HF_HOME": str(tmp_path)}
        online = one_device() | {"HF_HUB_OFFLINE": "0"} | places
        call = [sys.executable, "-c", ROWS, "hub:org/rows"]
        done = subprocess.run(call, env=online, capture_output=True, text=True)
    place = f"hub:org/rows@{sha}"
    said = [place, "['a', 'b']", f"labels, from {place}: 0, 1", "3 False"]
    assert done.stdout.splitlines() == said, done.stderr
    assert "load.py" not in started.downloads()


@pytest.mark.slow
def test_the_environment_names_hub_and_cache(folder, tmp_path):
    """In a process of its own, as a user sets them."""
    code = "import sys; from bort_jax import load; print(load(sys.argv[1]).config.arch)"
    with serve(Hub()) as started:
        started.commit_folder(NAME, folder)
        places = {"HF_ENDPOINT": started.endpoint, "HF_HOME": str(tmp_path)}
        online = one_device() | {"HF_HUB_OFFLINE": "0"} | places
        call = [sys.executable, "-c", code, NAME]
        done = subprocess.run(call, env=online, capture_output=True, text=True)
        assert done.stdout.strip() == "D1-A2-H16-I24", done.stderr
    offline = os.environ | places | {"HF_HUB_OFFLINE": "1"}
    again = subprocess.run(call, env=offline, capture_output=True, text=True)
    assert again.stdout == done.stdout, again.stderr

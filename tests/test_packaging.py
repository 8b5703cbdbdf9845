# SPDX-License-Identifier: Apache-2.0
"""The wheel holds every package, and the presets of the folder beside them."""

import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parent.parent
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
PRESET = """
from bort_jax import cli
for verb, name in (("quickstart", "smoke"), ("extract", "published")):
    print(cli.with_presets(verb, ["--preset", name])[1])
"""


@pytest.mark.slow
def test_a_wheel_carries_the_presets_and_finds_them_elsewhere(tmp_path):
    setuptools = pytest.importorskip("setuptools")
    if int(setuptools.__version__.partition(".")[0]) < 77:
        pytest.skip("building needs setuptools 77")
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("bort_jax", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    built = subprocess.run(
        [sys.executable, "-c", BUILD, str(tmp_path)], cwd=source, capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    files = lambda folder, kind: {file.relative_to(folder) for file in folder.rglob(kind)}
    installed = tmp_path / "installed" / "bort_jax"
    assert files(installed, "*.py") == files(ROOT / "bort_jax", "*.py")
    assert files(installed / "configs", "*") == files(ROOT / "configs", "*.yaml")
    run = "import sys; sys.path.insert(0, sys.argv[1])" + PRESET
    found = subprocess.run(
        [sys.executable, "-c", run, str(tmp_path / "installed")],
        cwd=tmp_path,
        env={"PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
    )
    places = [Path(line) for line in found.stdout.split()]
    assert len(places) == 2, found.stderr
    assert all(place.is_relative_to(tmp_path / "installed") for place in places)

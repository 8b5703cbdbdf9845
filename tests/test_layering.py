# SPDX-License-Identifier: Apache-2.0
"""Imports point one way."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "bort_jax"
# A module may import from its own level's package and from the packages named here.
ALLOWED = {
    "arch": set(),
    "cost": {"arch"},
    "ose": {"arch", "cost"},
    "data": set(),
    "model": {"arch"},
    "interop": {"arch", "model", "data"},
    "train": {"arch", "cost", "model", "data", "interop"},
    "agora": set(),
    "report": {"arch", "ose"},
    "commands": {"arch", "cost", "ose", "model", "data", "interop", "train", "agora", "report"},
    "cli": {"huge_pages", "train"},
    "huge_pages": set(),
    "__init__": {"arch", "cost", "ose", "model", "interop", "train", "agora"},
}
DEVICE_FREE = ("agora", "data")
FILES = sorted(PACKAGE.rglob("*.py"))


def part_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_no_upward_edge(file):
    mine = part_of(file)
    ours = {name.split(".")[1] for name in imported(file) if name.startswith("bort_jax.")}
    assert ours <= ALLOWED[mine] | {mine}


@pytest.mark.parametrize("part", DEVICE_FREE)
def test_searches_and_data_know_no_devices(part):
    for file in (PACKAGE / part).rglob("*.py"):
        assert not {name for name in imported(file) if name.split(".")[0] in ("jax", "flax")}, file


def test_the_search_knows_jit_but_no_models_and_no_training():
    for file in (PACKAGE / "ose").rglob("*.py"):
        outside = {name.split(".")[0] for name in imported(file)}
        assert not outside & {"flax", "optax", "orbax", "transformers"}, file


def test_linen_stays_in_the_model():
    for file in FILES:
        linen = {name for name in imported(file) if name.startswith("flax.linen")}
        assert not linen or part_of(file) == "model", file


def test_pmap_is_said_in_one_file():
    said = {str(file.relative_to(PACKAGE)) for file in FILES if "jax.pmap" in file.read_text()}
    assert said == {"train/parallel.py"}


def test_nothing_heavy_is_imported_before_it_is_needed():
    late = ("datasets", "transformers", "torch", "tensorboardX", "pandas", "tokenizers")
    for file in FILES:
        for node in ast.parse(file.read_text()).body:  # top level only
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [getattr(node, "module", None) or node.names[0].name]
                assert not any(name.split(".")[0] in late for name in names), file

# SPDX-License-Identifier: Apache-2.0
"""Imports point to lower levels only, without circles; the folder tree is the pipeline."""

import ast
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

from bort_jax import cli

PACKAGE = Path(__file__).parent.parent / "bort_jax"
# Every folder and every lone file has a level; imports point to lower ones, or stay in the folder.
LEVELS = {
    "arch": 1,
    "huge_pages": 1,
    "presets": 1,
    "suggest": 1,
    "storage": 0,
    "report": 1,
    "agora": 1,
    "cost": 2,
    "model": 2,
    "data": 2,
    "tasks": 3,
    "ose": 3,
    "interop": 3,
    "engine": 4,
    "stages/predict": 5,
    "stages/bench": 6,
    "stages/extract": 6,
    "stages/pretrain": 6,
    "stages/finetune": 6,
    "stages/agora": 7,
    "stages/compress": 8,
    "commands": 9,
    "cli": 10,
    "__init__": 10,
}
ALONE = ("report", "agora", "storage")  # import nothing of ours, but for files
DEVICE_FREE = ("agora", "data", "tasks", "storage", "report")
MOST_FILES = 15
MOST_PARAMETERS = 7
FILES = sorted(PACKAGE.rglob("*.py"))


def module_of(file: Path) -> str:
    return ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts)


MODULES = {module_of(file).removesuffix(".__init__") for file in FILES}


def part_of(module: str) -> str:
    """`stages/extract` of `bort_jax.stages.extract.run`, `cost` of `bort_jax.cost.bert`."""
    words = module.split(".")[1:]
    if words[:1] == ["stages"]:
        return "/".join(words[:2])
    return words[0] if words else "__init__"


def imported(file: Path) -> set[str]:
    """Whatever the file imports anywhere; of ours, the modules."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in MODULES else str(node.module) for name in full}
    return names


def ours(file: Path) -> set[str]:
    return {name for name in imported(file) if name.split(".")[0] == "bort_jax"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_no_upward_edge(file):
    mine = part_of(module_of(file))
    if mine == "stages" or mine == "stages/__init__":
        assert not ours(file)
        return
    for name in ours(file):
        assert name in MODULES, f"{file} imports {name}, which is no module"
        other = part_of(name)
        assert other == mine or LEVELS[other] < LEVELS[mine], f"{file} imports {name}"


def test_no_circles():
    graph = {module_of(file).removesuffix(".__init__"): ours(file) for file in FILES}
    assert list(
        TopologicalSorter({name: sorted(to - {name}) for name, to in graph.items()}).static_order()
    )


@pytest.mark.parametrize("part", ALONE)
def test_foundations_import_nothing_of_ours(part):
    for file in (PACKAGE / part).rglob("*.py"):
        assert {part_of(name) for name in ours(file)} <= {part, "storage"}, file


def test_no_verb_imports_a_verb():
    for file in (PACKAGE / "commands").glob("*.py"):
        assert not {name for name in ours(file) if part_of(name) == "commands"}, file


def test_no_folder_has_more_files_than_a_reader_can_hold():
    for folder in {file.parent for file in FILES}:
        assert len(list(folder.glob("*.py"))) <= MOST_FILES + 1, folder  # and `__init__`


@pytest.mark.parametrize("part", DEVICE_FREE)
def test_what_knows_no_devices_imports_no_jax(part):
    for file in (PACKAGE / part).rglob("*.py"):
        assert not {name for name in imported(file) if name.split(".")[0] in ("jax", "flax")}, file


def test_the_search_knows_jit_but_no_models_and_no_training():
    for file in (PACKAGE / "ose").rglob("*.py"):
        outside = {name.split(".")[0] for name in imported(file)}
        assert not outside & {"flax", "optax", "orbax", "transformers"}, file


def test_linen_stays_in_the_model():
    for file in FILES:
        linen = {name for name in imported(file) if name.startswith("flax.linen")}
        assert not linen or part_of(module_of(file)) == "model", file


def test_pmap_is_said_in_one_file():
    said = {str(file.relative_to(PACKAGE)) for file in FILES if "jax.pmap" in file.read_text()}
    assert said == {"engine/parallel.py"}


def test_nothing_heavy_is_imported_before_it_is_needed():
    late = (
        "datasets",
        "transformers",
        "torch",
        "tensorboardX",
        "pandas",
        "tokenizers",
        "onnx",
        "onnxruntime",
    )
    for file in FILES:
        for node in ast.parse(file.read_text()).body:  # top level only
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [getattr(node, "module", None) or node.names[0].name]
                assert not any(name.split(".")[0] in late for name in names), file


FUNCTIONS = [
    (file, node)
    for file in FILES
    for node in ast.walk(ast.parse(file.read_text()))
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
]


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.arg]:
    args = function.args
    named = [*args.posonlyargs, *args.args, *args.kwonlyargs]
    return [one for one in named if one.arg not in ("self", "cls")]


def test_no_function_takes_more_than_seven_parameters():
    for file, function in FUNCTIONS:
        assert len(parameters(function)) <= MOST_PARAMETERS, f"{file}: {function.name}"


def config_classes() -> set[str]:
    """The verbs' configurations and those they extend, by name."""
    configs = [import_module(f"bort_jax.commands.{verb}").Config for verb in cli.VERBS]
    names = {base.__name__ for config in configs for base in config.__mro__}
    return {name for name in names if name.endswith("Config")}


def test_options_are_unwrapped_at_the_door():
    """Verbs, and a stage's `config` and `run`, take options; what is below takes typed objects."""
    configs = config_classes()
    for file, function in FUNCTIONS:
        if file.parent.name == "commands" or file.name in ("config.py", "run.py"):
            continue
        for one in parameters(function):
            said = ast.unparse(one.annotation).split(".")[-1] if one.annotation else ""
            wrong = said in configs or (one.arg == "config" and not said)
            assert not wrong, f"{file}: {function.name} takes {one.arg}: {said}"

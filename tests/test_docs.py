# SPDX-License-Identifier: Apache-2.0
"""The docs keep to the code: links lead somewhere, and commands have the options that are told."""

import re
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import pytest
from list_options import FILE, page

from bort_jax.cli import TRAIN, VERBS

ROOT = Path(__file__).parent.parent
DOCS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
TOOLS = [*(ROOT / "tools").glob("*.py"), ROOT / "CONTRIBUTING.md"]
TOLD = [file for file in DOCS if "notes" not in file.parts]  # notes speak of what was
LINK = re.compile(r"\]\(([^)#:]+)(?:#[\w-]+)?\)")
COMMAND = re.compile(r"bort-jax ([a-z]+)((?:\\\n|[^\n`])*)")
OPTION = re.compile(r"(?<![\w-])--([a-z][\w-]*)")
EVERYWHERE = {"config", "help", "preset"}


@pytest.mark.parametrize("file", DOCS, ids=lambda file: str(file.relative_to(ROOT)))
def test_links_lead_to_files(file):
    for target in LINK.findall(file.read_text()):
        assert (file.parent / target).exists(), f"{file} links to {target}"


@pytest.mark.parametrize("file", TOLD, ids=lambda file: str(file.relative_to(ROOT)))
def test_commands_have_the_options_that_are_told(file):
    for verb, words in COMMAND.findall(file.read_text()):
        assert verb in VERBS, f"{file}: bort-jax {verb}"
        for option in OPTION.findall(words):
            assert option in options_of(verb) | EVERYWHERE, f"{file}: {verb} --{option}"


@pytest.mark.parametrize("file", TOLD, ids=lambda file: str(file.relative_to(ROOT)))
def test_options_that_are_named_are_some_verb_s(file):
    known = set().union(*map(options_of, VERBS)) | EVERYWHERE
    tools = set().union(*(OPTION.findall(file.read_text()) for file in TOOLS))
    for line in re.findall(r"`(--[^`]+)`", file.read_text()):
        for option in OPTION.findall(line):
            assert option in known | tools, f"{file}: --{option}"


def test_the_list_of_options_is_the_code_s():
    assert FILE.read_text() == page(), "run python tools/list_options.py"


def test_the_readme_fits_on_a_few_screens():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def options_of(verb: str) -> set[str]:
    names = {field.name for field in fields(import_module(f"bort_jax.commands.{verb}").Config)}
    names |= {"huge_pages"} if verb in TRAIN else set()
    return {{"from_run": "from"}.get(name, name).replace("_", "-") for name in names}

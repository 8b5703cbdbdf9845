# SPDX-License-Identifier: Apache-2.0
"""Writes docs/reference/options.md: every option of every verb, from the code itself.

`python tools/list_options.py` rewrites the file; `tests/test_docs.py` holds it to the code.
"""

from collections.abc import Container
from dataclasses import MISSING, Field, fields
from importlib import import_module
from pathlib import Path

from docstring_parser import parse

from bort_jax.cli import HUGE_PAGES, TRAIN, VERBS

FILE = Path(__file__).parent.parent / "docs" / "reference" / "options.md"
HEAD = """# Options

Every option of every verb. Lists are written `[a,b]`; a switch is `--json`, `--json true` or
`--json False`. All can stand in a YAML file (`--config F`), and `-` and `_` are one in names.
This page is written by `python tools/list_options.py`.
"""


def main() -> None:
    FILE.write_text(page())


def page() -> str:
    return "\n".join([HEAD, *map(section, VERBS)])


def section(verb: str) -> str:
    """A heading, the verb's one line, and a row an option."""
    module = import_module(f"bort_jax.commands.{verb}")
    told = descriptions(module.Config)
    given = getattr(module, "POSITIONAL", {})
    rows = [row(field, told.get(field.name, ""), given) for field in fields(module.Config)]
    rows += [f"| `--huge-pages` | `false` | {HUGE_PAGES}. |"] * (verb in TRAIN)
    title = VERBS[verb][0].upper() + VERBS[verb][1:]
    table = ["| option | default | meaning |", "|---|---|---|", *rows]
    return "\n".join([f"## {verb}", "", f"{title}.", "", *table, ""])


def descriptions(config: type) -> dict[str, str]:
    """The text of each field in the docstrings of a configuration and of what it extends."""
    found: dict[str, str] = {}
    for base in reversed(config.__mro__):
        found |= {one.arg_name: one.description or "" for one in parse(base.__doc__ or "").params}
    return found


def row(field: Field, text: str, given: Container[str]) -> str:
    default = "required" if field.default is field.default_factory is MISSING else shown(field)
    flat = " ".join(text.split()).replace("|", "\\|")
    name = {"from_run": "from"}.get(field.name, field.name).replace("_", "-")
    name = name.upper() if field.name in given else f"--{name}"
    return f"| `{name}` | {default} | {flat} |"


def shown(field: Field) -> str:
    if field.default is MISSING:
        return "a group of options"
    value = field.default
    if isinstance(value, tuple):
        return f"`[{','.join(map(str, value))}]`"
    return "none" if value in (None, "") else f"`{value}`"


if __name__ == "__main__":
    main()

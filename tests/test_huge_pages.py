# SPDX-License-Identifier: Apache-2.0
"""A program that trains starts itself again once, and only where that helps."""

import os
import subprocess
import sys

import pytest

from bort_jax import cli
from bort_jax.huge_pages import VARIABLE, asking_helps

PROGRAM = f"""
import os, sys
from bort_jax import huge_pages
huge_pages.asking_helps = lambda: sys.argv[1] == "helps"
print(os.getpid(), os.environ.get("{VARIABLE}", "-"))
huge_pages.restart_with_huge_pages()
print("end", *sys.argv[1:])
"""


def lines(*arguments: str, **wishes: str) -> list[str]:
    kept = {name: value for name, value in os.environ.items() if name != VARIABLE}
    command = [sys.executable, "-c", PROGRAM, *arguments]
    run = subprocess.run(command, env=kept | wishes, capture_output=True, text=True, check=True)
    return run.stdout.splitlines()


def test_it_starts_again_once_as_the_same_process_with_the_same_arguments():
    first, second, end = lines("helps", "--an option", "")
    process, before = first.split()
    assert before == "-" and second == f"{process} glibc.malloc.hugetlb=1"
    assert end == "end helps --an option "


def test_other_tunables_stay():
    *_, second, _ = lines("helps", GLIBC_TUNABLES="glibc.malloc.check=0")
    assert second.endswith(" glibc.malloc.check=0:glibc.malloc.hugetlb=1")


@pytest.mark.parametrize(
    "arguments, wish", [("helps", "glibc.malloc.hugetlb=0"), ("useless", "glibc.malloc.check=0")]
)
def test_it_does_not_where_the_user_chose_or_nothing_is_gained(arguments, wish):
    first, end = lines(arguments, GLIBC_TUNABLES=wish)
    assert first.endswith(" " + wish) and end == f"end {arguments}"


@pytest.mark.parametrize(
    "text, helps",
    [
        ("always [madvise] never\n", True),
        ("[always] madvise never\n", False),
        ("always madvise [never]\n", False),
    ],
)
def test_the_kernels_setting_is_read(tmp_path, text, helps):
    (tmp_path / "enabled").write_text(text)
    assert asking_helps(tmp_path / "enabled") == helps
    assert not asking_helps(tmp_path / "no such file")


@pytest.mark.parametrize("verb, asked", [("pretrain", True), ("cost", False)])
def test_only_commands_that_train_ask_and_only_as_programs(monkeypatch, verb, asked):
    calls = []
    monkeypatch.setattr(cli, "restart_with_huge_pages", lambda: calls.append(verb))
    monkeypatch.setattr("sys.argv", ["bort-jax", verb, "--help"])
    for argv in (None, [verb, "--help"]):
        with pytest.raises(SystemExit):
            cli.main(argv)
    assert calls == [verb] * asked

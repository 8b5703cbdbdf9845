# SPDX-License-Identifier: Apache-2.0
"""A program that trains starts itself again once, where it is asked to and that helps."""

import os
import subprocess
import sys

import pytest
from command_line import refused

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


@pytest.mark.parametrize("words, wanted", [(["--huge-pages"], True), ([], False)])
def test_main_starts_again_only_as_a_program_that_was_asked_to(
    monkeypatch, tmp_path, words, wanted
):
    calls = []
    argv = ["pretrain", "--data", str(tmp_path / "none"), "--out", str(tmp_path), *words]
    monkeypatch.setattr(cli, "restart_with_huge_pages", lambda: calls.append(1))
    monkeypatch.setattr("sys.argv", ["bort-jax", *argv])
    for given in (None, argv):
        with pytest.raises(SystemExit):
            cli.main(given)
    assert calls == [1] * wanted


def test_verbs_that_train_nothing_have_no_huge_pages(capsys):
    assert "huge_pages" in refused(capsys, "cost", "bort", "--huge-pages")

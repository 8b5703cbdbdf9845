# SPDX-License-Identifier: Apache-2.0
"""RACE: reading comprehension from exams, middle school (RACE-M) and high school (RACE-H)."""

import re

from bort_jax.tasks.encode import cuttable, uncut
from bort_jax.tasks.task import Form, Item, Key, Place, Row, Task, text_of, value_of

LETTERS = ("A", "B", "C", "D")
BLANK = re.compile(r"_+")


def choices(row: Row, task: Task) -> list[Item]:
    """The article with question and option, for each of the four options (our reading)."""
    article, question = cuttable(text_of(row, "article")), text_of(row, "question")
    options = value_of(row, "options")
    if len(options) != len(LETTERS) or not all(isinstance(o, str) and o.strip() for o in options):
        raise ValueError(f"column 'options' must hold {len(LETTERS)} texts, got {options!r}")
    texts = tuple((article, uncut(fill_blank(question, option))) for option in options)
    return [Item(texts, Key(text_of(row, "example_id"), source=row))]


def fill_blank(question: str, option: str) -> str:
    """The question with the option in its blank, or after it where there is not just one."""
    if len(BLANK.findall(question)) != 1:
        return f"{question} {option}"
    return BLANK.sub(lambda _: option, question)


def of_level(level: str):
    """Rows of a school: articles are named `middle1.txt` and `high1.txt`."""
    return lambda row: str(value_of(row, "example_id")).startswith(level)


def _task(name: str, level: str, rows: tuple[int, int, int]) -> Task:
    # The data of both may lie in the suite's own folder, as configuration `all` has it.
    place = Place((level, "."), keep=of_level(level), hub=("ehovy/race", level))
    return Task(
        ("article", "question", "options"),
        label="answer",
        labels=LETTERS,
        head="choice",
        items=choices,
        suite="race",
        key=level,
        name=name,
        rows=rows,
        place=place,
        form=Form(f"{name}.txt", "race", LETTERS),
    )


TASKS = (
    _task("RACE-M", "middle", (25421, 1436, 1436)),
    _task("RACE-H", "high", (62445, 3451, 3498)),
)

# SPDX-License-Identifier: Apache-2.0
"""Submission files, written and read: GLUE's TSVs and SuperGLUE's JSON lines in one zip, RACE as
the companion code wrote it (the article's own record, its `answers` replaced by letters)."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from bort_jax.tasks.scoring import Decisions
from bort_jax.tasks.task import Examples, Task

HEADER = "index\tprediction"
NEW_YEAR = (1980, 1, 1, 0, 0, 0)  # the same predictions make the same zip, byte for byte


class Malformed(ValueError):
    """A line that is not one of its file's."""


def submission_lines(predicted: Decisions, task: Task, *, examples: Examples) -> list[str]:
    """The lines of a task's file, in the order of its ids.

    Args:
      predicted: what `decide` gives for the examples of the test split.

    Raises:
      ValueError: the number of predictions is not that of the examples, or ids are missing.
    """
    if len(predicted) != len(examples.texts):
        raise ValueError(
            f"{task.name}: {len(predicted)} predictions for {len(examples.texts)} examples"
        )
    if any(key.id is None for key in examples.keys):
        raise ValueError(f"{task.name}: rows of the test split have no ids (column 'idx')")
    return WRITERS[task.form.layout](predicted, task, examples)


def write_zip(file: str | Path, lines: Mapping[str, list[str]]) -> Path:
    """Writes files of lines into one zip, by name.

    Args:
      lines: the lines of each file, by its name in the zip.
    """
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    with ZipFile(file, "w") as archive:
        for name, content in lines.items():
            member = ZipInfo(name, NEW_YEAR)
            member.compress_type = ZIP_DEFLATED
            archive.writestr(member, "".join(line + "\n" for line in content))
    return file


def _write_tsv(predicted: Decisions, task: Task, examples: Examples) -> list[str]:
    ordered = sorted(zip((key.id for key in examples.keys), predicted, strict=True))
    return [HEADER, *(f"{number}\t{_answer(value, task)}" for number, value in ordered)]


def _write_jsonl(predicted: Decisions, task: Task, examples: Examples) -> list[str]:
    ordered = sorted(zip((key.id for key in examples.keys), predicted, strict=True))
    return [json.dumps({"idx": number, "label": _answer(value, task)}) for number, value in ordered]


def _write_multirc(predicted: Decisions, task: Task, examples: Examples) -> list[str]:
    passages: dict[int, dict[int, list[dict]]] = {}
    for key, value in sorted(zip(examples.keys, predicted, strict=True), key=lambda p: p[0].id):
        paragraph, question, answer = key.id
        answers = passages.setdefault(paragraph, {}).setdefault(question, [])
        answers.append({"idx": answer, "label": _answer(value, task)})
    nested = lambda questions: [{"idx": q, "answers": a} for q, a in questions.items()]
    return [
        json.dumps({"idx": number, "passage": {"questions": nested(questions)}})
        for number, questions in passages.items()
    ]


def _write_record(predicted: Decisions, task: Task, examples: Examples) -> list[str]:
    chosen = [key for key, value in zip(examples.keys, predicted, strict=True) if value == 1]
    chosen = sorted(chosen, key=lambda key: key.id)
    return [json.dumps({"idx": key.id, "label": key.text}) for key in chosen]


def _write_race(predicted: Decisions, task: Task, examples: Examples) -> list[str]:
    articles: dict[str, dict] = {}
    for key, value in zip(examples.keys, predicted, strict=True):
        row = key.source or {}
        empty = {"answers": [], "options": [], "questions": [], "article": row["article"]}
        article = articles.setdefault(key.id, {**empty, "id": key.id})
        article["answers"].append(_answer(value, task))
        article["options"].append(list(row["options"]))
        article["questions"].append(row["question"])
    # The companion code reads the files of articles in the order of their names.
    return [json.dumps(articles[name]) for name in sorted(articles)]


WRITERS: dict[str, Callable[[Decisions, Task, Examples], list[str]]] = {
    "tsv": _write_tsv,
    "jsonl": _write_jsonl,
    "multirc": _write_multirc,
    "record": _write_record,
    "race": _write_race,
}


def _answer(value, task: Task) -> str | int:
    """A decision as the leaderboard reads it; scores keep to their scale."""
    if task.head == "regression":
        low, high = map(float, task.labels)
        return f"{min(max(float(value), low), high):.3f}"
    return task.form.answers[int(value)]


def _read_tsv(line: str) -> list[tuple]:
    fields = line.split("\t")
    if len(fields) != 2:
        raise Malformed(f"expected an index, a tab and a prediction, got {line[:80]!r}")
    if not (fields[0].isascii() and fields[0].isdigit() and len(fields[0]) < 10):
        raise Malformed(f"the index must be a whole number, got {fields[0][:80]!r}")
    return [(int(fields[0]), fields[1])]


def _read_jsonl(line: str) -> list[tuple]:
    record = _record(line, ("idx", "label"))
    return [(_whole_number(record["idx"]), record["label"])]


def _read_multirc(line: str) -> list[tuple]:
    record = _record(line, ("idx", "passage"))
    paragraph, pairs = _whole_number(record["idx"]), []
    for question in _list(_fields(record["passage"], ("questions",))["questions"]):
        number = _whole_number(_fields(question, ("idx", "answers"))["idx"])
        for answer in _list(question["answers"]):
            found = _fields(answer, ("idx", "label"))
            pairs.append(((paragraph, number, _whole_number(found["idx"])), found["label"]))
    return pairs


def _read_race(line: str) -> list[tuple]:
    record = _record(line, ("answers", "options", "questions", "article", "id"))
    answers, questions = _list(record["answers"]), _list(record["questions"])
    if len(answers) != len(questions):
        raise Malformed(f"{len(answers)} answers to {len(questions)} questions")
    if not isinstance(record["id"], str):
        raise Malformed(f"the id must be a text, got {record['id']!r}")
    return [((record["id"], k), answer) for k, answer in enumerate(answers)]


# Each reads a line as pairs of an id and an answer, and raises Malformed where it cannot.
READERS: dict[str, Callable[[str], list[tuple]]] = {
    "tsv": _read_tsv,
    "jsonl": _read_jsonl,
    "record": _read_jsonl,
    "multirc": _read_multirc,
    "race": _read_race,
}


def _record(line: str, names: tuple[str, ...]) -> dict:
    try:
        return _fields(json.loads(line), names)
    except Malformed:
        raise
    except (ValueError, RecursionError) as error:
        raise Malformed(f"not JSON ({error}): {line[:80]!r}") from error


def _fields(record: Any, names: tuple[str, ...]) -> dict:
    if not isinstance(record, dict) or set(record) != set(names):
        got = ", ".join(map(str, record)) if isinstance(record, dict) else type(record).__name__
        raise Malformed(f"expected the fields {', '.join(names)}, got {got[:80]}")
    return record


def _list(value: Any) -> list:
    if not isinstance(value, list) or not value:
        raise Malformed(f"expected a list, got {str(value)[:80]}")
    return value


def _whole_number(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise Malformed(f"an idx must be a whole number, got {str(value)[:80]!r}")
    return value

# SPDX-License-Identifier: Apache-2.0
"""GLUE: eleven test sets. Labels are in the order of Hugging Face's `glue` configurations."""

from bort_jax.tasks.task import Form, Place, Row, Task, number_in

NLI = ("entailment", "neutral", "contradiction")
TWO_WAY = ("entailment", "not_entailment")
MATCHED = 9815  # rows of MNLI's matched dev set, which come first where both are in one file
SENTENCES = ("sentence1", "sentence2")


def is_matched(row: Row) -> bool:
    """Whether a row of MNLI's two dev sets in one file is of the matched one (our reading)."""
    return _number(row) < MATCHED


def is_mismatched(row: Row) -> bool:
    return not is_matched(row)


def _number(row: Row) -> int:
    number = number_in(row.get("idx"))
    if not isinstance(number, int):
        raise ValueError("MNLI's two dev sets in one file need the column 'idx' to be told apart")
    return number


def _task(name: str, key: str, columns: tuple[str, ...], labels: tuple[str, ...], **rest) -> Task:
    """A row of the table; the leaderboard wants the label names unless `answers` says otherwise."""
    answers = rest.pop("answers", labels)
    rest.setdefault("place", Place((key,), hub=("nyu-mll/glue", key)))
    form = Form(f"{name}.tsv", "tsv", answers)
    return Task(columns, labels=labels, suite="glue", key=key, name=name, form=form, **rest)


def _mnli(name: str, key: str, **rest) -> Task:
    ending, keep = ("_" + key.removeprefix("mnli_"), rest.pop("keep"))
    hub = ("nyu-mll/glue", "mnli")
    place = Place((key, "mnli"), ending, keep, keep_train=False, hub=hub)
    return _task(name, key, ("premise", "hypothesis"), NLI, place=place, **rest)


BINARY = {"answers": (0, 1)}
F1 = {"metrics": ("F1", "accuracy")}
MNLI = "glue/mnli_matched"

TASKS = (
    _task(
        "CoLA",
        "cola",
        ("sentence",),
        ("unacceptable", "acceptable"),
        metrics=("Matthews",),
        rows=(8551, 1043, 1063),
        **BINARY,
    ),
    _task(
        "SST-2", "sst2", ("sentence",), ("negative", "positive"), rows=(67349, 872, 1821), **BINARY
    ),
    _task(
        "MRPC",
        "mrpc",
        SENTENCES,
        ("not_equivalent", "equivalent"),
        rows=(3668, 408, 1725),
        init_from=MNLI,
        **F1,
        **BINARY,
    ),
    _task(
        "STS-B",
        "stsb",
        SENTENCES,
        ("0", "5"),
        head="regression",
        metrics=("Pearson", "Spearman"),
        answers=(),
        rows=(5749, 1500, 1379),
        init_from=MNLI,
    ),
    _task(
        "QQP",
        "qqp",
        ("question1", "question2"),
        ("not_duplicate", "duplicate"),
        rows=(363846, 40430, 390965),
        **F1,
        **BINARY,
    ),
    _mnli("MNLI-m", "mnli_matched", keep=is_matched, rows=(392702, 9815, 9796)),
    _mnli(
        "MNLI-mm", "mnli_mismatched", keep=is_mismatched, rows=(392702, 9832, 9847), scored_by=MNLI
    ),
    _task(
        "QNLI",
        "qnli",
        ("question", "sentence"),
        TWO_WAY,
        question="question",
        rows=(104743, 5463, 5463),
    ),
    _task("RTE", "rte", SENTENCES, TWO_WAY, rows=(2490, 277, 3000), init_from=MNLI),
    _task(
        "WNLI", "wnli", SENTENCES, ("not_entailment", "entailment"), rows=(635, 71, 146), **BINARY
    ),
    _task(
        "AX",
        "ax",
        ("premise", "hypothesis"),
        NLI,
        metrics=("Matthews",),
        rows=(0, 0, 1104),
        scored_by=MNLI,
    ),
)

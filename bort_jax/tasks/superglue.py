# SPDX-License-Identifier: Apache-2.0
"""SuperGLUE: ten test sets. Labels are in the order of Hugging Face's `super_glue` configurations.

How rows become texts is our reading where said: the sources name the inputs, not their form.
"""

from bort_jax.tasks.encode import Mark, cuttable, mark_spans, uncut, word_spans
from bort_jax.tasks.task import Form, Item, Key, Place, Row, Task, number_in, text_of, value_of

TWO_WAY = ("entailment", "not_entailment")
BOOLEAN = ("False", "True")
LOWER = ("false", "true")  # as BoolQ and WiC want it, WSC wants capitals
BLANK = "@placeholder"
ASKS = {"cause": "What was the cause?", "effect": "What happened as a result?"}


def copa(row: Row, task: Task) -> list[Item]:
    """`premise What was the cause?` with each of the two choices (our reading)."""
    asks = text_of(row, "question")
    if asks not in ASKS:
        raise ValueError(f"column 'question' is {asks!r}, expected one of {', '.join(ASKS)}")
    premise = (*cuttable(text_of(row, "premise")), *uncut(" " + ASKS[asks], fixed=True))
    choices = [uncut(text_of(row, column)) for column in ("choice1", "choice2")]
    return [Item(tuple((premise, choice) for choice in choices), Key(number_in(row.get("idx"))))]


def wic(row: Row, task: Task) -> list[Item]:
    """The two sentences, the word between asterisks in each (our reading)."""
    sentences = tuple(
        mark_spans(text_of(row, f"sentence{k}"), [_characters(row, f"start{k}", f"end{k}")])
        for k in (1, 2)
    )
    return [Item((sentences,), Key(number_in(row.get("idx"))))]


def wsc(row: Row, task: Task) -> list[Item]:
    """One text, `*noun*` and `#pronoun#` (our reading)."""
    marks = [
        _word_span(row, text_of(row, f"span{k}_text"), f"span{k}_index", sign)
        for k, sign in ((1, "*"), (2, "#"))
    ]
    return [Item(((mark_spans(text_of(row, "text"), marks),),), Key(number_in(row.get("idx"))))]


def multirc(row: Row, task: Task) -> list[Item]:
    """The paragraph, with question and answer: is the answer right? Scored by question.

    The official train set has three empty answers, so an answer may be empty.
    """
    text = f"{text_of(row, 'question')} {text_of(row, 'answer', blank=True)}"
    parts = ("paragraph", "question", "answer")
    paragraph, question, answer = (_index(row, part) for part in parts)
    texts = (cuttable(text_of(row, "paragraph")), uncut(text))
    key = Key((paragraph, question, answer), group=(paragraph, question))
    return [Item((texts,), key)]


def record(row: Row, task: Task) -> list[Item]:
    """An example for each entity: the passage, with the query in which it fills the blank.

    The answer is the entity whose example is most surely right. An entity is right where it is
    one of the answers, whose texts are kept for scoring.
    """
    passage, query = cuttable(text_of(row, "passage")), text_of(row, "query")
    if BLANK not in query:
        raise ValueError(f"column 'query' has no {BLANK}: {query!r}")
    number, gold = _index(row, "query"), tuple(value_of(row, "answers") or ())
    entities = list(dict.fromkeys(value_of(row, "entities")))
    if not entities or not all(isinstance(entity, str) and entity for entity in entities):
        raise ValueError(f"column 'entities' must hold texts, got {entities!r}")
    filled = [(passage, uncut(query.replace(BLANK, entity), fixed=True)) for entity in entities]
    return [
        Item((text,), Key(number, group=number, text=entity, gold=gold), _is_gold(entity, gold))
        for text, entity in zip(filled, entities, strict=True)
    ]


def gender_pair(row: Row, task: Task) -> list[Item]:
    """Premise and hypothesis; rows 2k and 2k + 1 are a pair that differs in a pronoun's gender."""
    number = number_in(value_of(row, "idx"))
    if not isinstance(number, int):
        raise ValueError(f"column 'idx' holds no number: {number!r}")
    texts = tuple(cuttable(text_of(row, column)) for column in task.columns)
    return [Item((texts,), Key(number, group=number // 2))]


def _is_gold(entity: str, gold: tuple[str, ...]) -> int:
    """−1, no label, where the answers are withheld."""
    return int(entity in gold) if gold else -1


def _index(row: Row, part: str) -> int:
    """Hugging Face's `idx` holds the parts; flattened, each has a column."""
    nested = row.get("idx")
    if isinstance(nested, dict):
        return value_of(nested, part)
    return number_in(value_of(row, f"idx_{part}"))


def _characters(row: Row, start: str, end: str) -> Mark:
    span = number_in(value_of(row, start)), number_in(value_of(row, end))
    if not all(isinstance(at, int) for at in span):
        raise ValueError(f"columns {start!r} and {end!r} must hold numbers, got {span}")
    return Mark(*span, "*")


def _word_span(row: Row, span: str, column: str, sign: str) -> Mark:
    """Where a span of whole words stands; the official index is off by a word in a few rows."""
    text, wanted = text_of(row, "text"), [_normalize(word) for word in span.split()]
    places, index = word_spans(text), number_in(value_of(row, column))
    bare = [_normalize(text[start:end]) for start, end in places]
    found = [k for k in range(len(bare)) if bare[k : k + len(wanted)] == wanted]
    if not found or not isinstance(index, int):
        raise ValueError(f"span {span!r} of column {column!r} is not in the text")
    first = min(found, key=lambda k: abs(k - index))
    return Mark(places[first][0], places[first + len(wanted) - 1][1], sign)


def _normalize(word: str) -> str:
    """A word without case, punctuation around it and a possessive."""
    return word.strip(".,;:!?\"'()[]").lower().removesuffix("'s").removesuffix("’s")


def _task(name: str, key: str, **rest) -> Task:
    answers, layout = rest.pop("answers", ()), rest.pop("layout", "jsonl")
    form = Form(f"{name}.jsonl", layout, answers)
    place = Place((key,), hub=("aps/super_glue", key))
    return Task(suite="superglue", key=key, name=name, form=form, place=place, **rest)


PAIR = {"columns": ("premise", "hypothesis")}
RTE = {**PAIR, "labels": TWO_WAY, "answers": TWO_WAY}

TASKS = (
    _task(
        "BoolQ",
        "boolq",
        columns=("passage", "question"),
        question="question",
        labels=BOOLEAN,
        answers=LOWER,
        rows=(9427, 3270, 3245),
    ),
    _task(
        "CB",
        "cb",
        labels=("entailment", "contradiction", "neutral"),
        answers=("entailment", "contradiction", "neutral"),
        metrics=("macro F1", "accuracy"),
        rows=(250, 56, 250),
        init_from="glue/mnli_matched",
        **PAIR,
    ),
    _task(
        "COPA",
        "copa",
        columns=("premise", "choice1", "choice2", "question"),
        labels=("choice1", "choice2"),
        answers=(0, 1),
        head="choice",
        items=copa,
        rows=(400, 100, 500),
    ),
    _task(
        "MultiRC",
        "multirc",
        columns=("paragraph", "question", "answer"),
        labels=BOOLEAN,
        answers=(0, 1),
        items=multirc,
        metrics=("F1a", "EM of questions"),
        layout="multirc",
        rows=(27243, 4848, 9693),
    ),
    _task(
        "ReCoRD",
        "record",
        columns=("passage", "query", "entities", "answers"),
        label="answers",
        labels=BOOLEAN,
        items=record,
        metrics=("token F1", "exact match"),
        layout="record",
        rows=(100730, 10000, 10000),
    ),
    _task("RTE", "rte", rows=(2490, 277, 3000), init_from="glue/mnli_matched", **RTE),
    _task(
        "WiC",
        "wic",
        columns=("sentence1", "sentence2", "start1", "end1", "start2", "end2"),
        labels=BOOLEAN,
        answers=LOWER,
        items=wic,
        rows=(5428, 638, 1400),
    ),
    _task(
        "WSC",
        "wsc",
        columns=("text", "span1_text", "span1_index", "span2_text", "span2_index"),
        labels=BOOLEAN,
        answers=BOOLEAN,
        items=wsc,
        rows=(554, 104, 146),
    ),
    _task(
        "AX-b",
        "axb",
        columns=("sentence1", "sentence2"),
        labels=TWO_WAY,
        answers=TWO_WAY,
        metrics=("Matthews",),
        rows=(0, 0, 1104),
        scored_by="superglue/rte",
    ),
    _task(
        "AX-g",
        "axg",
        items=gender_pair,
        metrics=("gender parity", "accuracy"),
        rows=(0, 0, 356),
        scored_by="superglue/rte",
        **RTE,
    ),
)

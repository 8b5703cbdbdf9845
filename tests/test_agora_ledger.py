# SPDX-License-Identifier: Apache-2.0
"""Calls that cost something: never more than the budget, none paid twice, whatever is killed; and
labellers that lie, die or hang."""

import sys
from contextlib import nullcontext
from itertools import count

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bort_jax.agora import Ledger, Pace, Unanswered, read_answer
from bort_jax.stages.agora.labellers import command_of, function_of

CLASSES = ("no", "yes")
QUICK = Pace(at_once=3, tries=3, backoff=0)


class Kill(BaseException):
    """As a kill: nothing catches it."""


def truth(text):
    return read_answer(
        {"probabilities": {"no": len(text) / 100, "yes": 1 - len(text) / 100}}, CLASSES
    )


class Oracle:
    """A labeller who counts what he was asked and what he answered; some moments are kills."""

    def __init__(self, kills=(), failures=()):
        self.requests, self.answered = [], []
        self.moment, self.kills, self.failures = count(), set(kills), set(failures)

    def tick(self):
        moment = next(self.moment)
        if moment in self.kills:
            raise Kill
        if moment in self.failures:
            raise Unanswered("it failed")

    def __call__(self, texts):
        self.requests += texts
        self.tick()
        for (text,) in texts:
            self.tick()
            self.answered.append(text)
            yield truth(text)
            self.tick()  # answered, and perhaps killed before or after it is written


def ledger_at(file, oracle, most=None, pace=QUICK):
    return Ledger(
        file, lambda: nullcontext(oracle), identity="one", classes=2, most=most, pace=pace
    )


moments = st.sets(st.integers(0, 30), max_size=5)


@settings(max_examples=60)
@given(
    asked=st.lists(st.lists(st.sampled_from("abcdefghijkl"), max_size=8), max_size=4),
    most=st.none() | st.integers(0, 15),
    kills=moments,
    failures=moments,
)
def test_ledger_keeps_its_budget_and_pays_no_answer_twice(
    asked, most, kills, failures, tmp_path_factory
):
    file, oracle = tmp_path_factory.mktemp("ledger") / "answers.jsonl", Oracle(kills, failures)
    for texts in asked:
        while True:  # the same command again, after every kill
            try:
                answers = ledger_at(file, oracle, most)([(text,) for text in texts])
                break
            except Kill:
                continue
            except ValueError as error:
                assert "it failed" in str(error)  # three failures in a row
        there = ~np.isnan(answers).any(axis=1)
        for text, answer in zip(np.array(texts)[there], answers[there], strict=True):
            assert np.array_equal(answer, truth(text))
        if most is None and not kills:
            assert there.all()
        assert len(oracle.requests) <= (most if most is not None else np.inf)
    assert len(oracle.answered) == len(set(oracle.answered))
    # Resumed: the same answers, and nothing is asked.
    requests = len(oracle.requests)
    again = ledger_at(file, oracle, most=0)([(text,) for text in oracle.answered])
    assert len(oracle.requests) == requests
    assert np.isnan(again).any(axis=1).sum() <= len(kills)  # one that a kill took on its way


def test_ledger_forgets_a_line_that_a_kill_tore(tmp_path):
    file, oracle = tmp_path / "answers.jsonl", Oracle()
    ledger_at(file, oracle)([("a",), ("b",)])
    whole = file.read_bytes()
    file.write_bytes(whole + b'{"idx": 3, "key": "ab')
    assert ledger_at(file, oracle)([("a",), ("c",)]).shape == (2, 2)
    assert file.read_bytes().startswith(whole) and oracle.answered == ["a", "b", "c"]


def test_ledger_does_not_take_another_labellers_answers(tmp_path):
    oracle = Oracle()
    for identity in ("one", "other"):
        Ledger(tmp_path / "a.jsonl", lambda: nullcontext(oracle), identity=identity, classes=2)(
            [("a",)]
        )
    assert oracle.answered == ["a", "a"]


@pytest.mark.parametrize(
    "answer, expected",
    [
        ("yes", [0, 1]),
        ({"label": "no"}, [1, 0]),
        ({"label": "no", "probabilities": {"yes": 0.25, "no": 0.75}}, [0.75, 0.25]),
        ({"probabilities": [0.1, 0.9]}, [0.1, 0.9]),
        ([0.3, 0.695], [0.3 / 0.995, 0.695 / 0.995]),
    ],
)
def test_read_answer(answer, expected):
    assert read_answer(answer, CLASSES) == pytest.approx(np.array(expected))


@pytest.mark.parametrize(
    "answer, message",
    [
        ("maybe", "unknown class 'maybe'; there are no, yes"),
        ({"label": 3}, "unknown class '3'"),
        ({}, "neither a class nor 2 probabilities"),
        (None, "neither a class"),
        (True, "neither a class"),
        ([0.5], "neither a class"),
        ([0.9, 0.9], "probabilities must sum to 1"),
        ([1.5, -0.5], "must be 0 or more"),
        ([np.nan, 1], "must be 0 or more"),
        ({"probabilities": {"yes": 1.0}}, "probabilities of yes, not of no, yes"),
        ({"probabilities": {"yes": 0.5, "no": 0.25, "so": 0.25}}, "probabilities of yes, no, so"),
    ],
)
def test_read_answer_refuses_nonsense(answer, message):
    with pytest.raises(ValueError, match=message):
        read_answer(answer, CLASSES)


LOOP = (
    "import sys, json, time\nfor n, line in enumerate(sys.stdin):\n    row = json.loads(line)\n    "
)
SAY = "print(json.dumps({'label': 'yes' if 'good' in row['text'] else 'no'}), flush=True)"


def script(folder, body):
    file = folder / "label.py"
    file.write_text(LOOP + body)
    return f"command:{sys.executable} {file}"


def asked(folder, name, texts, *, timeout=20.0, pace=QUICK, most=None):
    open_fn = command_of(name, CLASSES, ("text",), timeout=timeout)
    ledger = Ledger(folder / "a.jsonl", open_fn, identity=name, classes=2, pace=pace, most=most)
    return ledger([(text,) for text in texts]), ledger


TEXTS = ["good one", "bad", "so\ngood", "“ü”", "good"]


def test_command_of_answers_line_by_line(tmp_path):
    answers, ledger = asked(tmp_path, script(tmp_path, SAY), TEXTS)
    assert answers.argmax(axis=1).tolist() == [1, 0, 1, 0, 1] and ledger.sent == 5


def test_command_of_starts_a_dead_command_again_and_asks_for_the_rest(tmp_path):
    dies = f"(_ for _ in ()).throw(SystemExit(3)) if n == 2 else {SAY}"
    answers, ledger = asked(tmp_path, script(tmp_path, dies), TEXTS)
    assert answers.argmax(axis=1).tolist() == [1, 0, 1, 0, 1] and 5 < ledger.sent <= 8


@pytest.mark.parametrize(
    "body, message",
    [
        ("print('I think so', flush=True)", "not a JSON line: 'I think so'"),
        ('print(\'{"label": "maybe"}\', flush=True)', "unknown class 'maybe'"),
        (
            'print(\'{"probabilities": {"no": 0.8, "yes": 0.8}}\', flush=True)',
            "probabilities must sum to 1",
        ),
        (f"{SAY if True else ''} if n < 1 else 1 / 0", "ended with code 1: ZeroDivisionError"),
        (f"{SAY} if n < 1 else time.sleep(99)", "no answer within 0.5 s; does it flush"),
    ],
)
def test_a_broken_command_is_one_line_and_loses_no_answer(body, message, tmp_path):
    name = script(tmp_path, body)
    pace = Pace(at_once=2, tries=1)
    with pytest.raises(ValueError, match=message) as caught:
        asked(tmp_path, name, TEXTS, timeout=0.5 if "sleep" in body else 20, pace=pace)
    assert "\n" not in str(caught.value) and "Socrates (command:" in str(caught.value)
    kept = (tmp_path / "a.jsonl").read_text().count('"key"')
    assert kept == ("if n < 1" in body)


def test_a_command_that_always_dies_does_not_exceed_the_budget(tmp_path):
    answers, ledger = asked(tmp_path, script(tmp_path, "sys.exit(1)"), TEXTS, most=4)
    assert ledger.sent == 4 and np.isnan(answers).all()


def test_a_command_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match="cannot be started: .*no-such-program"):
        asked(tmp_path, "command:no-such-program", TEXTS)


def test_function_of_finds_a_function_of_texts(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "def label(texts):\n    return ['yes' if 'good' in text else 'no' for text in texts]\n"
        "def few(texts):\n    return ['yes']\n"
        "def broken(texts):\n    raise KeyError('token')\n"
    )
    monkeypatch.chdir(tmp_path)
    texts = [("good",), ("bad",)]

    def ask(name):
        with function_of(f"python:mine:{name}", CLASSES)() as ask_fn:
            return list(ask_fn(texts))

    assert np.stack(ask("label")).argmax(axis=1).tolist() == [1, 0]
    with pytest.raises(ValueError, match="1 answers to 2 texts"):
        ask("few")
    with pytest.raises(Unanswered, match="KeyError: 'token'"):
        ask("broken")
    with pytest.raises(ValueError, match="expected python:MODULE:FUNCTION"):
        ask("absent")

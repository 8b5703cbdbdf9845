# SPDX-License-Identifier: Apache-2.0
"""Five rows of our own for each of the 23 test sets, with the columns of the real files."""

import json
from pathlib import Path

ROWS = 5
A = [f"the cat number {k} sat on the mat and looked at the moon" for k in range(ROWS)]
B = [f"a cat that was called {k} sat somewhere" for k in range(ROWS)]
TWO = [k % 2 for k in range(ROWS)]
THREE = [k % 3 for k in range(ROWS)]


def _pairs(first: str, second: str, labels: list) -> list[dict]:
    texts = zip(A, B, labels, strict=True)
    return [{first: a, second: b, "label": y, "idx": 7 * k} for k, (a, b, y) in enumerate(texts)]


def _singles(labels: list) -> list[dict]:
    return [{"sentence": a, "label": y, "idx": k} for k, (a, y) in enumerate(zip(A, labels))]


def _wic(k: int) -> dict:
    one, two = f"You must carry lot {k}.", f"Sound {k} carries well."
    spans = {"start1": 9, "end1": 14, "start2": 8, "end2": 15}
    assert one[9:14] == "carry" and two[8:15] == "carries"
    return {"word": "carry", "sentence1": one, "sentence2": two, **spans, "idx": 40 - k}


def _wsc(k: int) -> dict:
    text = f"Ann told Ben {k} lies about himself, which he put in a book."
    spans = {"span1_text": "Ben", "span1_index": 2, "span2_text": "he", "span2_index": 8}
    return {"text": text, **spans, "idx": k}


def _copa(k: int) -> dict:
    texts = {"premise": f"The lamp {k} went out.", "choice1": "It rained.", "choice2": "It broke."}
    return {**texts, "question": ("cause", "effect")[k % 2], "idx": 500 + k}


def _multirc(k: int) -> dict:
    texts = {
        "paragraph": f"{A[k // 3]}. {B[k // 3]}.",
        "question": "Who sat?",
        "answer": f"cat {k}",
    }
    return {**texts, "idx_paragraph": k // 3, "idx_question": k // 2, "idx_answer": k}


def _record(k: int) -> dict:
    texts = {"passage": f"{A[k]}. Ann and Ben B. saw it.", "query": "It was seen by @placeholder."}
    answers = [["Ann"], ["the Ben B.", "Ben B."]][k % 2]
    entities = ["Ann", "Ben B.", "the Ben B."]
    return {**texts, "entities": entities, "answers": answers, "idx_passage": k, "idx_query": 9 - k}


def _race(level: str, k: int) -> dict:
    question = ("What sat _ there?", "Why did it sit?")[k % 2]
    texts = {"example_id": f"{level}{k // 2}.txt", "article": A[k // 2], "question": question}
    return {**texts, "options": ["one", "two", "three", "four"], "answer": "ABCD"[k % 4]}


def _labelled(rows: list[dict]) -> list[dict]:
    return [{**row, "label": y} for row, y in zip(rows, TWO, strict=True)]


def rows_of_task(reference: str) -> list[dict]:
    """Five labelled rows; MNLI-mm's could stand in one file with MNLI-m's."""
    five = range(ROWS)
    made = {
        "glue/cola": lambda: _singles(TWO),
        "glue/sst2": lambda: _singles(TWO),
        "glue/mrpc": lambda: _pairs("sentence1", "sentence2", TWO),
        "glue/stsb": lambda: _pairs("sentence1", "sentence2", [0.0, 1.2, 2.6, 4.0, 5.0]),
        "glue/qqp": lambda: _pairs("question1", "question2", TWO),
        "glue/mnli_matched": lambda: _pairs("premise", "hypothesis", THREE),
        "glue/mnli_mismatched": lambda: [
            {**row, "idx": 9815 + row["idx"]} for row in _pairs("premise", "hypothesis", THREE)
        ],
        "glue/qnli": lambda: _pairs("question", "sentence", TWO),
        "glue/rte": lambda: _pairs("sentence1", "sentence2", TWO),
        "glue/wnli": lambda: _pairs("sentence1", "sentence2", TWO),
        "glue/ax": lambda: _pairs("premise", "hypothesis", THREE),
        "superglue/boolq": lambda: _pairs("passage", "question", TWO),
        "superglue/cb": lambda: _pairs("premise", "hypothesis", THREE),
        "superglue/copa": lambda: _labelled([_copa(k) for k in five]),
        "superglue/multirc": lambda: _labelled([_multirc(k) for k in five]),
        "superglue/record": lambda: [_record(k) for k in five],
        "superglue/rte": lambda: _pairs("premise", "hypothesis", TWO),
        "superglue/wic": lambda: _labelled([_wic(k) for k in five]),
        "superglue/wsc": lambda: _labelled([_wsc(k) for k in five]),
        "superglue/axb": lambda: _pairs("sentence1", "sentence2", TWO),
        "superglue/axg": lambda: [
            {**row, "idx": k} for k, row in enumerate(_pairs("premise", "hypothesis", TWO))
        ],
        "race/middle": lambda: [_race("middle", k) for k in five],
        "race/high": lambda: [_race("high", k) for k in five],
    }
    return made[reference]()


def unlabelled(rows: list[dict]) -> list[dict]:
    """The rows as a leaderboard gives them out."""
    hidden = {"label": -1, "answer": "", "answers": []}
    keep = lambda row, name: name not in hidden or (name == "answer" and "paragraph" in row)
    return [{n: v if keep(row, n) else hidden[n] for n, v in row.items()} for row in rows]


def write_rows(file: Path, rows: list[dict]) -> Path:
    """Writes parquet or JSON lines, by the file's ending."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), file)
    return file


def write_data(folder: Path, *, ending: str = ".parquet") -> Path:
    """A data folder with the three splits of all the test sets; test splits have no labels."""
    from bort_jax.tasks import TASKS

    for reference in TASKS:
        rows = rows_of_task(reference)
        for split in ("train", "validation", "test"):
            hide = unlabelled if split == "test" else list
            write_rows(folder / reference / f"{split}{ending}", hide(rows))
    return folder

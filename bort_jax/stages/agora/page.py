# SPDX-License-Identifier: Apache-2.0
"""Agora round by round, and who did better in the end: in the terminal and on a page."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from warnings import catch_warnings, simplefilter

import numpy as np
from scipy.stats import norm, ttest_ind

from bort_jax.agora import Lift
from bort_jax.report import page, plots
from bort_jax.report.terminal import show_box, show_table

READING = (
    "Each round fine-tunes the student (Timaeus) with every hyperparameter set that is left. Data "
    "augmentation (τ) makes new texts near those that the best one misclassifies on steer-dev; "
    "they join the train set with pseudo-labels of the teacher (Socrates). The worst sets leave."
)

HEADER = (
    "round", "sets", "steer-dev", "best so far", "report-dev", "gap", "mistakes", "calls",
    "pseudo-labelled", "train rows",
)  # fmt: skip
KEYS = (
    "round", "sets", "steer", "best_steer", "report", "gap", "mistakes", "calls", "added",
    "train_size",
)  # fmt: skip
NEAR = {"mistakes": "mistakes", "all": "any rows"}
SIDES = {"plain": "plain fine-tuning", "agora": "Agora"}
SPLITS = {"report": "report-dev", "test": "test"}


def sentence(line: dict) -> str:
    """A round in one line."""
    refused = ", ".join(f"{count} {reason}" for reason, count in line["refused"].items())
    short = 0 < line["asked"] < line["mistakes"]
    reach = f" (new points reach {line['asked']} of them)" * short
    return (
        f"round {line['round']}: {line['sets']} sets, steer-dev {line['steer']:.4f} (best so far "
        f"{line['best_steer']:.4f}), report-dev {line['report']:.4f}, gap {line['gap']:+.4f}, "
        f"{line['mistakes']} mistakes{reach} (lift {lift_words(line)}), {line['added']} "
        f"pseudo-labelled points added near {NEAR[line['near']]}, "
        f"Socrates asked about {line['calls']} in all"
        + (f" (refused: {refused})" if refused else "")
        + f", {len(line['removed'])} sets removed"
    )


def lift_words(line: dict) -> str:
    return str(Lift(*line["lift"])) if line["lift"] else "unknown"


def round_rows(summary: dict) -> list[tuple]:
    return [tuple(line[key] for key in KEYS) for line in summary["rounds"]]


def sides(summary: dict) -> Iterator[tuple[str, str, str]]:
    """Side, split, and mean ± standard deviation over seeds, where there are scores."""
    for split, named in SPLITS.items():
        for side, name in SIDES.items():
            if summary[side][split]:
                yield name, named, spread(summary[side][split])


def spread(scores: Sequence[float]) -> str:
    """Mean ± standard deviation over seeds, in percent."""
    deviation = np.std(scores, ddof=1) if len(scores) > 1 else 0.0
    return f"{100 * np.mean(scores):.1f} ± {100 * deviation:.1f} %"


def verdict(summary: dict) -> str:
    """Who did better on test, by how much, whatever the answer."""
    if not summary["plain"]["test"]:
        return "the test split has no labels: report-dev alone says who did better"
    plain, ours = (np.array(summary[name]["test"]) for name in SIDES)
    gain, noise = ours.mean() - plain.mean(), margin(summary)
    word = "gains" if gain >= 0 else "LOSES"
    judged = "more than chance" if abs(gain) > noise else "WITHIN chance"
    return (
        f"Agora {word} {100 * abs(gain):.1f} points against plain fine-tuning on test, "
        f"{judged} (± {100 * noise:.1f})"
    )


def bill(summary: dict) -> str:
    """What Socrates was asked, and what it cost."""
    cost = f", which cost {summary['cost']:g}" if summary["cost"] else ""
    return f"calls of Socrates: {summary['calls']}{cost}"


def margin(summary: dict) -> float:
    """Half the 95 % interval of the difference of two means.

    Two errors add in squares: by the size of the test (binomial), and over the seeds, by Student's
    t with Welch-Satterthwaite degrees of freedom. One seed says nothing of the second: it is 0.
    """
    scores = [np.array(summary[name]["test"]) for name in SIDES]
    squares = sum(one.mean() * (1 - one.mean()) / summary["test_rows"] for one in scores)
    return float(np.hypot(norm.ppf(0.975) * np.sqrt(squares), seeds_margin(*scores)))


def seeds_margin(plain: np.ndarray, ours: np.ndarray) -> float:
    """Half of Welch's 95 % interval; 0 with one seed, or where no seed differs from another."""
    if len(plain) < 2 or not (plain.std() or ours.std()):
        return 0.0
    with catch_warnings():  # of a side whose seeds are all alike
        simplefilter("ignore", RuntimeWarning)
        low, high = ttest_ind(ours, plain, equal_var=False).confidence_interval(0.95)
    return float(high - low) / 2


def show(summary: dict, out: Path) -> None:
    show_table("Agora, round by round", HEADER, round_rows(summary))
    show_box(
        "Agora",
        [
            *(f"{name} on {split}: {scores}" for name, split, scores in sides(summary)),
            verdict(summary),
            bill(summary),
            f"train rows that stand in dev or test: {summary['leaked']}",
            f"model: {out}/model   rounds: {out}/report.html",
            f"next: bort-jax evaluate --model {out}/model --data FILE",
        ],
    )


def write(out: Path, summary: dict, *, source: str) -> None:
    page.write_page(out / "report.html", f"Agora on {source}", blocks(summary))


def folds_note(folds: int) -> list[str]:
    """What steers where there is no dev set."""
    if not folds:
        return []
    return [
        page.paragraph(
            f"There is no validation split. The train rows steer: their mistakes are those of a "
            f"{folds}-fold cross-validation, in which no row is classified by a model that was "
            "trained on it. Report-dev is train rows that were kept aside."
        )
    ]


def blocks(summary: dict) -> list[str]:
    """Agora's part of a report page."""
    lines = summary["rounds"]
    drawn = plots.rounds(
        [line["round"] for line in lines],
        {
            "steer-dev, best so far (steers: no evidence)": [line["best_steer"] for line in lines],
            "report-dev, never read by Agora": [line["report"] for line in lines],
        },
        [line["train_size"] for line in lines],
    )
    header = ("", "train rows", "report-dev", "test", "seeds")
    return [
        page.paragraph(f"{verdict(summary)}. {bill(summary).capitalize()}."),
        page.table(header, outcome_rows(summary)),
        *curve_blocks(summary.get("curve", {})),
        page.heading("Round by round"),
        page.paragraph(READING),
        *folds_note(summary["folds"]),
        page.figure(drawn, f"Socrates on report-dev: {summary['socrates_report_dev']:.4f}."),
        page.table(HEADER, round_rows(summary)),
        page.heading("Are mistakes neighbours?"),
        page.table(("round", "mistake lift", "new points near", "calls so far"), lift_rows(lines)),
        page.heading("Checks beforehand"),
        page.table(("check", "found", "problem"), [tuple(c.values()) for c in summary["checks"]]),
        page.heading("Pseudo-labels added, and proposals of τ refused"),
        page.table(*points_table(lines)),
        page.heading("Distances of all proposals from their parents"),
        page.table(("round", *QUANTILES), [(line["round"], *quantiles(line)) for line in lines]),
        page.heading("Hyperparameter sets removed"),
        page.table(("round", "sets removed", "all of them share"), removed_rows(lines)),
        page.heading("Generated text beside its parent"),
        page.paragraph("The label is the pseudo-label of the generated text, by Socrates."),
        page.table(EXAMPLE_HEADER, map(example_row, summary["examples"])),
    ]


def curve_blocks(curve: dict[str, list[dict]]) -> list[str]:
    """Accuracy by calls, where it was had."""
    if not curve:
        return []
    lines = {
        name: [(one["calls"], one["scores"]) for one in points] for name, points in curve.items()
    }
    header = ("", *(f"{calls} calls" for calls, _ in next(iter(lines.values()))))
    rows = [(name, *(spread(scores) for _, scores in line)) for name, line in lines.items()]
    return [
        page.heading("Accuracy by calls"),
        page.paragraph(CURVE),
        page.figure(plots.by_calls(lines), "The last point of Agora is the run's score."),
        page.table(header, rows),
    ]


CURVE = (
    "Each point is a train set of its own, with the best hyperparameter set, on report-dev. Random "
    "texts of the pool have the same Socrates, and as many calls."
)
QUANTILES = ("nearest", "10 %", "25 %", "median", "75 %", "90 %", "farthest")
EXAMPLE_HEADER = ("round", "parent", "generated", "τ", "distance", "label", "confidence")


def outcome_rows(summary: dict) -> list[tuple]:
    said = lambda scores: spread(scores) if scores else "no labels"
    return [
        (name, one["train_rows"], said(one["report"]), said(one["test"]), len(one["report"]))
        for name, one in ((name, summary[side]) for side, name in SIDES.items())
    ]


def points_table(lines: Sequence[dict]) -> tuple[tuple, list[tuple]]:
    """A column for each class that got points and each reason for which points were refused."""
    classes = sorted({label for line in lines for label in line["labels_added"]}, key=int)
    reasons = sorted({reason for line in lines for reason in line["refused"]})
    header = ("round", *(f"class {label}" for label in classes), *reasons)
    rows = [
        (
            line["round"],
            *(line["labels_added"].get(label, 0) for label in classes),
            *(line["refused"].get(reason, 0) for reason in reasons),
        )
        for line in lines
    ]
    return header, rows


def lift_rows(lines: Sequence[dict]) -> list[tuple]:
    return [(line["round"], lift_words(line), NEAR[line["near"]], line["calls"]) for line in lines]


def quantiles(line: dict) -> Sequence[float]:
    return line["distances"] or [float("nan")] * len(QUANTILES)


def removed_rows(lines: Sequence[dict]) -> list[tuple]:
    named = lambda pairs: ", ".join(f"{name} = {value}" for name, value in pairs.items())
    return [(line["round"], len(line["removed"]), named(line["removed_by"])) for line in lines]


def example_row(example: dict) -> tuple:
    keys = ("round", "parent_text", "text", "tau", "distance", "label", "confidence")
    return tuple(example[key] for key in keys)

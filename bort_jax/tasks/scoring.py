# SPDX-License-Identifier: Apache-2.0
"""From a head's outputs to decisions, and from decisions to a task's official scores."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int

from bort_jax.tasks import metrics
from bort_jax.tasks.task import Examples, Task

Decisions = Int[np.ndarray, " n"] | Float[np.ndarray, " n"]


def _chosen_texts(examples: Examples, predicted: np.ndarray) -> list[str]:
    return [examples.keys[k].text for k in np.flatnonzero(predicted == 1)]


def _gold_texts(examples: Examples, predicted: np.ndarray) -> list[tuple[str, ...]]:
    return [examples.keys[k].gold for k in np.flatnonzero(predicted == 1)]


def _groups(examples: Examples) -> list:
    return [key.group for key in examples.keys]


METRICS: dict[str, Callable[[Examples, np.ndarray], float]] = {
    "accuracy": lambda e, p: metrics.accuracy(p, e.labels),
    "F1": lambda e, p: metrics.f1(p, e.labels),
    "macro F1": lambda e, p: metrics.macro_f1(p, e.labels),
    "Matthews": lambda e, p: metrics.matthews(p, e.labels),
    "Pearson": lambda e, p: metrics.pearson(p, e.labels),
    "Spearman": lambda e, p: metrics.spearman(p, e.labels),
    "F1a": lambda e, p: metrics.f1(p, e.labels),  # over the answers of all questions
    "EM of questions": lambda e, p: metrics.exact_groups(p, e.labels, groups=_groups(e)),
    "gender parity": lambda e, p: metrics.gender_parity(p, groups=_groups(e)),
    "token F1": lambda e, p: metrics.over_answers(
        metrics.token_f1, _chosen_texts(e, p), _gold_texts(e, p)
    ),
    "exact match": lambda e, p: metrics.over_answers(
        metrics.exact_match, _chosen_texts(e, p), _gold_texts(e, p)
    ),
}


def align_outputs(
    outputs: Float[np.ndarray, "m k"], task: Task, *, labels: Sequence[str]
) -> Float[np.ndarray, "m c"]:
    """A head's outputs with a column a class, in the task's order, or one column.

    Args:
      labels: the head's own class names. They may be the task's in another order, or mere
        numbers. For choices, a head of two classes says how right a choice is by the second.

    Raises:
      ValueError: the head is not one for the task.
    """
    names, width = tuple(labels), outputs.shape[1]
    if task.head == "choice" and width == 2:
        return outputs[:, 1:] - outputs[:, :1]
    if task.head != "classification" and width == 1:
        return outputs
    if task.head == "classification" and set(names) == set(task.labels):
        return outputs[:, [names.index(label) for label in task.labels]]
    numbered = names in (_numbers(width), tuple(f"LABEL_{k}" for k in range(width)))
    if task.head == "classification" and numbered and width == len(task.labels):
        return outputs
    classes = task.head == "classification"
    wanted = ", ".join(task.labels) if classes else "one output"
    own = classes and not task.name and width == len(task.labels)  # whose classes can be named
    hint = ": give these as --labels" if own else ""
    raise ValueError(
        f"{task.name or 'the task'} ({task.head}) wants a head with {wanted}; "
        f"this one has {', '.join(names)}{hint}"
    )


def decide(outputs: Float[np.ndarray, "m k"], task: Task, *, examples: Examples) -> Decisions:
    """A model's class, choice or score for each example; NaN where it has diverged.

    Of candidates for one answer (ReCoRD) exactly one has class 1: the most surely right.

    Args:
      outputs: arranged; a row an example, or a row a choice of an example.
    """
    decisions = head_decisions(outputs, task.head, count=len(examples.texts))
    if task.form.layout != "record" or np.isnan(decisions).any():
        return decisions
    return _best_of_groups(outputs[:, 1] - outputs[:, 0], _groups(examples))


def head_decisions(outputs: Float[np.ndarray, "m k"], head: str, *, count: int) -> Decisions:
    """The likeliest class or choice of each of `count` examples, or its score.

    One output that is not finite makes all decisions NaN: the training has diverged, and the
    largest of NaN would be class 0 for every example.
    """
    if not np.isfinite(outputs).all():
        return np.full(count, np.nan)
    rows = outputs.reshape(count, -1)
    return rows[:, 0] if head == "regression" else rows.argmax(axis=1)


def score(predicted: Decisions, task: Task, *, examples: Examples) -> dict[str, float]:
    """The task's official metrics, by name; NaN for the decisions of a diverged model.

    Raises:
      ValueError: the examples have no labels.
    """
    if not examples.has_labels:
        raise ValueError(f"{task.name or 'these rows'}: no labels to score against")
    if np.isnan(predicted).any():
        return dict.fromkeys(task.metrics, np.nan)
    return {name: METRICS[name](examples, predicted) for name in task.metrics}


def headline(scores: dict[str, float]) -> float:
    """One number: the mean of a task's metrics, as the leaderboards average them."""
    return float(np.mean(list(scores.values())))


def _numbers(n: int) -> tuple[str, ...]:
    return tuple(map(str, range(n)))


def _best_of_groups(values: np.ndarray, groups: Sequence) -> np.ndarray:
    best: dict = {}
    for k, group in enumerate(groups):
        if group not in best or values[k] > values[best[group]]:
            best[group] = k
    chosen = np.zeros(len(values), dtype=np.int32)
    chosen[list(best.values())] = 1
    return chosen

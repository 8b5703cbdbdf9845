# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning by distillation: the laws of its loss, answers on disk, rows without labels."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from command_line import refused
from helpers import SENTENCES

from bort_jax.arch import LayerwiseArch
from bort_jax.cli import main
from bort_jax.data.tokenizer import Tokenizer
from bort_jax.interop import load, save
from bort_jax.interop.orbax_folder import save_orbax
from bort_jax.model import random_params
from bort_jax.stages.agora.models import load_models
from bort_jax.stages.finetune.distillation import Distillation, distillation_loss
from bort_jax.stages.finetune.splits import read_unlabelled
from bort_jax.stages.finetune.teacher_answers import Teacher, cache_answers
from bort_jax.stages.finetune.tuner import FineTuner, Theta, labelled_batches, visited_rows
from bort_jax.tasks import Examples, Points, Task

THETA = Theta(0, 1e-2, 0.0, 0.1, 4)
LABELS = ("bad", "good")
TASK = Task(labels=LABELS)
OUTPUTS = {"classification": LABELS, "regression": ("score",), "choice": ("choice",)}


def fine_tuned(start, head="classification", *, seed=1):
    """A classifier with random weights, large enough to disagree with another seed's."""
    empty = replace(start, labels=OUTPUTS[head], problem=head)
    params = random_params(empty.model, seed=seed)
    return empty.with_params(jax.tree.map(lambda x: x * 8 if x.ndim > 1 else x, params))


@pytest.fixture(scope="module")
def teacher(small):
    return fine_tuned(small)


@pytest.fixture(scope="module")
def points(small):
    """Twelve rows of several lengths, of which the last four have no label."""
    rng, pad = np.random.default_rng(0), small.required_tokenizer.special.pad
    x = rng.integers(5, 250, (12, 16)).astype(np.int32)
    x[np.arange(16) >= rng.integers(4, 17, 12)[:, None]] = pad
    return Points(x, np.array([0, 1] * 4 + [-1] * 4, np.int32))


def answers_of(teacher, student, x, folder, *, task=TASK, hidden=True, **settings):
    return cache_answers(Teacher.of(teacher, task, student, hidden=hidden), x, folder, **settings)


def students(start, points, answers, thetas=(THETA,), *, steps=6, **weights):
    weights = Distillation(**weights)
    tuner = FineTuner.of(start, LABELS, steps=steps, dropout=0.0, distillation=weights)
    return tuner, [one.params for one in tuner.tune_all(thetas, points, answers=answers)]


def largest_difference(one, two):
    return max(jax.tree.leaves(jax.tree.map(lambda a, b: np.abs(a - b).max(), one, two)))


# The loss


@pytest.mark.parametrize("head", OUTPUTS)
def test_distillation_loss_from_oneself_is_zero_and_so_is_its_gradient(
    head, small, points, tmp_path
):
    teacher = fine_tuned(small, head)
    x = points.x.reshape(6, 2, 16) if head == "choice" else points.x
    task = Task(labels=("0", "5") if head == "regression" else LABELS, head=head)
    answers = answers_of(teacher, teacher, x, tmp_path, task=task)
    y = np.full(len(x), np.nan, np.float32) if head == "regression" else np.full(len(x), -1)
    batch = next(labelled_batches(Points(x, y), THETA, answers=answers))
    pad = small.required_tokenizer.special.pad
    loss_fn = distillation_loss(teacher.model, head, Distillation(), pad=pad)

    @jax.jit
    def gradient_of(params):
        sums = lambda p: (found := loss_fn(p, batch, None)) and (found["loss"], found)
        return jax.grad(sums, has_aux=True)(params)

    gradient, sums = gradient_of(teacher.params)
    assert abs(float(sums["loss"])) < 1e-5
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradient)) < 1e-3
    _, other = gradient_of(fine_tuned(small, head, seed=2).params)
    assert float(other["loss"]) > 0.1 and float(other["distillation"]) > 1e-3


def test_distillation_from_oneself_changes_nothing(teacher, points, tmp_path):
    """Its head is kept. AdamW makes steps of one size of a gradient that is mere rounding, so its
    answers are compared, and not its weights."""
    answers = answers_of(teacher, teacher, points.x, tmp_path)
    slow = THETA._replace(learning_rate=1e-4)
    tuner, (same,) = students(teacher, points, answers, [slow], label_weight=0)
    outputs = answers.take(np.arange(12))["teacher"]
    assert np.ptp(outputs) > 0.5
    np.testing.assert_allclose(tuner.outputs(same, points.x), outputs, atol=0.01)


def test_tune_all_gives_the_same_student_for_the_same_seed(small, teacher, points, tmp_path):
    """In a population as alone."""
    answers = answers_of(teacher, small, points.x, tmp_path)
    thetas = [THETA, THETA._replace(seed=1), THETA._replace(learning_rate=1e-3)]
    tuner, together = students(small, points, answers, thetas)
    alone = next(tuner.tune_all([THETA], points, answers=answers)).params
    assert largest_difference(alone, together[0]) < 1e-5
    assert largest_difference(together[0], together[1]) > 1e-3
    assert largest_difference(together[0], together[2]) > 1e-3


def test_tune_all_learns_the_teachers_answers_without_labels(small, teacher, points, tmp_path):
    bare = Points(points.x, np.full_like(points.y, -1))
    answers = answers_of(teacher, small, bare.x, tmp_path)
    tuner, (student,) = students(small, bare, answers, steps=60)
    theirs = answers.take(np.arange(12))["teacher"]
    ours = tuner.outputs(student, bare.x)
    assert (ours.argmax(1) == theirs.argmax(1)).mean() > 0.9
    assert 0 < theirs.argmax(1).mean() < 1


def test_labelled_batches_have_no_label_weight_without_a_label(points, teacher, tmp_path):
    answers = answers_of(teacher, teacher, points.x, tmp_path)
    theta = THETA._replace(batch_size=16)  # four places of the batch are no rows
    weights = np.array([2, 3], np.float32)
    batch = next(labelled_batches(points, theta, weights=weights, answers=answers))
    assert batch["weights"].sum() == 12
    wanted = {-1: 0, 0: 2, 1: 3}
    rows = batch["weights"] > 0
    assert batch["label_weights"][rows].tolist() == [wanted[y] for y in batch["labels"][rows]]
    assert not batch["label_weights"][~rows].any()


# Answers on disk


def test_cache_answers_are_the_teachers_own(small, teacher, points, tmp_path):
    made = Teacher.of(teacher, TASK, small, hidden=True)
    direct = made.answer_fn()(points.x)
    kept = cache_answers(made, points.x, tmp_path, part_bytes=5 * direct.itemsize)
    assert len(kept.parts) == 3
    rows = np.array([11, 0, 4, 5, 9, 10, 5])
    taken = kept.take(rows)
    for name in ("teacher", "states"):
        np.testing.assert_array_equal(taken[name], direct[name][rows])
    logits = FineTuner.of(teacher, LABELS, steps=1).outputs(teacher.params, points.x)
    np.testing.assert_allclose(direct["teacher"], logits, atol=1e-5)


def test_cache_answers_asks_for_the_rows_that_are_visited_only(small, teacher, points, tmp_path):
    made = Teacher.of(teacher, TASK, small, hidden=False)
    tuner = FineTuner.of(teacher, LABELS, steps=2)
    rows = visited_rows([THETA], 12, recipe=tuner.recipe)
    order = np.random.default_rng((0, 0)).permutation(12)
    assert rows.tolist() == sorted(order[:8])
    few = cache_answers(made, points.x, tmp_path / "few", rows=rows)
    every = cache_answers(made, points.x, tmp_path / "every")
    assert few.parts.total("rows") == 8
    taken = [answers.take(order[:8])["teacher"] for answers in (few, every)]
    np.testing.assert_array_equal(*taken)


def test_cache_answers_continue_after_a_kill_and_refuse_others(small, teacher, points, tmp_path):
    made = Teacher.of(teacher, TASK, small, hidden=True)
    size = 5 * made.record(points.x).itemsize
    whole = cache_answers(made, points.x, tmp_path / "whole", part_bytes=size)
    cache_answers(made, points.x, tmp_path / "killed", part_bytes=size)
    file = tmp_path / "killed" / "teacher_answers.json"
    about = json.loads(file.read_text())
    file.write_text(json.dumps(about | {"parts": about["parts"][:1]}))  # as a kill leaves it
    (tmp_path / "killed" / "00002.bin").unlink()
    again = cache_answers(made, points.x, tmp_path / "killed", part_bytes=size)
    assert again.parts.parts == whole.parts.parts
    other = made._replace(checkpoint=fine_tuned(small, seed=2))
    for teacher_, x in ((other, points.x), (made, points.x[::-1])):
        with pytest.raises(ValueError, match="was made from something else"):
            cache_answers(teacher_, x, tmp_path / "whole")


def test_teacher_outputs_stand_in_the_order_of_the_tasks_labels(small, teacher, points, tmp_path):
    turned = replace(teacher, labels=LABELS[::-1])
    one, two = (
        answers_of(t, small, points.x, tmp_path / t.labels[0]).take(np.arange(12))
        for t in (teacher, turned)
    )
    np.testing.assert_array_equal(one["teacher"], two["teacher"][:, ::-1])
    head = FineTuner.of(turned, LABELS, steps=1, distillation=Distillation()).first_head(0)
    turned_back = FineTuner.of(turned, LABELS, steps=1).outputs(turned.params | head, points.x)
    np.testing.assert_allclose(turned_back, two["teacher"], atol=1e-5)


def test_teacher_with_another_tokenizer_reads_the_texts_itself(small, tmp_path):
    theirs = Tokenizer.train(SENTENCES, vocab_size=280)
    config = replace(small.config, vocab_size=theirs.vocab_size)
    teacher = fine_tuned(replace(small, config=config, tokenizer=theirs))
    examples = Examples.of([SENTENCES], np.full(len(SENTENCES), -1))
    own = small.required_tokenizer
    x = examples.encode(own, seq_len=16).x
    made = Teacher.of(teacher, TASK, small, hidden=True)
    assert not made.hidden  # its states are of other tokens
    rows = made.rows(examples, x, own)
    np.testing.assert_array_equal(rows, examples.encode(theirs, seq_len=32).x)
    assert cache_answers(made, rows, tmp_path).take(np.arange(2)).keys() == {"teacher"}
    assert Teacher.of(fine_tuned(small), TASK, small, hidden=True).rows(examples, x, own) is x


# Rows without labels


def test_read_unlabelled_reads_a_text_as_it_stands_and_no_label(tmp_path):
    lines = ["  two  blanks", "", "</s> is text"]
    (tmp_path / "a.txt").write_text("\n".join(lines))
    rows = [{"sentence": text, "label": 7} for text in ("a film", "the end")]
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = Task(columns=("sentence",))
    texts = lambda found: [segment[0].text for ((segment,),) in found.texts]
    found = read_unlabelled(str(tmp_path / "a.txt"), task)
    assert texts(found) == [lines[0], lines[2]] and found.labels.tolist() == [-1, -1]
    found = read_unlabelled(str(tmp_path / "b.jsonl"), task)
    assert texts(found) == ["a film", "the end"] and found.labels.tolist() == [-1, -1]


@pytest.fixture(scope="module")
def folders(small, teacher, tmp_path_factory):
    """A student, a teacher, labelled rows and a text."""
    folder = tmp_path_factory.mktemp("taught")
    save(small, folder / "student")
    save(teacher, folder / "teacher")
    for split in ("train", "validation"):
        rows = [{"text": text, "label": k % 2} for k, text in enumerate(SENTENCES)]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "more.txt").write_text("\n".join(reversed(SENTENCES)))
    return folder


def command(folders, *more):
    student, data = f"--model={folders / 'student'}", f"--data={folders}"
    few = ["--steps=2", "--seq-len=16", "--batch-sizes=[4]", "--labels", "[bad,good]"]
    return ["finetune", student, data, *few, *more]


def test_finetune_with_a_teacher_and_a_text(folders, tmp_path, capsys):
    given = [f"--teacher={folders / 'teacher'}", f"--unlabelled={folders / 'more.txt'}"]
    main(command(folders, *given, "--seeds=[0,1]", "--dropout=0", f"--out={tmp_path / 'run'}"))
    assert "10 train rows with a teacher's answers" in capsys.readouterr().out
    about = json.loads((tmp_path / "run" / "teacher" / "teacher_answers.json").read_text())
    assert sum(part["counts"]["rows"] for part in about["parts"]) == 10
    assert len(json.loads((tmp_path / "run" / "runs.json").read_text())) == 2
    assert load(tmp_path / "run" / "model").labels == LABELS


@pytest.mark.parametrize(
    "more, message",
    [
        (["--teacher={folder}/teacher", "--temperature=0"], "temperature must be positive; got 0"),
        (["--teacher={folder}/teacher", "--label-weight=-1"], "label_weight must not be negative"),
        (
            ["--teacher={folder}/teacher", "--labels", "[poor,good]"],
            "the teacher does not fit: the task (classification) wants a head with poor, good; "
            "this one has bad, good: give these as --labels",
        ),
        (["--teacher={folder}/student"], "must be fine-tuned on the task; it is a masked_lm"),
    ],
)
def test_finetune_refuses_a_teacher_that_does_not_fit(more, message, folders, tmp_path, capsys):
    more = [word.format(folder=folders) for word in more]
    assert message in refused(capsys, *command(folders, *more, f"--out={tmp_path}/run"))
    assert not (tmp_path / "run").exists()


def test_a_layerwise_student_is_taught_scored_and_asked(small, folders, tmp_path, capsys):
    """As extraction writes it, in an orbax folder; what is written loads in stock classes."""
    arch = LayerwiseArch(16, 8, ((0, 0), (2, 5)))
    empty = replace(small, config=replace(small.config, arch=arch))
    save_orbax(empty.with_params(random_params(empty.model, seed=0)), tmp_path / "student")
    given = [f"--teacher={folders / 'teacher'}", f"--model={tmp_path / 'student'}"]
    main(command(folders, *given, "--dropout=0", f"--out={tmp_path / 'run'}"))
    model = tmp_path / "run" / "model"
    assert load(model).config.arch == arch
    rows = f"--model {model} --data {folders}/validation.jsonl --seq-len 16"
    main(f"evaluate {rows} --out {tmp_path}/scores".split())
    scores = json.loads((tmp_path / "scores" / "scores.json").read_text())
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert scores["accuracy"] == results["best_validation"]
    lines = (tmp_path / "scores" / "predictions.jsonl").read_text().splitlines()
    assert len(lines) == len(SENTENCES)
    models = load_models(str(tmp_path / "student"), str(model), None, seq_len=16)
    assert models.timaeus.config.arch == models.socrates.config.arch == arch

# SPDX-License-Identifier: Apache-2.0
"""The options of Agora on one task."""

from dataclasses import dataclass

from bort_jax.engine.joining import Joining
from bort_jax.stages.agora.augment import Augmentation
from bort_jax.stages.agora.grid import Grid
from bort_jax.stages.agora.labellers import Asking
from bort_jax.tasks import TaskOptions

MODELS = {
    "model": "the student, a pretrained checkpoint",
    "socrates": "a trained classifier, python:MODULE:FUNCTION, or command:PROGRAM",
}


@dataclass(frozen=True)
class Config(TaskOptions, Grid, Augmentation, Asking, Joining):
    """Agora on one task. Lists are written [a,b].

    Attributes:
      model: Timaeus, the student: the pretrained checkpoint that is fine-tuned.
      socrates: Socrates, the teacher whose pseudo-labels join the train set, accuracy above 2/3: a
        trained classifier of the task, which may have another tokenizer; `python:MODULE:FUNCTION`;
        or `command:PROGRAM` with its arguments, which reads and writes JSON lines.
      masked_lm: the masked LM that τ `mlm` resamples with.
      out: run folder; the best classifier is written to `OUT/model`.
      steps: training steps of each fine-tuning, whatever the size of the data.
      seq_len: tokens in a row.
      final_seeds: plain fine-tuning and Agora are compared with each of these, Agora on all rows
        that its rounds have made.
      soft_labels: Socrates' probabilities are trained on, with a temperature fitted on the steering
        half of validation; false: his likeliest class alone.
      max_class_shift: how far a class's share of the train set may rise above its share of the
        given one; 1: as Socrates' labels have it.
      min_confidence: pseudo-labels that are less confident do not join; of no account for scores.
      one_vs_rest: a class: the task becomes that class against the rest.
      score_thresholds: rising scores: a task of scores becomes one of classes between them.
      steer_fraction: fraction of validation that guides Agora; it never reads the rest.
      folds: for a task without a validation split: the train rows guide Agora themselves, by the
        mistakes of a cross-validation with so many folds; as many rows as a fold has are kept
        aside, neither trained on nor read, to score the end. A fine-tuning costs `folds` as many.
      drop_leaks: leave out train rows that stand in validation or test, rather than refuse them.
      allow_weak_socrates: go on with a Socrates that is no better than chance.
      ignore_checks: go on where a check beforehand says that Agora will not help.
      replay: folder of a finished or interrupted run: start from one of its rounds.
      replay_after: the round whose data set a replay starts from; 0 is the given one.
      replay_full_theta: a replay has all of Θ again, rather than what the round left of it.
      curve: draw accuracy by calls beside as many random texts of the pool, where there are a pool
        and a budget. It takes more fine-tunings; calls for random texts are beside the budget, so
        that only a checkpoint is asked for those.
      dropout: everywhere BERT has it.
      dtype: of the operands of products: float32 or bfloat16, faster where the device has units
        for it.
    """

    model: str = ""
    socrates: str = ""
    masked_lm: str = ""
    out: str = "runs/agora"
    steps: int = 300
    seq_len: int = 128
    final_seeds: tuple[int, ...] = (0, 1, 2)
    soft_labels: bool = True
    max_class_shift: float = 1.0
    min_confidence: float = 0.0
    one_vs_rest: str = ""
    score_thresholds: tuple[float, ...] = ()
    steer_fraction: float = 0.5
    folds: int = 0
    drop_leaks: bool = False
    allow_weak_socrates: bool = False
    ignore_checks: bool = False
    replay: str = ""
    replay_after: int = 0
    replay_full_theta: bool = False
    curve: bool = True
    dropout: float = 0.1
    dtype: str = "float32"

    def check_models(self) -> None:
        """Raises ValueError where a model that the run needs is not named."""
        for name, what in MODELS.items():
            if not getattr(self, name):
                raise ValueError(f"--{name} is needed: {what}")
        if "mlm" in self.weights and not self.masked_lm:
            raise ValueError(
                "τ mlm needs --masked-lm CHECKPOINT; without one give --tau [neighbour,mix], or "
                "--pool FILE of unlabelled rows"
            )

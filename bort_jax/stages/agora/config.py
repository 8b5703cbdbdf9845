# SPDX-License-Identifier: Apache-2.0
"""The options of Agora on one task."""

from dataclasses import dataclass

from bort_jax.engine.joining import Joining
from bort_jax.tasks import TaskOptions


@dataclass(frozen=True)
class Config(TaskOptions, Joining):
    """Agora on one task. Lists are written [a,b]; names with one value are not part of Θ.

    Attributes:
      model: Timaeus: the pretrained checkpoint that is fine-tuned.
      socrates: a trained classifier of the task, accuracy above 2/3; it may have another tokenizer.
      masked_lm: the masked LM that τ `mlm` resamples with.
      out: run folder; the best classifier is written to `OUT/model`.
      steps: gradient steps of each fine-tuning, whatever the size of the data.
      seq_len: tokens in a row.
      learning_rate: choices of Θ.
      weight_decay: choices of Θ.
      warmup_ratio: choices of Θ.
      batch_size: choices of Θ.
      seed: choices of Θ.
      final_seeds: plain fine-tuning and Agora are compared with each of these.
      tau: one or several of mlm, neighbour and mix, each with a share if wanted: [mlm:3,mix:1].
      side: which text of a pair τ changes, 1 or 2; 0: both.
      copies: new points τ makes near each mistake.
      right: rows that the best copy gets right, near which points are made too, for each mistake.
      share: share of a text's tokens that τ changes.
      passes: passes in which τ `mlm` resamples that share.
      neighbours: of how many nearest tokens τ `neighbour` draws.
      distance: how far a new point is from its parent: `tokens`, the share that changed, or cosine
        distance in what Timaeus's encoder makes of both, of the `first` token or the `mean`.
      nearest: smallest distance of a new point from its parent.
      farthest: largest distance.
      drift: how far a class's share of the train set may rise above its share of the given one.
      confidence: least confidence of Socrates in the label of a new point; below it none joins.
      one_against: a class: the task becomes that class against the rest.
      thresholds: rising scores: a task of scores becomes one of classes between them.
      steer: share of validation that steers; the rest only reports.
      drop_leaks: leave out train rows that stand in validation or test, rather than refuse them.
      any_socrates: go on with a Socrates that is no better than chance.
      replay: folder of a finished or interrupted run: start from one of its rounds.
      after: the round whose data set a replay starts from; 0 is the given one.
      fresh: a replay has all of Θ again, rather than what the round left of it.
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
    learning_rate: tuple[float, ...] = (1e-4, 1e-5, 9e-6)
    weight_decay: tuple[float, ...] = (0.0, 10.0, 100.0, 350.0)
    warmup_ratio: tuple[float, ...] = (0.35, 0.40, 0.45, 0.50)
    batch_size: tuple[int, ...] = (8, 16)
    seed: tuple[int, ...] = (0, 1, 2, 3, 4)
    final_seeds: tuple[int, ...] = (0, 1, 2)
    tau: tuple[str, ...] = ("mlm",)
    side: int = 0
    copies: int = 2
    right: float = 0.0
    share: float = 0.2
    passes: int = 2
    neighbours: int = 10
    distance: str = "tokens"
    nearest: float = 0.0
    farthest: float = 1.0
    drift: float = 0.1
    confidence: float = 0.0
    one_against: str = ""
    thresholds: tuple[float, ...] = ()
    steer: float = 0.5
    drop_leaks: bool = False
    any_socrates: bool = False
    replay: str = ""
    after: int = 0
    fresh: bool = False
    dropout: float = 0.1
    dtype: str = "float32"

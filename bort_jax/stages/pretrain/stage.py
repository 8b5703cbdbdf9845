# SPDX-License-Identifier: Apache-2.0
"""What a pretraining works on: its text, its model and first weights, and its teacher."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from bort_jax.arch import Arch
from bort_jax.data.prepared import Corpus, prepare_corpus
from bort_jax.data.tokenizer import Tokenizer
from bort_jax.engine.optimizer import Hyper
from bort_jax.engine.parallel import BoundStep
from bort_jax.engine.processes import leader_first
from bort_jax.engine.step import State, new_state
from bort_jax.interop import Checkpoint, load
from bort_jax.model import BertConfig, MaskedLM
from bort_jax.stages.pretrain.config import HOUR, PretrainConfig
from bort_jax.stages.pretrain.objectives import Stream, step_function, stream_of, with_map
from bort_jax.stages.pretrain.starting import initial_params, starting_point
from bort_jax.stages.pretrain.teacher import fingerprint
from bort_jax.stages.pretrain.teacher_cache import CachedTeacherStream


class Stage(NamedTuple):
    """Everything that a pretraining reads.

    Attributes:
      config: its options.
      corpus: the text.
      model: what is trained.
      params: its first weights, in numpy, and those of the map to the teacher's hidden states.
      stream: the batches.
      teacher: whom it learns from, or None.
      start: the checkpoint of `init_from`, or None.
    """

    config: PretrainConfig
    corpus: Corpus
    model: MaskedLM
    params: Any
    stream: Stream
    teacher: Checkpoint | None
    start: Checkpoint | None

    @classmethod
    def of(cls, config: PretrainConfig) -> "Stage":
        """Reads the checkpoints and builds the corpus, where it is not built.

        Raises:
          ValueError: a checkpoint that does not fit.
        """
        teacher = load(config.teacher) if config.teacher else None
        start = starting_point(config)
        corpus = leader_first(lambda: corpus_of(config))
        model = MaskedLM(model_config(config, corpus, start=start), config.remat)
        params = with_map(initial_params(model, start, seed=config.seed), config, teacher)
        stream = stream_of(corpus, config, teacher)
        return cls(config, corpus, model, params, stream, teacher, start)

    def new_state(self) -> State:
        return new_state(
            self.params,
            hyper(self.config),
            optimizer=self.config.optimizer,
        )

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint must have in common with a run that continues it."""
        return identity(self.config, self.corpus) | {"teacher": self.taught_by}

    @property
    def taught_by(self) -> str | None:
        """Fingerprint of the teacher, whether it runs or is cached."""
        if isinstance(self.stream, CachedTeacherStream):
            return self.stream.cache.made_from["teacher_sha256"]
        return fingerprint(self.teacher) if self.teacher else None

    def step(self, *, clock: Callable[[], float] | None = None) -> BoundStep:
        return step_function(self.model, self.config, self.teacher, clock=clock)


def corpus_of(config: PretrainConfig) -> Corpus:
    """The prepared corpus; a student reads its text with its teacher's tokenizer."""
    return prepare_corpus(
        config.data,
        Path(config.out) / "data",
        column=config.column,
        tokenizer=config.tokenizer or config.teacher or config.init_from,
        vocab_size=config.vocab_size,
    )


def identity(config: PretrainConfig, corpus: Corpus) -> dict[str, Any]:
    """What a checkpoint must have in common with whoever reads it, though the teacher be gone."""
    return {
        "architecture": str(Arch.parse(config.arch)),
        "tokenizer": corpus.tokenizer.sha256,
        "data manifest": corpus.sha256,
        "seed": config.seed,
        "rows of a batch": config.batch_size,
        "tokens of a row": config.seq_len,
    }


def hyper(config: PretrainConfig) -> Hyper:
    """The schedule is in steps, or in seconds where the run has hours."""
    return Hyper.of(
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        warmup_ratio=config.warmup_ratio,
        total_steps=config.steps if config.hours is None else config.hours * HOUR,
    )


def model_config(
    config: PretrainConfig, corpus: Corpus, *, start: Checkpoint | None = None
) -> BertConfig:
    """The model's shapes; what the options do not say is as in `start`.

    Raises:
      ValueError: `start` was trained on another vocabulary.
    """
    given = BertConfig(
        arch=Arch.parse(config.arch),
        vocab_size=corpus.tokenizer.vocab_size,
        positions=config.positions,
        dropout=config.dropout,
        dtype=config.dtype,
    )
    if start is None:
        return given
    if start.config.vocab_size != given.vocab_size:
        raise ValueError(
            f"{config.init_from} has {start.config.vocab_size} tokens, the corpus "
            f"{given.vocab_size}: a model goes on only with its own vocabulary"
        )
    # Rows of running text are no pairs: all token types are 0.
    return replace(start.config, dropout=config.dropout, dtype=config.dtype, separator=None)


def trained_checkpoint(
    model: MaskedLM,
    params: Any,
    start: Checkpoint | None,
    *,
    tokenizer: Tokenizer,
    facts: Mapping[str, str],
) -> Checkpoint:
    """A trained model with its tokenizer, in the family of what it started from."""
    family = start.family if start else "bert"
    trained = Checkpoint(model.config, params, family=family, facts=facts)
    return trained.with_tokenizer(tokenizer, source="the corpus")

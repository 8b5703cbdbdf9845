# SPDX-License-Identifier: Apache-2.0
"""Everything that a pretraining computes with: text, model, first weights, teacher, recipe."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from bort_jax.data.prepared import Corpus
from bort_jax.data.tokenizer import Tokenizer
from bort_jax.engine.parallel import BoundStep, parallel_step
from bort_jax.engine.step import State, new_state
from bort_jax.interop import Checkpoint
from bort_jax.interop.description import fingerprint
from bort_jax.model import MaskedLM
from bort_jax.stages.pretrain.objectives import Stream, objective, without_map
from bort_jax.stages.pretrain.recipe import Recipe
from bort_jax.stages.pretrain.teacher_cache import CachedTeacherStream


class Setup(NamedTuple):
    """Everything that a pretraining computes with.

    Attributes:
      recipe: losses and updates.
      corpus: the text.
      model: the student.
      params: its first weights, in numpy, and those of the map to the teacher's hidden states.
      stream: the batches.
      run_key: what a checkpoint has in common with a run that continues it; no teacher in it.
      teacher: the model that is distilled, or None.
      start: the checkpoint that the first weights come from, or None.
    """

    recipe: Recipe
    corpus: Corpus
    model: MaskedLM
    params: Any
    stream: Stream
    run_key: Mapping[str, Any]
    teacher: Checkpoint | None = None
    start: Checkpoint | None = None

    @property
    def teacher_sha256(self) -> str | None:
        """Fingerprint of the teacher, whether it runs or is cached."""
        if isinstance(self.stream, CachedTeacherStream):
            return self.stream.cache.made_from["teacher_sha256"]
        return fingerprint(self.teacher) if self.teacher else None

    def new_state(self) -> State:
        return new_state(self.params, self.recipe.hyper, optimizer=self.recipe.optimizer)

    def step(self, *, clock: Callable[[], float] | None = None) -> BoundStep:
        """`(state, batch) -> (state, metrics)`, with the teacher and the key already inside."""
        cached = isinstance(self.stream, CachedTeacherStream)
        loss, frozen = objective(self.model, self.recipe.losses, self.teacher, cached=cached)
        step = parallel_step(
            loss,
            optimizer=self.recipe.optimizer,
            clip=self.recipe.clip,
            accumulate=self.recipe.accumulation_steps,
            clock=clock,
        )
        return step.bind(frozen, jax.random.key(self.recipe.seed))


def student_checkpoint(
    model: MaskedLM,
    state: State,
    *,
    tokenizer: Tokenizer,
    start: Checkpoint | None,
    facts: Mapping[str, str],
) -> Checkpoint:
    """The student of a state with its tokenizer, in the family of what it started from."""
    family = start.family if start else "bert"
    params = without_map(jax.device_get(state.params))
    trained = Checkpoint(model.config, params, family=family, facts=facts)
    return trained.with_tokenizer(tokenizer, source="the corpus")

# SPDX-License-Identifier: Apache-2.0
"""A frozen teacher in the arithmetic of the device, and checks that it fits."""

from dataclasses import replace
from typing import Any, NamedTuple

from bort_jax.data.tokenizer import Tokenizer
from bort_jax.interop import Checkpoint
from bort_jax.model import BertConfig, Headless, MaskedLM, forward, states_and_logits
from bort_jax.stages.predict.forward import for_device


class Teacher(NamedTuple):
    """A frozen encoder, with a masked-LM head or without.

    Attributes:
      config: its dtype is that of the arithmetic.
      params: of that dtype too.
      has_head: whether it predicts tokens.
    """

    config: BertConfig
    params: Any
    has_head: bool

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> "Teacher":
        narrow = for_device(checkpoint)
        # Rows of running text are no pairs: all token types are 0.
        config = replace(narrow.config, separator=None)
        return cls(config, narrow.params, checkpoint.head == "masked_lm")

    def run(self, params, batch) -> tuple[Any, Any]:
        """Hidden states [b, s, h], and logits [b, m, v] or None, of one pass.

        Args:
          params: `self.params`, as they are on the devices.
        """
        inputs = (batch["ids"], batch["mask"])
        if self.has_head:
            return states_and_logits(MaskedLM(self.config), params, *inputs, batch["positions"])
        encoder = {"encoder": params["encoder"]}
        return forward(Headless(self.config), encoder, *inputs), None


def check_reads(teacher: Checkpoint, tokenizer: Tokenizer, *, seq_len: int) -> None:
    """Raises ValueError where the teacher cannot read the student's rows."""
    theirs = teacher.tokenizer
    if theirs is not None and theirs.sha256 != tokenizer.sha256:
        raise ValueError(
            f"the teacher's tokenizer has {theirs.vocab_size} tokens ({theirs.sha256[:8]}…), the "
            f"student's {tokenizer.vocab_size} ({tokenizer.sha256[:8]}…): an id means another "
            "token to each, and neither distributions nor hidden states can be compared; build "
            "the corpus with the teacher's tokenizer"
        )
    if teacher.config.vocab_size < tokenizer.vocab_size:
        raise ValueError(
            f"the teacher has {teacher.config.vocab_size} tokens, the student "
            f"{tokenizer.vocab_size}: it has no embedding for some of them"
        )
    if teacher.config.positions < seq_len:
        raise ValueError(
            f"the teacher reads {teacher.config.positions} tokens, the rows have {seq_len}"
        )


def check_predicts(teacher: Checkpoint, vocab_size: int) -> None:
    """Raises ValueError where the teacher has no distribution over the student's tokens."""
    if teacher.head != "masked_lm":
        raise ValueError(
            "the teacher has no masked-LM head, and so no distribution to learn from; with "
            "--distill-weight 0 --hidden-weight 1 its hidden states are learnt"
        )
    if teacher.config.vocab_size != vocab_size:
        raise ValueError(
            f"the teacher has {teacher.config.vocab_size} tokens, the student {vocab_size}: their "
            "distributions cannot be compared"
        )

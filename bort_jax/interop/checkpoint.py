# SPDX-License-Identifier: Apache-2.0
"""A model with its parameters, in memory: what every format is read into and written from."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from typing import Any

from bort_jax.arch import Arch, LayerwiseArch
from bort_jax.data.tokenizer import Tokenizer
from bort_jax.interop.bounds import check_texts, fraction_of, int_of
from bort_jax.model import DTYPES, BertConfig, Classifier, Headless, MaskedLM

PROBLEMS = ("classification", "regression", "choice")
MOST_LAYERS = 10_000  # in a description, which alone does not say how large its file is


@dataclass(frozen=True)
class Checkpoint:
    """A model with its parameters.

    Attributes:
      config: shapes and arithmetic.
      params: tree of float32 numpy arrays.
      labels: class names of a classifier; empty for other models.
      tokenizer: what the ids mean; None where the folder has none.
      headless: there is an encoder and no head; then there are no labels.
      family: `bert` or `roberta`, the stock classes that it is written for.
      problem: what a head with labels answers: `classification`, `regression` (its one output is a
        number) or `choice` (its one output says how right a row is among its rivals).
      facts: what the model card says of it beside its architecture, such as data and scores.
      notes: what reading it left aside, a sentence each.
    """

    config: BertConfig
    params: Any
    labels: tuple[str, ...] = ()
    tokenizer: Tokenizer | None = None
    headless: bool = False
    family: str = "bert"
    problem: str = "classification"
    facts: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def head(self) -> str:
        """`masked_lm`, `classifier`, `choice` or `none`."""
        if self.labels and self.problem == "choice":
            return "choice"
        return "classifier" if self.labels else "none" if self.headless else "masked_lm"

    @property
    def model(self) -> Any:
        """The Linen module: `Classifier`, `Headless` or `MaskedLM`."""
        if self.labels:
            return Classifier(self.config, len(self.labels))
        return Headless(self.config) if self.headless else MaskedLM(self.config)

    @property
    def required_tokenizer(self) -> Tokenizer:
        """The tokenizer; raises ValueError where the folder has none."""
        if self.tokenizer is None:
            raise ValueError("the checkpoint has no tokenizer.json: its ids cannot be read")
        return self.tokenizer

    def with_params(self, params) -> "Checkpoint":
        """The same model with other parameters."""
        return replace(self, params=params)

    def with_tokenizer(self, tokenizer: Tokenizer | None, *, source: str) -> "Checkpoint":
        """The same with a tokenizer; BERT's separator is where token types change.

        RoBERTa's tokenizer gives type 0 to both texts of a pair; its padding takes no position.

        Raises:
          ValueError: the tokenizer has another number of tokens than the embedding table, or ids
            beyond it.
        """
        if tokenizer is None:
            return self
        if tokenizer.vocab_size != self.config.vocab_size:
            raise ValueError(
                f"{source}: the tokenizer has {tokenizer.vocab_size} tokens, the model "
                f"{self.config.vocab_size}; they must be of one size"
            )
        tokenizer.check_ids()
        typed = self.config.token_types > 1 and tokenizer.separators == 1
        separator = tokenizer.special.eos if typed else None
        padding = tokenizer.special.pad if self.family == "roberta" else None
        config = replace(self.config, separator=separator, padding=padding)
        return replace(self, tokenizer=tokenizer, config=config)

    def description(self) -> dict:
        """All but parameters, tokenizer and notes, as JSON has it; `of_description` reads it."""
        return {
            "config": asdict(self.config) | {"arch": str(self.config.arch)},
            "labels": list(self.labels),
            "headless": self.headless,
            "family": self.family,
            "problem": self.problem,
            "facts": dict(self.facts),
        }

    @classmethod
    def of_description(cls, described: dict, *, source: str) -> "Checkpoint":
        """A checkpoint without parameters.

        Raises:
          ValueError: a field is missing, or holds what it cannot.
        """
        try:
            config, labels = _config(described["config"], source), described["labels"]
            problem = described.get("problem", "classification")
            headless, family = described["headless"], described["family"]
            facts = check_texts(described["facts"], "facts", source)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{source} is not the description of a checkpoint: {error}") from error
        named = isinstance(labels, list) and all(isinstance(name, str) for name in labels)
        if not named or type(headless) is not bool or family not in ("bert", "roberta"):
            raise ValueError(f"{source}: labels, headless and family must be texts, truth and name")
        if problem not in PROBLEMS:
            raise ValueError(f"{source}: problem must be one of {PROBLEMS}; got {problem!r}")
        empty = cls(config, None, tuple(labels), headless=headless, family=family, facts=facts)
        return replace(empty, problem=problem)


def _config(sizes: dict, source: str) -> BertConfig:
    fields: dict[str, Any] = sizes | {"arch": _arch(str(sizes["arch"]))}
    config = BertConfig(**fields)
    for name, least in (("vocab_size", 1), ("positions", 1), ("token_types", 0)):
        int_of(sizes, name, source, least=least)
    for size in (config.arch.hidden, config.arch.head_size, *chain(*config.arch.sizes())):
        int_of({"arch": size}, "arch", source)
    for name in ("dropout", "layer_norm_eps", "head_norm_eps"):
        if name != "head_norm_eps" or sizes.get(name) is not None:
            fraction_of(sizes, name, source, default=0.0)
    for name in ("separator", "padding"):
        if sizes.get(name) is not None:
            int_of(sizes, name, source, least=0)
    if config.dtype not in DTYPES:
        raise ValueError(
            f"{source}: dtype must be one of {', '.join(DTYPES)}; got {config.dtype!r}"
        )
    return config


def _arch(text: str) -> Arch | LayerwiseArch:
    """The architecture; one of absurd depth is refused here, before its layers are counted."""
    if not text.startswith("D"):
        return LayerwiseArch.parse(text)
    arch = Arch.parse(text)
    if arch.depth > MOST_LAYERS:
        raise ValueError(f"{arch}: at most {MOST_LAYERS} layers are known")
    return arch
